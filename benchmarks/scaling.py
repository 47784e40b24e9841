"""How cost grows with ranks, corpus, model and length of a run, measured on this machine and extrapolated.

    python benchmarks/scaling.py --axis resume --steps 100,1000,10000 --json scaling.json --plots docs/results

An axis is measured by running the real commands at each of its sizes. Its formula goes through the largest (for ranks
and steps: the smallest) and on to 64 ranks, 1 TB of text, 1 G parameters, 1 M steps. Between neighbouring sizes the
growth is the exponent e of cost ~ size^e: 1 is linear, and nothing may be above 1.1. Small sizes by default, some
minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import scaling_runs
from bert.costs import masked_lm_costs
from bert.model_options import model_config
from bert.options import parse_options
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.pretraining.plan import Devices, Workload, make_plan
from nlp_adan.reporting.document import standalone
from nlp_adan.reporting.plots import growth_plot
from nlp_adan.storage import json_file, write_json, write_text
from nlp_adan.training.environment import num_cpu_cores

LARGEST_EXPONENT = 1.1  # of cost in size, between neighbouring sizes: linear, and some noise
Row = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """What is made larger, and what its cost is.

    Args:
        size: what x is, with its unit.
        cost: what y is, with its unit.
        costs: the columns of a row that may not grow worse than linearly in x, and what they are.
        formula: the cost in seconds at another x, from the rows that were measured.
        end: where the formula is drawn to.
        work: what the cost is measured against, where it is not x.
    """

    size: str
    cost: str
    costs: dict[str, str]
    formula: Callable[[Sequence[Row], float], float]
    end: float
    work: str = "x"


def _by_ranks(rows: Sequence[Row], ranks: float) -> float:
    """The plan's: steps x FLOPs / (ranks x rate), the rate that of the fewest ranks. No communication in it."""
    return rows[0]["seconds"] * rows[0]["x"] / ranks


def _by_megabytes(rows: Sequence[Row], megabytes: float) -> float:
    """The largest corpus' seconds and, for every further megabyte, what the last step in size cost a megabyte."""
    before, last = rows[-2:]
    each = (last["seconds"] - before["seconds"]) / (last["x"] - before["x"])
    return max(last["seconds"] + each * (megabytes - last["x"]), 0.0)


def _by_parameters(rows: Sequence[Row], parameters: float) -> float:
    """The plan's: FLOPs / rate, the rate that of the largest model; beyond it FLOPs grow as parameters do."""
    flops = next((row["flops_per_step"] for row in rows if row["x"] == parameters), None)
    if flops is None:
        flops = rows[-1]["flops_per_step"] * parameters / rows[-1]["x"]
    return rows[-1]["seconds"] * flops / rows[-1]["flops_per_step"]


def _constant(rows: Sequence[Row], steps: float) -> float:
    return rows[0]["seconds"]


AXES = {
    "ranks": Axis("ranks", "seconds a step of the same global batch", {}, _by_ranks, 64),
    "corpus": Axis(
        "MB of text", "seconds of preparation",
        {"seconds": "preparation", "peak_bytes": "memory", "disk_bytes": "disk", "start_seconds": "start-up"},
        _by_megabytes, 1e6,
    ),
    "model": Axis(
        "parameters", "seconds a step", {"seconds": "a step, in its FLOPs", "peak_bytes": "memory, in its FLOPs"},
        _by_parameters, 1e9, "flops_per_step",
    ),
    "resume": Axis(
        "steps of the run", "seconds to the next step",
        {"seconds": "resuming", "start_seconds": "starting", "state_bytes": "trainer_state.json"}, _constant, 1e6,
    ),
}  # fmt: skip


def exponents(rows: Sequence[Row], work: str, cost: str) -> list[float]:
    """The exponent of a cost in its work between neighbouring rows."""
    return [
        math.log(after[cost] / before[cost]) / math.log(after[work] / before[work])
        for before, after in itertools.pairwise(rows)
    ]


