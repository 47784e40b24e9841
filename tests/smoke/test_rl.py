"""docs/rl.md and benchmarks/rl_ppo.py: PPO trains with Adan where stable-baselines3 is installed."""

from __future__ import annotations

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from nlp_adan import Adan
from nlp_adan.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
rl_ppo = importlib.import_module("benchmarks.rl_ppo")  # a script: mypy knows it without a package
PAGE = (PROJECT / "docs" / "rl.md").read_text(encoding="utf-8")
SMALL = ["--env", "Pendulum-v1", "--rollout", "512", "--search-steps", "1024", "--steps", "1024", "--seeds", "2"]


def run_of(name: str, rate: float, seed: int, score: float | None) -> dict[str, Any]:
    return {
        "optimizer": name, "learning_rate": rate, "seed": seed, "steps": 100, "score": score, "cpu_seconds": 3.0,
        "curve": [10.0 * part + seed for part in range(rl_ppo.NUM_POINTS - 1)] + [None if seed == 1 else 7.0],
    }  # fmt: skip


def runs_of(adam: list[float | None], adan: list[float | None]) -> list[dict[str, Any]]:
    """A search that each optimizer's second rate wins, then a run of each seed with the scores given."""
    found = []
    for name, scores in (("Adam", adam), ("Adan", adan)):
        tried = zip((1e-4, 1e-3, 1e-2), (-3.0, -1.0, None), strict=True)
        found += [run_of(name, rate, rl_ppo.SEARCH_SEED, score) for rate, score in tried]
        found += [run_of(name, 1e-3, seed, score) for seed, score in enumerate(scores)]
    return found


def test_the_best_rate_is_the_best_that_did_not_diverge() -> None:
    runs = runs_of([1.0], [1.0])
    assert rl_ppo.best_rate(runs, "Adan") == 1e-3
    with pytest.raises(UserError, match=r"Adan diverged at every learning rate \(0.5\): give smaller"):
        rl_ppo.best_rate([run_of("Adan", 0.5, rl_ppo.SEARCH_SEED, math.nan)], "Adan")


@pytest.mark.parametrize(
    ("adan", "told"),
    [
        ([11.0, 22.0, 33.0], "no difference shown (Adan minus Adam +2, 95 % interval -0 to +4)"),
        ([21.0, 31.0, 42.0], "Adan is ahead (Adan minus Adam +11, 95 % interval +10 to +13)"),
        ([0.0, 10.0, 19.0], "Adam is ahead (Adan minus Adam -10, 95 % interval -12 to -9)"),
        ([11.0, None, 33.0], "a run diverged"),
    ],
)
def test_the_verdict_is_of_the_differences_by_seed(adan: list[float | None], told: str) -> None:
    """Differences of 1, 2, 3: mean 2, Student's t with 2 degrees 4.303, so 2 -+ 4.303 * 1 / sqrt(3) = -0.48 to 4.48."""
    summary = rl_ppo.summarize(runs_of([10.0, 20.0, 30.0], adan), random=-5.0)
    if adan == [11.0, 22.0, 33.0]:
        assert summary["difference"] == {"mean": 2.0, "low": pytest.approx(-0.484, abs=1e-3),
                                         "high": pytest.approx(4.484, abs=1e-3), "num": 3}  # fmt: skip
    text = rl_ppo.as_markdown(summary, {"env": "Task-v0", "steps": 1000, "search_steps": 100})
    assert text.startswith(f"Task-v0, 1,000 steps: {told}")
    assert "| Adam | 0.0001: -3, **0.001: -1**, 0.01: diverged | 10, 20, 30 | 20 | 10 | 3 |" in text
    assert text.endswith("| random actions | | | -5 | | |")


def test_a_curve_is_the_mean_and_the_range_over_seeds() -> None:
    steps = 20 * rl_ppo.NUM_POINTS
    episodes = [(1, 1.0), (20, 2.0), (21, 10.0), (steps, 4.0)]
    assert rl_ppo.curve(episodes, steps) == [1.5, 10.0, *[None] * (rl_ppo.NUM_POINTS - 3), 4.0]
    trace = rl_ppo.mean_curve([run_of("Adan", 1e-3, seed, 0.0) for seed in (0, 1, 2)], steps)
    assert trace.points == [(20 * (part + 1), 10 * part + 1) for part in range(rl_ppo.NUM_POINTS - 1)]
    assert trace.band == [(10 * part, 10 * part + 2) for part in range(rl_ppo.NUM_POINTS - 1)]
    svg = rl_ppo.plot(runs_of([1.0, 2.0], [1.0, 2.0]), 100)
    assert svg.startswith("<svg") and "Adan, learning rate 0.001" in svg and "steps of the environment" in svg


