"""Time and memory of one optimizer step on BERT-base's parameters: ours, torch's AdamW and other Adans, side by side.

    python benchmarks/optimizer_step.py --official ~/Adan/adan.py --json step.json

The rows take turns in one process, in a new order each round, so that a slow phase of the machine falls on all of
them; ratios are medians of the ratios within a round. The full model takes 13 GB of memory and a minute or two.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.optim import AdamW

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nlp_adan import Adan
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.kernels import fused_available
from nlp_adan.progress import progress
from nlp_adan.storage import json_file, write_json

HIDDEN, INTERMEDIATE, POSITIONS, TOKEN_TYPES = 768, 3072, 512, 2
LAYERS, VOCABULARY = 12, 30522
# What a step must move of each float32 parameter, read and written. Adan reads the parameter, its gradient and four
# states, and writes all but the gradient; AdamW has two states.
ADAN_BYTES, ADAMW_BYTES = 44, 28
# So small a rate that the parameters, which all rows share, stay what they are; with a decay, so that each row does it.
OPTIONS: dict[str, Any] = {"lr": 1e-8, "weight_decay": 0.02}
WARM_UP_STEPS = 5  # the first one makes the states, and compiles what is compiled; the least memory counts
STEADY = 1.2  # largest ratio of the yardstick's quartiles on a machine that does nothing else
CUDA_PASSES = 10  # of the yardstick: the launch of a single one would count

OURS, OFFICIAL, YARDSTICK = "nlp_adan.Adan", "official Adan(foreach=True)", "memory bandwidth"
ADAMW_DEFAULT, ADAMW_FUSED = "torch AdamW (default)", "torch AdamW(fused=True)"
# The fastest of each device: on the CPU its default is a loop over the parameters, on a GPU Triton.
OPTIMI = "optimi.Adan(foreach=True; Triton on a GPU)"
OFFICIAL_MODULE = "official_adan"
HOW_TO_GET_OFFICIAL = "save adan.py of https://github.com/sail-sg/Adan and name it with --official"
# The bars: name of the figure, what it is, bound, whether the bound is the largest value that meets it.
BARS = (
    ("ours_over_bandwidth_limit", "our time / limit of the memory bandwidth", 1.15, True),
    ("official_over_ours", "time of the official code / ours", 4.0, False),
    ("optimi_over_ours", "time of optimi / ours", 3.0, False),
    ("adamw_default_over_ours", "time of torch AdamW by default / ours", 1.9, False),
    ("ours_over_adamw_fused", "our time / torch AdamW(fused=True)", 1.5, True),
    ("our_extra_memory_mb", "our extra memory, MB", 1.0, True),
)


@dataclass
class Row:
    """One line of the table: what is measured, and its figures."""

    name: str
    step: Callable[[], Any]
    bytes_per_parameter: int
    is_peer: bool = False  # its failure is reported; it may use p.grad as scratch space and gets gradients of its own
    milliseconds: list[float] = field(default_factory=list)
    extra_memory_mb: float | None = None


class Workload:
    """The parameters that every row steps, and two sets of gradients: one that stays, one that a row may write to."""

    def __init__(self, layers: int, vocabulary: int, device: torch.device) -> None:
        shapes = parameter_shapes(layers, vocabulary)
        torch.manual_seed(0)
        self.device = device
        self.params = [(torch.randn(shape, device=device) * 0.02).requires_grad_() for shape in shapes]
        self.grads = [torch.randn(shape, device=device) * 1e-3 for shape in shapes]
        self.scratch_grads = [grad.clone() for grad in self.grads]
        self.numel = sum(param.numel() for param in self.params)

    def set_gradients(self, *, scratch: bool) -> None:
        """Give every parameter its gradient; scratch ones are filled anew."""
        if scratch:
            torch._foreach_copy_(self.scratch_grads, self.grads)
        for param, grad in zip(self.params, self.scratch_grads if scratch else self.grads, strict=True):
            param.grad = grad


def parameter_shapes(layers: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Shapes of BERT for masked-language modelling, no pooler: with 12 layers and 30522 words 202 tensors, 109.5 M.

    The output embedding is the word embedding's tensor, so the head has its transform, LayerNorm and bias only.
    """
    vector, square = (HIDDEN,), (HIDDEN, HIDDEN)
    normalization = [vector, vector]  # LayerNorm's weight and bias
    embeddings = [(vocabulary, HIDDEN), (POSITIONS, HIDDEN), (TOKEN_TYPES, HIDDEN), *normalization]
    attention = [square, vector] * 4 + normalization  # query, key, value and output, with biases
    feed_forward = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE,), (HIDDEN, INTERMEDIATE), vector, *normalization]
    head = [square, vector, *normalization, (vocabulary,)]  # transform; bias over the vocabulary
    return [*embeddings, *((attention + feed_forward) * layers), *head]


