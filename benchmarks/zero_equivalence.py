"""Is a sharded step of Adan the unsharded one? ZeRO 0 to 3, offload, DDP, FSDP2 and the Trainer against one process.

    python benchmarks/zero_equivalence.py --official ~/Adan/adan.py --json zero_equivalence.json

Two CPU ranks train a small transformer in every way (zero_equivalence_worker.py); one process trains it on the whole
batch. What is compared are all parameters after the last step and the losses of all steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from optimizer_step import HOW_TO_GET_OFFICIAL, load_official
from small_transformer import KEY_BIAS
from zero_equivalence_worker import (
    ACCUMULATION,
    CASES,
    GLOBAL_BATCH,
    MAX_NORM,
    NOT_CLIPPED,
    OFFICIAL,
    ONE_COUNTER,
    REFERENCE,
    STEPS,
    YARDSTICK,
    Result,
    result_path,
)

from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.storage import finite, json_file, write_json

WORKER = Path(__file__).with_name("zero_equivalence_worker.py")
RANKS = 2
# A case may be this many times as far from one process as plain DDP, which only adds in another order, and at least
# so far (absolute; parameters are about 0.1).
TIMES_YARDSTICK, LEAST_ALLOWED = 3.0, 1e-6
# What must be seen to differ: a comparison that does not see these sees nothing.
MUST_DIFFER = {
    NOT_CLIPPED: "the clipping acts",
    ONE_COUNTER: "ZeRO-3 steps each sub-group by itself",
    OFFICIAL: "it counts steps per group",
}
NOT_COMPARED = (YARDSTICK, *MUST_DIFFER)
SHARDED_STATES = ("ZeRO-1", "ZeRO-2", "ZeRO-3")
LIBRARIES = ("torch", "deepspeed", "transformers", "accelerate")


def launch(ranks: int, cases: list[str], folder: Path, steps: int, official: Path | None) -> dict[str, Result]:
    """Run the cases on so many ranks; what each found. Messages and the bar go to standard error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WORLD_SIZE", "RANK", "LOCAL_"))}
    on_cpu = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # What DeepSpeed's own launcher sets; without it DeepSpeed runs `numactl` at every communication of CPU ranks.
    on_cpu["LOCAL_SIZE"] = str(ranks)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    words = [sys.executable, *launcher, str(WORKER), str(folder), "--steps", str(steps), "--cases", *cases]
    words += ["--official", str(official)] if official else []
    folder.mkdir()
    done = subprocess.run(words, env={**kept, **on_cpu}, stdout=sys.stderr)
    if done.returncode:
        raise RuntimeError(
            f"training on {ranks} rank(s) ended with exit code {done.returncode}; its messages are above"
        )
    return {case: torch.load(result_path(folder, case), weights_only=True) for case in cases}