def test_a_score_is_of_the_last_quarter() -> None:
    assert rl_ppo.score([(10, 100.0), (75, 50.0), (76, 1.0), (100, 2.0)], 100) == 1.5
    with pytest.raises(UserError, match="no episode ended in the last quarter of 100 steps"):
        rl_ppo.score([(75, 1.0)], 100)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl_ppo, "PACKAGES", {"nowhere_to_be_found": "some-package[extra]"})
    with pytest.raises(UserError, match=r"some-package\[extra\] not installed; `pip install 'some-package\[extra\]'`"):
        rl_ppo.main([])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "0"], "--steps must be 1 or more"),
        (["--rollout", "510"], "--rollout must be a multiple of 4"),
        (["--adam-rates", "1e-3"], "must be equally many"),
        (["--adan-rates", "1e-3,-1,2"], "'1e-3,-1,2': give different positive rates"),
    ],
)
def test_options_out_of_range(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        rl_ppo.parse_arguments(words)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_two_updates_of_ppo_are_those_of_adan(tmp_path: Path) -> None:
    """Two rollouts, one update each on the whole of it: Adan has counted two steps, every parameter has moved."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import PPO

    options = {"betas": (0.9, 0.9, 0.999)}
    model = PPO(
        "MlpPolicy", "Pendulum-v1", n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu",
        learning_rate=lambda remaining: 1e-2 * (1 + remaining),
        policy_kwargs={"optimizer_class": Adan, "optimizer_kwargs": options},
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(128)
    optimizer = model.policy.optimizer
    assert type(optimizer) is Adan and optimizer.param_groups[0]["betas"] == (0.9, 0.9, 0.999)
    assert optimizer.param_groups[0]["lr"] == 1e-2  # nothing remained at the second update
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}
    after = list(model.policy.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))

    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu").policy.optimizer
    assert type(loaded) is Adan
    for old, new in zip(optimizer.state.values(), loaded.state.values(), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_the_benchmark_in_small_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3")
    results, plot = tmp_path / "results.json", tmp_path / "curves.svg"
    words = [*SMALL, "--adam-rates", "1e-3", "--adan-rates", "1e-3", "--json", str(results), "--plot", str(plot)]
    trained: list[tuple[str, int]] = []
    train = rl_ppo.train

    def interrupted(name: str, rate: float, seed: int, *rest: Any) -> Any:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((name, seed))
        return train(name, rate, seed, *rest)

    monkeypatch.setattr(rl_ppo, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rl_ppo.main(words)
    kept = json.loads(results.read_text())["runs"]
    assert [(run["optimizer"], run["seed"]) for run in kept] == trained
    monkeypatch.setattr(rl_ppo, "train", train)
    rl_ppo.main(words)
    content = json.loads(results.read_text())
    assert content["runs"][:3] == kept and len(content["runs"]) == 2 + 4
    means = {name: row["mean"] for name, row in content["summary"]["optimizers"].items()}
    assert content["headline"] == {**means, "difference": content["summary"]["difference"]}
    assert all(-2000 < run["score"] < 0 for run in content["runs"])  # a pendulum's return in 200 steps
    by_name = {run["optimizer"]: run["score"] for run in content["runs"] if run["seed"] == 0}
    assert by_name["Adam"] != by_name["Adan"]  # the same weights and the same pendulum, other updates
    assert plot.read_text().startswith("<svg")
    assert capsys.readouterr().out.startswith("Pendulum-v1, 1,024 steps: ")
    with pytest.raises(UserError, match="other settings"):
        rl_ppo.main([*words, "--seeds", "3"])
    with pytest.raises(UserError, match="--env Nowhere-v0: Environment `Nowhere` doesn't exist"):
        rl_ppo.main(["--env", "Nowhere-v0"])


@pytest.mark.parametrize("task", ["inverted_pendulum", "halfcheetah"])
def test_the_page_shows_what_the_benchmark_wrote(task: str) -> None:
    content = json.loads((PROJECT / "docs" / "results" / f"rl_{task}.json").read_text())
    verdict, _, *table = rl_ppo.as_markdown(content["summary"], content["settings"]).splitlines()
    assert "\n".join(table) in PAGE and f"(results/rl_{task}.svg)" in PAGE
    assert re.sub(r"(.*): (.*) \((.*)\)", r"\2: \3", verdict).lower() in PAGE.replace("\n", " ").lower()
    assert len(content["runs"]) == 2 * (3 + 3)
    assert content["summary"] == rl_ppo.summarize(content["runs"], content["summary"]["random_actions"])


def test_the_pages_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pendulum, for MuJoCo may be missing where stable-baselines3 is there."""
    pytest.importorskip("stable_baselines3")
    (program,) = re.findall(r"```py\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(program.replace("HalfCheetah-v5", "Pendulum-v1"), {})
    assert (tmp_path / "cheetah.zip").is_file()