def our_rows(work: Workload) -> list[Row]:
    """Adan and torch's AdamW, each as it is by default and in its other implementation, and the yardstick."""
    flat = work.device.type == "cuda"
    moved = [torch.zeros(work.numel, device="cuda")] * CUDA_PASSES if flat else [p.detach() for p in work.params]

    def move() -> None:
        for tensor in moved:
            tensor.mul_(1.0)

    return [
        Row(OURS, Adan(work.params, **OPTIONS).step, ADAN_BYTES),
        Row(f"{OURS}(foreach=True)", Adan(work.params, foreach=True, **OPTIONS).step, ADAN_BYTES),
        Row(ADAMW_DEFAULT, AdamW(work.params, **OPTIONS).step, ADAMW_BYTES),
        Row(ADAMW_FUSED, AdamW(work.params, fused=True, **OPTIONS).step, ADAMW_BYTES),
        Row(YARDSTICK, move, 8 * CUDA_PASSES if flat else 8),
    ]


def peer_rows(work: Workload) -> tuple[list[Row], dict[str, str]]:
    """Other implementations of Adan; and for each that is left out the reason."""
    foreach: dict[str, Any] = {"foreach": True}
    rows, left_out = [], {}
    for name, module, remedy, options in (
        (OFFICIAL, OFFICIAL_MODULE, HOW_TO_GET_OFFICIAL, foreach),
        (OPTIMI, "optimi", "pip install torch-optimi", {} if work.device.type == "cuda" else foreach),
        ("pytorch_optimizer.Adan", "pytorch_optimizer", "pip install pytorch-optimizer", {}),
    ):
        try:
            optimizer = importlib.import_module(module).Adan(work.params, **OPTIONS, **options)
            rows.append(Row(name, optimizer.step, ADAN_BYTES, is_peer=True))
        except ImportError:
            left_out[name] = f"not here: {remedy}"
    return rows, left_out


def load_official(path: Path) -> None:
    """Make the authors' file the module `OFFICIAL_MODULE`; a UserError if it is not there or cannot be loaded."""
    if not path.is_file():
        raise UserError(f"--official {path}: no such file ({HOW_TO_GET_OFFICIAL})")
    module = sys.modules[OFFICIAL_MODULE] = ModuleType(OFFICIAL_MODULE)
    try:
        SourceFileLoader(OFFICIAL_MODULE, str(path)).exec_module(module)
        module.Adan([torch.zeros(1)], **OPTIONS, foreach=True)
    except Exception as error:
        raise UserError(f"--official {path} is not the authors' adan.py: {error!r}") from error


def milliseconds(step: Callable[[], Any], device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end)
    before = time.perf_counter()
    step()
    return (time.perf_counter() - before) * 1e3


def extra_memory_mb(step: Callable[[], Any], device: torch.device) -> float | None:
    """Most memory that a warm step holds beyond what is held before it, in MB; None where nothing tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6

    def resident_bytes(key: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024

    try:
        # glibc keeps freed memory: unless it is given back, a step's temporaries hide in what an earlier row freed.
        getattr(ctypes.CDLL(None), "malloc_trim", abs)(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak VmHWM is now what is resident
        before = resident_bytes("VmRSS")
        step()
        return max(resident_bytes("VmHWM") - before, 0) / 1e6
    except (OSError, IndexError):  # not Linux, or one that does not say
        step()
        return None


def measure(work: Workload, rows: list[Row], left_out: dict[str, str], rounds: int) -> dict[str, Row]:
    """Fill the rows' figures; rows by name. A peer that fails is left out, with its error as the reason."""
    working = {}
    for row in progress(rows, description="warming up", unit="row"):
        try:
            extra = []
            for _ in range(WARM_UP_STEPS):
                work.set_gradients(scratch=row.is_peer)
                extra.append(extra_memory_mb(row.step, work.device))
        except Exception as error:
            if not row.is_peer:
                raise
            left_out[row.name] = f"fails: {error!r}"
            continue
        # Other threads may take memory meanwhile; a step's own temporaries are there each time.
        row.extra_memory_mb = min((value for value in extra if value is not None), default=None)
        working[row.name] = row
    for _ in progress(range(rounds), description="measuring", unit="round"):
        for row in random.sample(list(working.values()), len(working)):
            work.set_gradients(scratch=row.is_peer)
            row.milliseconds.append(milliseconds(row.step, work.device))
    return working