def measure(steps: int, official: Path | None) -> tuple[dict[str, Result], dict[str, Result]]:
    """All results by case: those of a single process, and those of two ranks. Both are trained at the same time."""
    alone = [REFERENCE, NOT_CLIPPED, *SHARDED_STATES]
    sharded = [case for case in CASES if case not in (REFERENCE, NOT_CLIPPED) and (official or case != OFFICIAL)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        one = pool.submit(launch, 1, alone, Path(folder, "one"), steps, None)
        two = pool.submit(launch, RANKS, sharded, Path(folder, "two"), steps, official)
        return one.result(), two.result()


def largest(values: Iterable[float]) -> float:
    """The largest; NaN if there is one among them, which Python's max may overlook."""
    return torch.tensor(list(values), dtype=torch.float64).max().item()


def compare(found: Result, reference: Result) -> dict[str, Any]:
    """The figures of a case: largest absolute differences to the reference, and what its states take."""
    if found["parameters"].keys() != reference["parameters"].keys():
        raise RuntimeError("a case ended with parameters of other names than the reference's")
    differences = {
        name: (found["parameters"][name] - expected).abs().max().item()
        for name, expected in reference["parameters"].items()
    }
    return {
        "parameter_difference": largest(value for name, value in differences.items() if KEY_BIAS not in name),
        "key_bias_difference": largest(value for name, value in differences.items() if KEY_BIAS in name),
        "loss_difference": largest(abs(a - b) for a, b in zip(found["losses"], reference["losses"], strict=True)),
        "state_bytes": sum(found["state_bytes"].values()),
        "optimizer": found["optimizer"],
        "sub_groups": found["sub_groups"],
    }


def halving(alone: dict[str, Result], sharded: dict[str, Result]) -> dict[str, dict[str, Any]]:
    """Bytes of the states on one rank and on each of two, by ZeRO stage; `ratio` is that of the least sharded state."""
    figures = {}
    for case in SHARDED_STATES:
        one, two = alone[case]["state_bytes"], sharded[case]["state_bytes"]
        ratio = max(two[name] / one[name] for name in one)
        figures[case] = {"one_rank": one, "two_ranks": two, "ratio": ratio, "met": ratio <= 1 / RANKS}
    return figures


def figures(alone: dict[str, Result], sharded: dict[str, Result], steps: int) -> dict[str, Any]:
    """All figures as a JSON value. `headline`: the largest difference of a sharded case / the allowed one."""
    reference = alone[REFERENCE]
    results = {**alone, **sharded}  # of what ran on one rank and on two, the latter
    rows = {case: compare(results[case], reference) for case in CASES if case in results and case != REFERENCE}
    allowed = max(TIMES_YARDSTICK * rows[YARDSTICK]["parameter_difference"], LEAST_ALLOWED)
    for case, row in rows.items():
        row["must_differ"] = case in MUST_DIFFER
        row["met"] = (row["parameter_difference"] <= allowed) != row["must_differ"]
    return {
        "headline": largest(rows[case]["parameter_difference"] for case in rows if case not in NOT_COMPARED) / allowed,
        "allowed": allowed,
        "steps": steps,
        "norms": [min(reference["norms"]), max(reference["norms"])],
        "max_norm": MAX_NORM,
        "losses": [reference["losses"][0], reference["losses"][-1]],
        "parameters": sum(parameter.numel() for parameter in reference["parameters"].values()),
        "rows": rows,
        "state_bytes": halving(alone, sharded),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def verdict(met: bool) -> str:
    """How the table says it."""
    return "met" if met else "NOT met"


def report(result: dict[str, Any], left_out: dict[str, str]) -> str:
    """A summary in one line, the table as Markdown, the states' bytes, what is left out."""
    rows, states = result["rows"], result["state_bytes"]
    met = [row["met"] for case, row in rows.items() if case not in NOT_COMPARED]
    sub_groups = {row["sub_groups"] for row in rows.values() if row["sub_groups"]}
    norms, losses = ("{:.3g} to {:.3g}".format(*result[name]) for name in ("norms", "losses"))
    lines = [
        f"Adan on {RANKS} ranks ends within {result['headline'] * result['allowed']:.1e} of one process, "
        f"{result['headline']:.2f} of the allowed {result['allowed']:.1e}: {sum(met)} of {len(met)} cases met; states "
        f"halved at {sum(stage['met'] for stage in states.values())} of {len(states)} ZeRO stages",
        f"\nA transformer of {result['parameters']} float32 parameters in two groups, {result['steps']} steps, loss "
        f"{losses}; {GLOBAL_BATCH} sequences a step: {RANKS} ranks x {ACCUMULATION} micro-batches x "
        f"{GLOBAL_BATCH // RANKS // ACCUMULATION}; gradients of norm {norms} clipped to {result['max_norm']}; ZeRO-3 "
        f"in {' or '.join(map(str, sorted(sub_groups)))} sub-groups; gloo on CPU; "
        f"{', '.join(f'{name} {number}' for name, number in result['versions'].items())}\n",
        f"| largest difference to one process | parameter | key bias | loss | state bytes per rank | at most "
        f"{result['allowed']:.1e} |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for case, row in rows.items():
        cells = [f"{row[f'{what}_difference']:.1e}" for what in ("parameter", "key_bias", "loss")]
        bar = "the yardstick" if case == YARDSTICK else verdict(row["met"])
        if row["must_differ"]:
            bar = f"{'exceeded' if row['met'] else 'NOT exceeded'}, as it must be: {MUST_DIFFER[case]}"
        lines.append(f"| {case} | {' | '.join(cells)} | {row['state_bytes']} | {bar} |")
    lines += [
        "",
        f"| state bytes per rank | 1 rank | {RANKS} ranks | ratio of the least sharded state | at most {1 / RANKS} |",
        "|---|---:|---:|---:|---|",
    ]
    for case, stage in states.items():
        one, two = (sum(stage[name].values()) for name in ("one_rank", "two_ranks"))
        lines.append(f"| {case} | {one} | {two} | {stage['ratio']:.4f} | {verdict(stage['met'])} |")
    lines += ["", *(f"Left out: {name}, {reason}" for name, reason in left_out.items())]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Read the command line, train, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"fewer for a quick try (default: {STEPS})")
    parser.add_argument("--official", type=Path, metavar="PATH", help="the authors' adan.py")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if options.steps < 1:
        raise UserError(f"--steps must be 1 or more, got {options.steps}")
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise UserError(f"{library} is not installed: pip install 'nlp-adan[all]'")
    left_out = {}
    if options.official:
        load_official(options.official)  # a mistake is told before anything is trained
    else:
        left_out[OFFICIAL] = f"not here: {HOW_TO_GET_OFFICIAL}"
    result = figures(*measure(options.steps, options.official), options.steps)
    print(report(result, left_out))
    if options.json:
        write_json(options.json, finite({**result, "left_out": left_out}))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
