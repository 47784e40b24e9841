"""Tokens a second of masked-LM pretraining: Hugging Face's script against ours, in one run; MFU where there is a GPU.

    python benchmarks/mlm_throughput.py --json mlm_throughput.json

Both sides train the same BERT on the same blocks with Adan on this machine's CPU (mlm_sides.py), in short segments that
take turns in a new order each round. Then one training of ours and two of Hugging Face's, which differ in masks and
dropout alone, begin with the same weights: their loss curves should differ no more than those two do. A quarter of an
hour on two CPU cores. On an NVIDIA GPU BERT-base and -large are measured too (mlm_mfu.py).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from mlm_mfu import measure_all
from mlm_sides import PHASES, SIDES, WARM_UP_STEPS, Data, Shape, load_data, train
from optimizer_step import STEADY

import nlp_adan  # noqa: F401, makes optim="adan" valid
from nlp_adan.corpora.builtin_corpus import builtin_corpus_file
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.storage import finite, json_file, write_json
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.environment import environment, num_cpu_cores

THEIRS, OURS = SIDES
CPU_BAR = 1.45  # ours / Hugging Face's, tokens a second
MFU_BARS = (("base", 0.40), ("large", 0.50))
SMOOTHED_STEPS = 10
# Curves of the same noise are as far from each other as Hugging Face's two are: a ratio of about 1.
MOST_NOISE = 2.0
WHERE_MFU = "an NVIDIA GPU whose peak is in nlp_adan/training/hardware.py"


def measure_segments(data: Data, shape: Shape, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of every step of both sides, segment by segment, and the shares of its phases."""
    models = {side: make_model(shape) for side, (make_model, _) in SIDES.items()}
    segments: dict[str, list[Any]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in random.sample(list(SIDES), len(SIDES)):
            segments[side].append(
                train(
                    side, models[side], data, shape, steps=WARM_UP_STEPS + options.steps, seed=number, folder=folder,
                    threads=options.threads, log=False,
                )
            )  # fmt: skip
    found = {}
    for side, stopwatches in segments.items():
        steps = [[sum(step.values()) for step in each.steps[WARM_UP_STEPS:]] for each in stopwatches]
        cpu = [statistics.median(each.cpu_seconds[WARM_UP_STEPS:]) for each in stopwatches]
        phases = {
            name: statistics.median(step[name] for each in stopwatches for step in each.steps[WARM_UP_STEPS:])
            for name in PHASES
        }
        rates = [shape.tokens * len(seconds) / sum(seconds) for seconds in steps]
        low, median, high = statistics.quantiles(rates, n=4, method="inclusive")
        found[side] = {
            "tokens_per_second": median,
            "quartiles": [low, high],
            "all_tokens_per_second": rates,
            "tokens_per_cpu_second": shape.tokens / statistics.median(cpu),
            "phase_milliseconds": {name: 1e3 * seconds for name, seconds in phases.items()},
            "phase_shares": {name: seconds / sum(phases.values()) for name, seconds in phases.items()},
        }
    return found


def measure_curves(data: Data, shape: Shape, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Losses of ours and of two of Hugging Face's from the same weights over the same blocks, and their distances."""
    losses: dict[str, list[float]] = {}
    for name, side, seed in (("hugging_face_1", THEIRS, 1), ("ours", OURS, 1), ("hugging_face_2", THEIRS, 2)):
        stopwatch = train(
            side, SIDES[side][0](shape), data, shape, steps=options.curve_steps, seed=seed, folder=folder,
            threads=options.threads, log=True,
        )  # fmt: skip
        losses[name] = stopwatch.losses
    smoothed = {
        name: np.convolve(curve, np.full(SMOOTHED_STEPS, 1 / SMOOTHED_STEPS), "valid") for name, curve in losses.items()
    }

    def distance(one: str, other: str) -> float:
        return float(np.sqrt(np.mean((smoothed[one] - smoothed[other]) ** 2)))

    ours = statistics.mean(distance("ours", name) for name in ("hugging_face_1", "hugging_face_2"))
    theirs = distance("hugging_face_1", "hugging_face_2")
    return {
        "losses": losses,
        "last_smoothed": {name: float(curve[-1]) for name, curve in smoothed.items()},
        "rms_distance_ours_to_hugging_face": ours,
        "rms_distance_of_hugging_face_to_itself": theirs,
        "ours_over_noise": ours / theirs,
    }


def bar_figures(segments: dict[str, Any], curves: dict[str, Any], gpu: dict[str, Any] | None) -> dict[str, Any]:
    """The figures that the bars are about."""
    ours, theirs = segments[OURS], segments[THEIRS]
    found = {
        "tokens_per_second_ratio": ours["tokens_per_second"] / theirs["tokens_per_second"],
        "tokens_per_cpu_second_ratio": ours["tokens_per_cpu_second"] / theirs["tokens_per_cpu_second"],
        "loss_curve_distance_over_noise": curves["ours_over_noise"],
    }
    for name, _ in MFU_BARS:
        values = [row.get("mfu") for case, row in (gpu or {}).items() if name in case]
        found[f"mfu_{name}"] = max((value for value in values if value is not None), default=None)
    return found


def report(result: dict[str, Any], shape: Shape, options: argparse.Namespace) -> str:
    """The tables as Markdown, after a summary in one line; then the bars."""
    figures, segments = result["figures"], result["segments"]
    ratio = figures["tokens_per_second_ratio"]
    unsteady = "" if result["steady"] else "; UNSTEADY: other programs ran meanwhile, repeat it when none do"
    lines = [
        f"masked LM on CPU: {ratio:.2f} times Hugging Face's tokens a second "
        f"({figures['tokens_per_cpu_second_ratio']:.2f} by CPU time){unsteady}",
        f"\n{shape.layers} layers, hidden {shape.hidden}, vocabulary {shape.vocabulary}, dropout {shape.dropout}, "
        f"{shape.batch} x {shape.length} tokens; {options.rounds} rounds of {options.steps} steps; "
        f"torch {torch.__version__}, threads: {options.threads}, {result['machine']['cpu']}\n",
        "| side | tokens/s, median | quartiles | tokens per CPU second | "
        + " | ".join(f"{name}, ms" for name in PHASES) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(PHASES),
    ]  # fmt: skip
    for side, row in segments.items():
        milliseconds = " | ".join(
            f"{row['phase_milliseconds'][name]:.0f} ({row['phase_shares'][name]:.0%})" for name in PHASES
        )
        lines.append(
            f"| {side} | {row['tokens_per_second']:,.0f} | {row['quartiles'][0]:,.0f}..{row['quartiles'][1]:,.0f} | "
            f"{row['tokens_per_cpu_second']:,.0f} | {milliseconds} |"
        )
    curves = result["curves"]
    last = ", ".join(f"{name} {value:.3f}" for name, value in curves["last_smoothed"].items())
    lines.append(
        f"\nLoss curves of {options.curve_steps} steps, means of {SMOOTHED_STEPS}: at the end {last}; distance (root "
        f"of the mean square) of ours to Hugging Face's {curves['rms_distance_ours_to_hugging_face']:.4f}, of Hugging "
        f"Face's two seeds {curves['rms_distance_of_hugging_face_to_itself']:.4f}\n"
    )
    if result["gpu"]:
        lines += ["| GPU | ms a step | tokens/s | MFU |", "|---|---:|---:|---:|"]
        for case, row in result["gpu"].items():
            cells = (
                row["error"]
                if "error" in row
                else f"{row['milliseconds']:.1f} | {row['tokens_per_second']:,.0f} | {_number(row['mfu'])}"
            )
            lines.append(f"| {case} | {cells} |")
    return "\n".join([*lines, *bars(figures)])


def bars(figures: dict[str, Any]) -> list[str]:
    """Each bar, and whether it is met."""
    rows = [
        ("CPU: tokens a second, ours / Hugging Face's", figures["tokens_per_second_ratio"], CPU_BAR, False),
        ("loss curves: distance of ours / noise", figures["loss_curve_distance_over_noise"], MOST_NOISE, True),
        *((f"GPU: MFU of BERT-{name}", figures[f"mfu_{name}"], bound, False) for name, bound in MFU_BARS),
    ]
    lines = []
    for meaning, value, bound, at_most in rows:
        met = value is not None and (value <= bound if at_most else value >= bound)
        verdict = f"not measured: it wants {WHERE_MFU}" if value is None else "met" if met else "NOT met"
        lines.append(f"- {meaning}: {_number(value)} (at {'most' if at_most else 'least'} {bound}): {verdict}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a UserError for what cannot be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = {"layers": 4, "hidden": 256, "vocabulary": 8192, "batch": 32, "length": 128}
    for name, default in sizes.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"of the model on the CPU (default: {default})"
        )
    parser.add_argument("--dropout", type=float, default=0.1, help="of both sides (default: 0.1, as in BERT)")
    parser.add_argument("--rounds", type=int, default=12, help="segments of each side (default: 12)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a segment (default: 10)")
    parser.add_argument("--curve_steps", type=int, default=100, help="steps of a loss curve (default: 100)")
    parser.add_argument("--threads", type=int, default=num_cpu_cores(), help="of torch (default: the cores)")
    parser.add_argument("--documents", type=Path, help="JSON lines with a text each (default: the built-in corpus)")
    parser.add_argument("--max_bytes", type=int, default=6_000_000, help="of the documents (default: 6 million)")
    parser.add_argument("--no_gpu", action="store_true", help="leave the GPU out where there is one")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(words)
    for name, least in {**dict.fromkeys((*sizes, "steps", "threads"), 1), "rounds": 2, "curve_steps": 20}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    if options.documents is not None and not options.documents.is_file():
        raise UserError(f"--documents {options.documents}: no such file; name JSON lines with a text each")
    return options


def main() -> None:
    """Read the command line, measure, print the tables, write the JSON file."""
    options = parse()
    quiet_libraries()
    shape = Shape(options.layers, options.hidden, options.vocabulary, options.batch, options.length, options.dropout)
    data = load_data(options.documents or builtin_corpus_file(), options.max_bytes, shape)
    if options.curve_steps * shape.batch > len(data.blocks):
        raise UserError(
            f"--curve_steps: {options.curve_steps} steps are more than an epoch of {len(data.blocks):,} blocks, after "
            f"which the sides' orders differ; choose `--curve_steps {len(data.blocks) // shape.batch}` or less"
        )
    with tempfile.TemporaryDirectory() as folder:
        segments = measure_segments(data, shape, options, Path(folder))
        curves = measure_curves(data, shape, options, Path(folder))
    gpu = measure_all(torch.device("cuda")) if torch.cuda.is_available() and not options.no_gpu else None
    figures = bar_figures(segments, curves, gpu)
    result = {
        "headline": figures["tokens_per_second_ratio"],
        "figures": figures,
        "steady": all(row["quartiles"][1] <= STEADY * row["quartiles"][0] for row in segments.values()),
        "segments": segments,
        "curves": curves,
        "gpu": gpu,
        "machine": environment(),
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "documents")},
    }
    print(report(result, shape, options))
    if options.json:
        write_json(options.json, finite(result))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