def figures(rows: dict[str, Row]) -> dict[str, Any]:
    """The figures as a JSON value. A row's bandwidth limit is the time in which the yardstick would move its bytes."""

    def ratio(row: Row, other: Row) -> float:
        return statistics.median(a / b for a, b in zip(row.milliseconds, other.milliseconds, strict=True))

    ours, yardstick = rows[OURS], rows[YARDSTICK]
    table: dict[str, dict[str, Any]] = {}
    for row in rows.values():
        low, median, high = statistics.quantiles(row.milliseconds, n=4, method="inclusive")
        table[row.name] = {
            "median_ms": median,
            "quartiles_ms": [low, high],
            "over_bandwidth_limit": ratio(row, yardstick) * yardstick.bytes_per_parameter / row.bytes_per_parameter,
            "over_ours": ratio(row, ours),
            "extra_memory_mb": row.extra_memory_mb,
            "all_ms": row.milliseconds,
        }
    headline = {
        "ours_over_bandwidth_limit": table[OURS]["over_bandwidth_limit"],
        "official_over_ours": table.get(OFFICIAL, {}).get("over_ours"),
        "optimi_over_ours": table.get(OPTIMI, {}).get("over_ours"),
        "adamw_default_over_ours": table[ADAMW_DEFAULT]["over_ours"],
        "ours_over_adamw_fused": ratio(ours, rows[ADAMW_FUSED]),
        "our_extra_memory_mb": ours.extra_memory_mb,
    }
    low, high = table[YARDSTICK]["quartiles_ms"]
    return {"headline": headline, "steady": high <= STEADY * low, "rows": table}


def facts(work: Workload, options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    models = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    compiled = "Triton" if work.device.type == "cuda" else "C++"
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": next(models, platform.processor() or platform.machine()),
        "gpu": torch.cuda.get_device_name(work.device) if work.device.type == "cuda" else None,
        "back_end": f"fused, {compiled}" if fused_available(work.device) else "eager",
        "parameters": work.numel,
        "tensors": len(work.params),
        **{name: getattr(options, name) for name in ("layers", "vocabulary", "rounds")},
    }


def report(result: dict[str, Any], machine: dict[str, Any], left_out: dict[str, str]) -> str:
    """The table as Markdown, after a summary in one line; then what is missing, and the bars."""

    def number(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.2f}"

    bars, met_bars = [], 0
    for key, meaning, bound, at_most in BARS:
        value = result["headline"][key]
        met = value is not None and (value <= bound if at_most else value >= bound)
        met_bars += met
        verdict = "not measured" if value is None else "met" if met else "NOT met"
        bars.append(f"- {meaning}: {number(value)} (at {'most' if at_most else 'least'} {bound}): {verdict}")
    ours = result["rows"][OURS]
    unsteady = "" if result["steady"] else "; UNSTEADY: other programs ran meanwhile, repeat it when none do"
    lines = [
        f"{OURS} ({machine['back_end']}): {ours['median_ms']:.3g} ms a step, {ours['over_bandwidth_limit']:.2f} times "
        f"the limit of the memory bandwidth; {met_bars} of {len(BARS)} bars met{unsteady}",
        f"\nBERT-base with {machine['layers']} of {LAYERS} layers, {machine['vocabulary']} of {VOCABULARY} words: "
        f"{machine['parameters'] / 1e6:.1f} M float32 parameters in {machine['tensors']} tensors; {machine['rounds']} "
        f"rounds; torch {machine['torch']}, threads: {machine['threads']}, {machine['gpu'] or machine['cpu']}\n",
        "| optimizer | median, ms | quartiles, ms | time / bandwidth limit | time / ours | extra memory, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["rows"].items():
        quartiles = "..".join(f"{value:.3g}" for value in row["quartiles_ms"])
        cells = [number(row[key]) for key in ("over_bandwidth_limit", "over_ours", "extra_memory_mb")]
        lines.append(f"| {name} | {row['median_ms']:.3g} | {quartiles} | {' | '.join(cells)} |")
    lines += ["", *(f"Left out: {name}, {reason}" for name, reason in left_out.items()), *bars]
    if machine["gpu"] is None:
        lines.append(f"NVIDIA GPU: not measured ({'--device cpu' if torch.cuda.is_available() else 'none present'})")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, print the table, write the JSON file."""
    devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each row is timed (default: 15)")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"fewer for a quick try (default: {LAYERS})")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help=f"words (default: {VOCABULARY})")
    parser.add_argument("--device", choices=devices, default=devices[0], help=f"default here: {devices[0]}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: its choice)")
    parser.add_argument("--official", type=Path, metavar="PATH", help="the authors' adan.py")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    for name, least in (("rounds", 2), ("layers", 1), ("vocabulary", 1), ("threads", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    if options.official:
        load_official(options.official)
    torch.set_num_threads(options.threads)
    work = Workload(options.layers, options.vocabulary, torch.device(options.device))
    peers, left_out = peer_rows(work)
    result = figures(measure(work, our_rows(work) + peers, left_out, options.rounds))
    machine = facts(work, options)
    print(report(result, machine, left_out))
    if options.json:
        write_json(options.json, {**result, "left_out": left_out, "machine": machine})


if __name__ == "__main__":
    with exit_on_user_error():
        main()