def judge(name: str, rows: Sequence[Row]) -> dict[str, float]:
    """The largest exponent of each cost of an axis; for ranks, the largest loss of efficiency."""
    axis = AXES[name]
    if name == "ranks":
        # Rank-seconds a step against ranks: 0 is perfect, 1 means that a further rank brings nothing.
        spent = [{**row, "rank_seconds": row["seconds"] * row["x"]} for row in rows]
        return {"rank-seconds a step": max(exponents(spent, "x", "rank_seconds"))}
    return {meaning: max(exponents(rows, axis.work, cost)) for cost, meaning in axis.costs.items()}


def plot(name: str, rows: Sequence[Row]) -> str:
    """Points and formula of one axis."""
    axis = AXES[name]
    sizes = [row["x"] for row in rows]
    beyond = axis.end / sizes[-1]
    xs = [*sizes, *(sizes[-1] * beyond ** (step / 4) for step in range(1, 5))]
    points = {"measured": [(row["x"], row["seconds"]) for row in rows]}
    formula = {"formula": [(x, axis.formula(rows, x)) for x in xs]}
    return growth_plot(points, formula, axis.size, axis.cost)


def table(name: str, rows: Sequence[Row]) -> list[str]:
    """Rows as a Markdown table, the formula beside the measured cost, then the exponents against the bar."""
    axis = AXES[name]
    more = [column for column in rows[0] if column not in ("x", "seconds", "all_seconds")]
    lines = [f"\n| {' | '.join([axis.size, axis.cost, 'formula', *(column.replace('_', ' ') for column in more)])} |"]
    lines.append(f"|{'---:|' * (len(more) + 3)}")
    for row in rows:
        cells = [f"{row['x']:,.6g}", f"{row['seconds']:.3g}", f"{axis.formula(rows, row['x']):.3g}"]
        lines.append(f"| {' | '.join([*cells, *(_cell(column, row[column]) for column in more)])} |")
    lines.append(f"| {axis.end:,.6g} | calculated | {axis.formula(rows, axis.end):.3g} |{' |' * len(more)}")
    lines.append("")
    for meaning, exponent in judge(name, rows).items():
        verdict = "met" if exponent <= LARGEST_EXPONENT else "EXCEEDED"
        lines.append(
            f"- {name}, {meaning}: grows with the power {exponent:.2f} (at most {LARGEST_EXPONENT}): {verdict}"
        )
    return lines


def _cell(column: str, value: float) -> str:
    return f"{value / 1e6:,.3g} MB" if column.endswith("_bytes") else f"{value:,.3g}"


def planned() -> list[str]:
    """Hours of the paper's recipe and of one pass over 1 TB of text, by the plan: calculated, not measured."""
    options = parse_options(["--recipe", "base", "--output_dir", "unused"])
    config = model_config(options.model, scaling_runs.Vocabulary(options.data.vocab_size), options.data.block_size)
    costs = masked_lm_costs(config, options.data.block_size, options.data.mask_probability, bf16=True)
    batch = options.engine.global_batch_size or 1
    one_pass = round(1e12 / 4 / (batch * options.data.block_size))  # about 4 bytes a token
    lines = ["\n| calculated by the plan, 40 % MFU assumed | GPUs | recipe base, hours | 1 TB once, hours |"]
    lines.append("|---|---:|---:|---:|")
    for device in ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"):
        for ranks in (1, 8, 64):
            hours = []
            for steps in (options.engine.max_steps, one_pass):
                work = Workload(
                    sequence_length=options.data.block_size, global_batch_size=batch, max_steps=steps, bf16=True,
                    micro_batch_size=options.engine.per_device_train_batch_size,
                )  # fmt: skip
                hours.append(make_plan(costs, work, Devices(ranks, device)).hours or math.nan)
            lines.append(f"| {device} | {ranks} | {hours[0]:,.1f} | {hours[1]:,.1f} |")
    return lines


