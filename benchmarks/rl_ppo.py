"""PPO of stable-baselines3 with Adan and with Adam, side by side, on a continuous control task of gymnasium.

    python benchmarks/rl_ppo.py [--env HalfCheetah-v5] [--json FILE] [--plot FILE.svg]

Both optimizers get the same number of learning rates, each tried in one short run of a seed that is not used again;
then the best rate of each is run with every seed. Everything else is PPO's default of stable-baselines3, observations
and rewards normalised by their running moments. The score of a run is the mean return of the episodes that ended in
the last quarter of its steps, while it was learning. With --json every run is written when it ends, and a benchmark
that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.low_precision import earlier_runs
from nlp_adan import Adan
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.progress import progress
from nlp_adan.race.statistics import t_interval
from nlp_adan.reporting.document import standalone
from nlp_adan.reporting.plots import Trace, trace_plot
from nlp_adan.storage import finite, write_json, write_text

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"Adam": torch.optim.Adam, "Adan": Adan}
# Three rates each, a factor of 3 apart; stable-baselines3's default for Adam is the middle one.
RATES = {"Adam": [1e-4, 3e-4, 1e-3], "Adan": [3e-4, 1e-3, 3e-3]}
PACKAGES = {"stable_baselines3": "stable-baselines3", "gymnasium": "gymnasium[mujoco]"}
SEARCH_SEED = 1000  # none of the seeds that are compared
SCORED_PART = 0.25  # of a run's steps, at its end
NUM_POINTS = 15  # of a learning curve
RANDOM_EPISODES = 10
NUM_COPIES = 4  # of the environment, side by side in one process
CONFIDENCE = 0.95  # of the interval of the difference
Run = dict[str, Any]


def train(name: str, rate: float, seed: int, steps: int, options: argparse.Namespace, bar: Any) -> Run:
    """One run of PPO, as the JSON file keeps it; its score is NaN where the policy was no longer finite."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    environment = VecNormalize(make_vec_env(options.env, n_envs=NUM_COPIES, seed=seed))
    model = PPO(
        "MlpPolicy", environment, learning_rate=rate, n_steps=options.rollout // NUM_COPIES, seed=seed, device="cpu",
        policy_kwargs={"optimizer_class": OPTIMIZERS[name]},
    )  # fmt: skip
    episodes: list[tuple[int, float]] = []

    def on_step(values: dict[str, Any], _: dict[str, Any]) -> bool:
        episodes.extend((model.num_timesteps, info["episode"]["r"]) for info in values["infos"] if "episode" in info)
        bar.update(NUM_COPIES)
        return True

    started, diverged = time.process_time(), False
    try:
        model.learn(steps, callback=on_step)
    except ValueError:  # an action's distribution of NaN
        diverged = not all(parameter.isfinite().all() for parameter in model.policy.parameters())
        if not diverged:
            raise
    finally:
        environment.close()
    return {
        "optimizer": name,
        "learning_rate": rate,
        "seed": seed,
        "steps": steps,
        "score": math.nan if diverged else score(episodes, steps),
        "cpu_seconds": round(time.process_time() - started, 1),
        "curve": curve(episodes, steps),
    }


def score(episodes: Sequence[tuple[int, float]], steps: int) -> float:
    """Mean return of the episodes that ended in the last quarter. Raises UserError where none did."""
    returns = [value for step, value in episodes if step > (1 - SCORED_PART) * steps]
    if not returns:
        raise UserError(
            f"no episode ended in the last quarter of {steps} steps; give more with --steps, --search-steps"
        )
    return round(float(statistics.fmean(returns)), 1)


def random_score(env: str) -> float:
    """Mean return of episodes of random actions: what nothing learned has."""
    import gymnasium

    environment, total = gymnasium.make(env), 0.0
    environment.action_space.seed(SEARCH_SEED)
    for episode in range(RANDOM_EPISODES):
        environment.reset(seed=SEARCH_SEED + episode)
        ended = False
        while not ended:
            _, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
            total += float(reward)
            ended = terminated or truncated
    environment.close()
    return round(total / RANDOM_EPISODES, 1)


def best_rate(runs: Sequence[Run], name: str) -> float:
    """The learning rate of an optimizer's search with the best score. Raises UserError where all diverged."""
    tried = {run["learning_rate"]: run["score"] for run in runs if run["optimizer"] == name and is_search(run)}
    whole = {rate: value for rate, value in tried.items() if value is not None and not math.isnan(value)}
    if not whole:
        raise UserError(f"{name} diverged at every learning rate ({', '.join(map(str, tried))}): give smaller ones")
    return max(whole, key=lambda rate: whole[rate])


def is_search(run: Run) -> bool:
    return bool(run["seed"] == SEARCH_SEED)


