"""Wall time of an epoch of GLUE fine-tuning: run_glue.py's defaults against ours, in one run.

    python benchmarks/glue_finetune.py --data DIR --json glue_finetune.json

Both sides fine-tune the same small BERT on this machine's CPU (glue_sides.py) with the same batch size, maximum length
and optimizer, in short segments that take turns in a new order each round. A segment is a random sample of an epoch's
steps; the epoch's time is a step's times their number. First one step of both on the same examples has to have the same
loss and gradient. Without --data the generated sample tasks are measured, which the bars are not about. About ten
minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from glue_sides import OURS, SIDES, THEIRS, Segment, Shape, Work, load_work, make_model, make_tokenizer, parity, train
from optimizer_step import STEADY

from glue_eval.sample_tasks import sample_tasks_folder
from glue_eval.tasks import parse_task_names
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.progress import progress
from nlp_adan.storage import finite, json_file, write_json
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.environment import environment, num_cpu_cores

BARS = {"CoLA": 4.0, "MRPC": 1.8, "SST-2": 4.0, "RTE": 1.3}  # theirs / ours, seconds of an epoch
# Of the losses, and of the largest gradient: rounding of another order of sums.
PARITY = 1e-5


def measure(work: Work, shape: Shape, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of both sides' epochs, segment by segment."""
    models = {side: make_model(shape) for side in SIDES}
    segments: dict[str, list[Segment]] = {side: [] for side in SIDES}
    steps = {THEIRS: options.their_steps, OURS: options.our_steps}
    rounds = progress(range(options.rounds), description=work.task.name, unit="round", leave=False)
    for number in rounds:
        for side in random.sample(list(SIDES), len(SIDES)):
            segments[side].append(
                train(
                    side, models[side], work, shape, steps=steps[side], seed=number, folder=folder,
                    threads=options.threads,
                )
            )  # fmt: skip
    num_steps = math.ceil(work.num_examples / shape.batch)
    found = {side: _row(each, num_steps) for side, each in segments.items()}
    tokens = int(work.ours.tokens.lengths.sum())
    found[THEIRS]["padding_share"] = 1 - tokens / (work.num_examples * work.max_length)
    theirs, ours = found[THEIRS], found[OURS]
    return {
        "examples": work.num_examples,
        "max_length": work.max_length,
        "steps_in_epoch": num_steps,
        "ratio": theirs["epoch_seconds"] / ours["epoch_seconds"],
        "cpu_ratio": theirs["epoch_cpu_seconds"] / ours["epoch_cpu_seconds"],
        "steady": all(row["quartiles"][1] <= STEADY * row["quartiles"][0] for row in found.values()),
        "sides": found,
    }


def _row(segments: list[Segment], num_steps: int) -> dict[str, Any]:
    epochs = [num_steps * segment.seconds for segment in segments]
    low, median, high = statistics.quantiles(epochs, n=4, method="inclusive")
    shares = [segment.padding_share for segment in segments if segment.padding_share is not None]
    return {
        "epoch_seconds": median,
        "quartiles": [low, high],
        "all_epoch_seconds": epochs,
        "epoch_cpu_seconds": num_steps * statistics.median(segment.cpu_seconds for segment in segments),
        "padding_share": statistics.fmean(shares) if shares else None,
    }


def check_parity(found: dict[str, float], task: str) -> None:
    """Raise where the sides do not compute the same step."""
    losses = abs(found["loss_ours"] - found["loss_run_glue"])
    gradients = found["largest_gradient_difference"] / found["largest_gradient"]
    if losses > PARITY or gradients > PARITY:
        raise RuntimeError(f"{task}: the sides differ in loss by {losses:.2g}, in gradient by {gradients:.2g}: {found}")