def measure(name: str, options: argparse.Namespace, work: Path) -> list[Row]:
    """The rows of one axis, smallest first."""
    if name == "corpus":
        return scaling_runs.measure_corpora(options.megabytes, work)
    data = scaling_runs.prepare_corpus(work / "text.jsonl", 4, work / "prepared").folder
    if name == "ranks":
        return scaling_runs.measure_ranks(options.ranks, work, options.measured_steps, data)
    if name == "model":
        return scaling_runs.measure_models(options.models, work, options.measured_steps, data)
    return scaling_runs.measure_resumes(options.steps, work, data)


def report(axes: dict[str, dict[str, Any]], machine: str) -> str:
    """A line that says whether anything grows worse than linearly, then a table for each axis."""
    worst = {f"{name}: {what}": e for name in axes for what, e in judge(name, axes[name]["rows"]).items()}
    culprit = max(worst, key=lambda name: worst[name])
    linear = "nothing grows" if worst[culprit] <= LARGEST_EXPONENT else "SOMETHING GROWS"
    lines = [f"{linear} worse than linearly; the most: {culprit}, with the power {worst[culprit]:.2f}", f"\n{machine}"]
    for name, axis in axes.items():
        lines += table(name, axis["rows"])
    return "\n".join([*lines, *planned()])


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A list of at least two sizes with commas between, ascending."""

    def parse(text: str) -> list[Any]:
        try:
            found = sorted(kind(word) for word in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: give sizes with commas between") from None
        if len(set(found)) < 2:
            raise argparse.ArgumentTypeError(f"{text!r}: growth is between two sizes at least")
        return found

    return parse


def shape(text: str) -> tuple[int, int]:
    """LAYERSxWIDTH."""
    layers, _, width = text.partition("x")
    if int(layers) < 1 or int(width) < 64 or int(width) % 64:
        raise ValueError
    return int(layers), int(width)


def main() -> None:
    """Read the command line, measure, print the tables, write JSON and plots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--axis", choices=AXES, action="append", help="default: all; may be given several times")
    parser.add_argument("--ranks", type=numbers(int), default=[1, 2], help="default: 1,2")
    parser.add_argument("--megabytes", type=numbers(float), default=[1.0, 4.0], help="of corpora (default: 1,4)")
    parser.add_argument(
        "--models", type=numbers(shape), default=[(2, 128), (4, 256)],
        help="LAYERSxWIDTH (default: 2x128,4x256); 6x320,8x512,12x768,24x1024 have 10 M to 311 M parameters",
    )  # fmt: skip
    parser.add_argument("--steps", type=numbers(int), default=[20, 200], help="of runs to resume (default: 20,200)")
    parser.add_argument("--measured_steps", type=int, default=8, help="of the axes ranks and model (default: 8)")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write the figures here; other axes in it stay")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write scaling_AXIS.svg here")
    options = parser.parse_args()
    if min(options.ranks) < 1 or min(options.megabytes) <= 0 or min(options.steps) < 3 or options.measured_steps < 3:
        raise UserError("sizes must be positive, and --steps and --measured_steps 3 or more")
    kept = json.loads(options.json.read_text())["axes"] if options.json and options.json.is_file() else {}
    machine = f"{num_cpu_cores()} cores of {platform.processor() or platform.machine()}, torch {torch.__version__}"
    measured: dict[str, dict[str, Any]] = {}
    for name in options.axis or AXES:
        with tempfile.TemporaryDirectory(prefix="scaling-") as work:
            measured[name] = {"rows": measure(name, options, Path(work)), "machine": machine}
            measured[name]["exponents"] = judge(name, measured[name]["rows"])
    print(report(measured, machine))
    axes = {name: axis for name in AXES for axis in [{**kept, **measured}.get(name)] if axis}
    if options.plots:
        for name, axis in axes.items():
            write_text(options.plots / f"scaling_{name}.svg", standalone(plot(name, axis["rows"])))
    if options.json:
        headline = max(exponent for axis in axes.values() for exponent in axis["exponents"].values())
        write_json(options.json, {"headline": headline, "axes": axes})


if __name__ == "__main__":
    with exit_on_user_error():
        main()