def curve(episodes: Sequence[tuple[int, float]], steps: int) -> list[float | None]:
    """Mean return of the episodes that ended in each of NUM_POINTS parts of a run; None for a part without one."""
    parts: list[list[float]] = [[] for _ in range(NUM_POINTS)]
    for step, value in episodes:
        parts[math.ceil(step * NUM_POINTS / steps) - 1].append(value)
    return [round(statistics.fmean(returns), 1) if returns else None for returns in parts]


def mean_curve(runs: Sequence[Run], steps: int) -> Trace:
    """The mean over runs at each part that all of them have, and the range over runs as a band."""
    points, band = [], []
    for part, means in enumerate(zip(*(run["curve"] for run in runs), strict=True), 1):
        if None not in means:
            points.append((part * steps / NUM_POINTS, statistics.fmean(means)))
            band.append((min(means), max(means)))
    return Trace(points, band)


def plot(runs: Sequence[Run], steps: int) -> str:
    """The learning curves as an SVG file's text."""
    traces = {}
    for place, name in enumerate(OPTIMIZERS):
        own = [run for run in runs if run["optimizer"] == name and not is_search(run)]
        drawn = mean_curve(own, steps)
        title = f"{name}, learning rate {own[0]['learning_rate']:g}"
        traces[title] = Trace(drawn.points, drawn.band, colour=place, dash=place)
    return standalone(trace_plot(traces, "steps of the environment", "return of an episode"))


def summarize(runs: Sequence[Run], random: float) -> dict[str, Any]:
    """Of each optimizer: search, scores by seed, mean, spread, cost; and the difference, paired by seed.

    The difference is None where a run diverged, its interval where there is one seed.
    """
    summary: dict[str, Any] = {"random_actions": random, "optimizers": {}}
    scores: dict[str, dict[int, float]] = {}
    for name in OPTIMIZERS:
        search = [run for run in runs if run["optimizer"] == name and is_search(run)]
        own = [run for run in runs if run["optimizer"] == name and not is_search(run)]
        scores[name] = {run["seed"]: math.nan if run["score"] is None else run["score"] for run in own}
        values = list(scores[name].values())
        whole = all(map(math.isfinite, values))
        summary["optimizers"][name] = {
            "search": {f"{run['learning_rate']:g}": run["score"] for run in search},
            "learning_rate": own[0]["learning_rate"],
            "scores": values,
            "mean": statistics.fmean(values),
            "standard_deviation": statistics.stdev(values) if len(values) > 1 and whole else None,
            "cpu_seconds": sum(run["cpu_seconds"] for run in own) / len(own),
        }
    differences = [scores["Adan"][seed] - scores["Adam"][seed] for seed in scores["Adan"]]
    whole = all(map(math.isfinite, differences))
    summary["difference"] = t_interval(differences, CONFIDENCE).to_json() if whole else None
    return summary


def verdict(difference: dict[str, Any] | None) -> str:
    """The answer in a sentence, from a summary's difference."""
    if difference is None:
        return "a run diverged: see the table"
    told, low, high = f"Adan minus Adam {difference['mean']:+.0f}", difference["low"], difference["high"]
    if low is None:
        return f"{told}; that has no spread to judge it by"
    told = f"({told}, 95 % interval {low:+.0f} to {high:+.0f})"
    return f"no difference shown {told}" if low <= 0 <= high else f"{'Adan' if low > 0 else 'Adam'} is ahead {told}"


def as_markdown(summary: dict[str, Any], settings: dict[str, Any]) -> str:
    """The verdict, then a row for each optimizer and one of random actions."""

    def cell(value: float | None) -> str:
        return "-" if value is None else "diverged" if math.isnan(value) else f"{value:,.0f}"

    def tried(row: dict[str, Any]) -> str:
        cells = [(rate, math.nan if value is None else value) for rate, value in row["search"].items()]
        chosen = f"{row['learning_rate']:g}"
        words = {rate: f"{rate}: {cell(value)}" for rate, value in cells}
        return ", ".join(f"**{text}**" if rate == chosen else text for rate, text in words.items())

    lines = [
        f"{settings['env']}, {settings['steps']:,} steps: {verdict(summary['difference'])}",
        "",
        f"| optimizer | learning rates tried: return after {settings['search_steps']:,} steps | return, by seed | mean "
        "| std | CPU seconds a run |",
        "|---|---|---|--:|--:|--:|",
    ]
    for name, row in summary["optimizers"].items():
        by_seed = ", ".join(cell(value) for value in row["scores"])
        numbers = [cell(row["mean"]), cell(row["standard_deviation"]), f"{row['cpu_seconds']:.0f}"]
        lines.append(f"| {name} | {tried(row)} | {by_seed} | {' | '.join(numbers)} |")
    lines.append(f"| random actions | | | {cell(summary['random_actions'])} | | |")
    return "\n".join(lines)


