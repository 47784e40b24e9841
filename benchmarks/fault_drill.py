"""Kills, damage, full disks, orphans and signals at random moments of a training: does it end as if nothing had been?

    python benchmarks/fault_drill.py --rounds 48 --json fault_drill.json

A round starts a small BERT on two CPU ranks under ZeRO, disturbs it once, and goes on with `--resume auto` and nothing
else. It survived if every start ended, and said, what it has to; its weights are compared bit for bit with those of a
run without a fault. `headline` is the share of rounds that end with the same bits. Two to three starts a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fault_drill_rank import RANKS
from fault_drill_rounds import FAULTS, MOST_FULL_SAVES, Outcome, Plan, draw, run_round
from fault_drill_starts import LAUNCHERS, SAVE_LIMIT, SAVE_STEPS, Missed, Run, Trainings

from nlp_adan.errors import UserError, exit_on_user_error, nearest
from nlp_adan.progress import progress
from nlp_adan.storage import finite, json_file, write_json
from nlp_adan.training.environment import environment

STAGES = (1, 2, 3)
STEPS = 40
# The first checkpoints, as many saves as a disk is full for at most, a save that succeeds, the steps of a kill's delay.
LEAST_STEPS = (MOST_FULL_SAVES + 3) * SAVE_STEPS
ATTEMPTS = 5  # of a fault that comes too late


def plans(options: argparse.Namespace, attempt: int = 0) -> list[Plan]:
    """What is drawn of each round: every fault at every stage in turn, every other kill aimed at a save.

    A round's plan depends on its number, the seed and the attempt, and not on how many rounds there are.
    """
    drawn = []
    num_faults, num_stages = len(options.faults), len(options.stages)
    for number in range(options.rounds):
        fault, stage = options.faults[number % num_faults], options.stages[number // num_faults % num_stages]
        in_save = number // (num_faults * num_stages) % 2 == 0  # whole passes, so that no stage has all of them
        chance = random.Random(f"{options.seed}/{number}/{attempt}")
        drawn.append(draw(fault, stage, options.steps, in_save, chance))
    return drawn


def drill(options: argparse.Namespace, work: Path) -> list[Outcome]:
    """Run all rounds; folders of those that went wrong are kept in `--keep`."""
    trainings = Trainings(work, options.steps, options.launcher)
    for stage in progress(options.stages, description="undisturbed", unit="run"):
        trainings.run_undisturbed(stage)
    drawn_plans = list(zip(*(plans(options, attempt) for attempt in range(ATTEMPTS)), strict=True))
    outcomes = []
    for number, drawn in enumerate(progress(drawn_plans, description="drill", unit="round"), 1):
        run = Run(work / f"round-{number}")
        outcomes.append(disturb(number, drawn, trainings, run))
        if options.keep and not (outcomes[-1].survived and outcomes[-1].bit_equal):
            # A link to a device that is full has no end.
            shutil.copytree(run.folder, options.keep / run.folder.name, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(run.folder, ignore_errors=True)
    return outcomes


def disturb(number: int, drawn: Sequence[Plan], trainings: Trainings, run: Run) -> Outcome:
    """One round, with the first of its plans whose fault comes in time."""
    for plan in drawn:
        try:
            return run_round(number, plan, trainings, run)
        except Missed:
            shutil.rmtree(run.folder)
    plan = drawn[0]
    late = f"its fault came {len(drawn)} times when the run was finished"
    return Outcome(number, plan.fault, plan.stage, what=f"planned: {plan}", wrong=late)


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All figures as a JSON value; `rows` by fault and stage."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(f"{outcome.fault}, ZeRO-{outcome.stage}", []).append(outcome)
    rows = {}
    for name, group in groups.items():
        lost = [outcome.lost_steps for outcome in group if outcome.lost_steps is not None]
        rows[name] = {
            "rounds": len(group),
            "in_save": sum(outcome.in_save for outcome in group),
            "survived": sum(outcome.survived for outcome in group),
            "bit_equal": sum(outcome.bit_equal for outcome in group),
            "lost_steps_median": statistics.median(lost) if lost else None,
            "lost_steps_max": max(lost, default=None),
            "seconds_median": statistics.median(outcome.seconds for outcome in group),
        }
    return {
        "headline": sum(outcome.bit_equal for outcome in outcomes) / len(outcomes),
        "survived": sum(outcome.survived for outcome in outcomes) / len(outcomes),
        "in_save": sum(outcome.in_save for outcome in outcomes),
        "rows": dict(sorted(rows.items(), key=lambda row: [*FAULTS].index(row[0].partition(",")[0]))),
        "rounds": [asdict(outcome) for outcome in outcomes],
    }


def report(result: dict[str, Any], options: argparse.Namespace) -> str:
    """A summary in one line, the table as Markdown, and what went wrong."""
    rounds = result["rounds"]
    survived, equal = (sum(each[name] for each in rounds) for name in ("survived", "bit_equal"))
    machine = result["machine"]
    lines = [
        f"{survived} of {len(rounds)} disturbed trainings went on by themselves, {equal} ended with the bits of an "
        f"undisturbed one; {result['in_save']} faults fell into a save",
        f"\nBERT, {options.steps} steps on {RANKS} CPU ranks, a checkpoint every {SAVE_STEPS}, {SAVE_LIMIT} kept; "
        f"seed {options.seed}; launcher: {options.launcher}; torch {machine['packages']['torch']}, deepspeed "
        f"{machine['packages']['deepspeed']}, {machine['num_cpu_cores']} cores of {machine['cpu']}\n",
        "| fault | stage | rounds | inside a save | survived | bit-equal | lost steps, median | most | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["rows"].items():
        fault, _, stage = name.partition(", ")
        lost = ["-" if row[key] is None else f"{row[key]:g}" for key in ("lost_steps_median", "lost_steps_max")]
        counts = [str(row[key]) for key in ("rounds", "in_save", "survived", "bit_equal")]
        lines.append(f"| {' | '.join([fault, stage, *counts, *lost, format(row['seconds_median'], '.1f')])} |")
    for each in rounds:
        if not (each["survived"] and each["bit_equal"]):
            ending = "" if each["bit_equal"] else "; its weights differ, or there are none"
            lines.append(
                f"\nround {each['number']}, {each['fault']}, ZeRO-{each['stage']} ({each['what']}) "
                f"{each['wrong'] or 'survived'}{ending}"
            )
    return "\n".join(lines)


def words_of(option: str, text: str, choices: Sequence[str]) -> list[str]:
    """The words of a list with commas, each one of the choices and none twice."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in choices:
            raise UserError(f"{option}: {word!r} is none of {', '.join(choices)}{nearest(word, choices)}")
    if len(set(words)) < len(words):
        raise UserError(f"{option}: {text!r} names one twice")
    return words


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a UserError for what cannot be drilled."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", default=",".join(FAULTS), help=f"with commas (default: {','.join(FAULTS)})")
    parser.add_argument("--rounds", type=int, default=len(FAULTS) * 2, help="over all faults and stages (default: 12)")
    parser.add_argument("--stages", default="2,3", help="of ZeRO, with commas (default: 2,3)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the training (default: {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default=LAUNCHERS[0],
        help="fork: ranks of a process that has imported everything, several times as fast (default: deepspeed)",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy the folders of runs that went wrong there")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(words)
    options.faults = words_of("--faults", options.faults, list(FAULTS))
    options.stages = [int(stage) for stage in words_of("--stages", options.stages, [str(stage) for stage in STAGES])]
    for name, least in (("rounds", 1), ("steps", LEAST_STEPS)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    if options.steps % SAVE_STEPS:
        raise UserError(f"--steps must be a multiple of {SAVE_STEPS}, got {options.steps}")
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("deepspeed is not installed: pip install 'nlp-adan[all]'")
    return options


def main() -> None:
    """Read the command line, drill, print the table, write the JSON file."""
    options = parse()
    with tempfile.TemporaryDirectory() as work:
        outcomes = drill(options, Path(work))
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    result = {**figures(outcomes), "machine": environment(), "options": settings}
    print(report(result, options))
    if options.json:
        write_json(options.json, finite(result))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