def report(result: dict[str, Any], shape: Shape, options: argparse.Namespace) -> str:
    """The table as Markdown, after a summary in one line; then the bars."""
    figures, tasks = result["figures"], result["tasks"]
    unsteady = "" if result["steady"] else "; UNSTEADY: other programs ran meanwhile, repeat it when none do"
    lines = [
        f"GLUE fine-tuning on CPU: an epoch {result['headline']:.2f} times as fast as run_glue's defaults, mean over "
        f"{len(tasks)} tasks ({figures['mean_cpu_ratio']:.2f} by CPU time){unsteady}",
        f"\n{shape.layers} layers, hidden {shape.hidden}, vocabulary {shape.vocabulary}, batch {shape.batch}, "
        f"{shape.optim}; {options.rounds} rounds of {options.their_steps} and {options.our_steps} steps; torch "
        f"{result['machine']['packages']['torch']}, threads: {options.threads}, {result['machine']['cpu']}\n",
        "| task | examples | max length | run_glue: epoch, s (quartiles) | padding | ours: epoch, s (quartiles) "
        "| padding | ratio | by CPU time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in tasks.items():
        cells = []
        for side in (THEIRS, OURS):
            found = row["sides"][side]
            low, high = found["quartiles"]
            cells.append(f"{found['epoch_seconds']:.1f} ({low:.1f}..{high:.1f}) | {100 * found['padding_share']:.0f} %")
        lines.append(
            f"| {name} | {row['examples']:,} | {row['max_length']} | {' | '.join(cells)} | {row['ratio']:.2f} "
            f"| {row['cpu_ratio']:.2f} |"
        )
    return "\n".join([*lines, "", *bars(result)])


def bars(result: dict[str, Any]) -> list[str]:
    """Each bar, and whether it is met."""
    lines = []
    for name, bound in BARS.items():
        row = result["tasks"].get(name)
        value = None if row is None or result["is_sample"] else row["ratio"]
        verdict = "not measured: it wants `--data DIR`, GLUE's own files" if value is None else ""
        verdict = verdict or ("met" if value >= bound else "NOT met")  # type: ignore[operator]
        shown = "-" if value is None else f"{value:.2f}"
        lines.append(f"- {name}, an epoch, run_glue's / ours: {shown} (at least {bound:g}): {verdict}")
    return lines


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a UserError for what cannot be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a GLUE folder (default: the generated sample tasks)")
    parser.add_argument("--tasks", default=",".join(BARS), help=f"with commas between (default: {','.join(BARS)})")
    parser.add_argument("--optim", default="adan", choices=["adan", "adamw_torch"], help="of both (default: adan)")
    parser.add_argument("--max_examples", type=int, default=10_000, help="of a task, the first ones (default: 10000)")
    sizes = {"layers": 4, "hidden": 256, "vocabulary": 8192, "batch": 32}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"of the model or a step (default: {default})")
    parser.add_argument("--rounds", type=int, default=7, help="segments of each side (default: 7)")
    parser.add_argument("--their_steps", type=int, default=3, help="timed steps of their segments (default: 3)")
    parser.add_argument("--our_steps", type=int, default=15, help="timed steps of our segments (default: 15)")
    parser.add_argument("--threads", type=int, default=num_cpu_cores(), help="of torch (default: the cores)")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(words)
    least = {**dict.fromkeys((*sizes, "their_steps", "our_steps", "threads"), 1), "rounds": 2}
    least["max_examples"] = options.batch
    for name, low in least.items():
        if getattr(options, name) < low:
            raise UserError(f"--{name} must be {low} or more, got {getattr(options, name)}")
    return options


def main() -> None:
    """Read the command line, measure, print the tables, write the JSON file."""
    options = parse()
    quiet_libraries()
    tasks = parse_task_names(options.tasks)
    for task in tasks:
        if task.labels is None or len(task.labels) != 2:
            raise UserError(
                f"--tasks: {task.name} has not two labels, which the model has; choose from {', '.join(BARS)}"
            )
    data = options.data or sample_tasks_folder()
    shape = Shape(options.layers, options.hidden, options.vocabulary, options.batch, options.optim)
    tokenizer = make_tokenizer(data, tasks, options.vocabulary)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            work = load_work(data, task, tokenizer, options.max_examples)
            same = parity(work, shape, Path(folder))
            check_parity(same, task.name)
            found[task.name] = {**measure(work, shape, options, Path(folder)), "parity": same}
    ratios = {name: row["ratio"] for name, row in found.items()}
    mean = statistics.geometric_mean(ratios.values())
    result = {
        "headline": mean,
        "figures": {
            "ratios": ratios,
            "bars": BARS,
            "mean_cpu_ratio": statistics.geometric_mean(row["cpu_ratio"] for row in found.values()),
        },
        "is_sample": options.data is None,
        "steady": all(row["steady"] for row in found.values()),
        "tasks": found,
        "machine": environment(),
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "data")},
    }
    print(report(result, shape, options))
    if options.json:
        write_json(options.json, finite(result))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