def rates(text: str) -> list[float]:
    """Positive learning rates with commas between."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) <= 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give different positive rates with commas between")
    return found


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--env", default="HalfCheetah-v5", help="gymnasium's name of a task with actions in a box (%(default)s)"
    )
    parser.add_argument("--adam-rates", type=rates, default=RATES["Adam"], help="learning rates to try (%(default)s)")
    parser.add_argument("--adan-rates", type=rates, default=RATES["Adan"], help="as many for Adan (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results; an interrupted benchmark goes on from here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the learning curves here, as SVG")
    numbers = {
        "--steps": (61_440, "steps of the environment in a run"),
        "--search-steps": (20_480, "likewise, in a run of the search"),
        "--rollout": (2048, "steps between two updates, a multiple of 4; runs are rounded up to whole ones"),
        "--seeds": (3, "runs of each optimizer"),
    }
    for name, (default, meaning) in numbers.items():
        parser.add_argument(name, type=int, default=default, help=f"{meaning} (%(default)s)")
    options = parser.parse_args(arguments)
    for name in numbers:
        if getattr(options, name[2:].replace("-", "_")) < 1:
            parser.error(f"{name} must be 1 or more")
    if options.rollout % NUM_COPIES:
        parser.error(f"--rollout must be a multiple of {NUM_COPIES}")
    if not options.seeds < SEARCH_SEED:
        parser.error(f"--seeds must be less than {SEARCH_SEED}")
    if len(options.adam_rates) != len(options.adan_rates):
        parser.error("--adam-rates and --adan-rates must be equally many: the search costs both the same")
    for name in ("steps", "search_steps"):
        setattr(options, name, -(-getattr(options, name) // options.rollout) * options.rollout)
    return options


def check_installation(env: str) -> None:
    """Raise UserError where a package is missing, or gymnasium cannot make the task."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        words = " ".join(f"'{package}'" for package in missing)
        raise UserError(f"{', '.join(missing)} not installed; `pip install {words}` (docs/rl.md)")
    import gymnasium

    try:
        gymnasium.make(env).close()
    except gymnasium.error.Error as error:
        raise UserError(f"--env {env}: {str(error).splitlines()[0]}") from None


def run_missing(runs: list[Run], options: argparse.Namespace, save: Callable[[list[Run]], None]) -> None:
    """Search, then every seed at the best rates; of both, what `runs` does not have yet."""
    given = {"Adam": options.adam_rates, "Adan": options.adan_rates}
    done = {(run["optimizer"], run["learning_rate"], run["seed"]) for run in runs}
    all_steps = sum(map(len, given.values())) * options.search_steps + len(given) * options.seeds * options.steps
    with progress(description="PPO", unit="step", total=all_steps, initial=sum(run["steps"] for run in runs)) as bar:

        def run_one(name: str, rate: float, seed: int, steps: int) -> None:
            if (name, rate, seed) not in done:
                bar.set_description(
                    f"{name}, learning rate {rate:g}, " + ("search" if seed == SEARCH_SEED else f"seed {seed}")
                )
                runs.append(train(name, rate, seed, steps, options, bar))
                save(runs)

        for name in given:
            for rate in given[name]:
                run_one(name, rate, SEARCH_SEED, options.search_steps)
        # Both of a seed, then the next seed: other work on the machine meets both alike.
        for seed in range(options.seeds):
            for name in given:
                run_one(name, best_rate(runs, name), seed, options.steps)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run what is missing, print the table, write JSON and plot."""
    options = parse_arguments(arguments)
    check_installation(options.env)
    torch.set_num_threads(1)  # networks of two layers of 64: more threads only wait for each other
    names = ("env", "adam_rates", "adan_rates", "steps", "search_steps", "rollout", "seeds")
    settings = {name: getattr(options, name) for name in names}
    settings |= {name: metadata.version(name) for name in ("stable-baselines3", "gymnasium", "torch")}
    runs = earlier_runs(options.json, settings)

    def save(content: Any) -> None:
        if options.json:
            write_json(options.json, finite(content))

    run_missing(runs, options, lambda found: save({"settings": settings, "runs": found}))
    summary = summarize(runs, random_score(options.env))
    headline = {name: row["mean"] for name, row in summary["optimizers"].items()}
    headline["difference"] = summary["difference"]
    save({"settings": settings, "headline": headline, "summary": summary, "runs": runs})
    if options.plot:
        write_text(options.plot, plot(runs, options.steps))
    print(as_markdown(summary, settings))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
