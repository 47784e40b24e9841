"""What is in a checkpoint, from its manifest, its JSON files and the headers of its tensors' files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.derived_folder import good_manifest, num_bytes_of
from nlp_adan.training.checkpoint.manifest import OPTIMIZER_FOLDER, Manifest
from nlp_adan.training.checkpoint.optimizer_description import read_description
from nlp_adan.training.checkpoint.optimizer_parts import DESCRIPTION, OptimizerParts, split_key
from nlp_adan.training.checkpoint.optimizer_state import STEP
from nlp_adan.training.checkpoint.tensor_files import DTYPE_NAMES

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
RANDOM_STATE = re.compile(r"rng_state(?:_(\d+))?\.pth")  # of rank 0, or of that rank
MEMORY = re.compile(r"memory-\d+\.safetensors")
_PART = re.compile(rf"{OPTIMIZER_FOLDER}/part-.*\.safetensors")
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_SHOWN_OPTIONS = ("lr", "betas", "weight_decay", "momentum")


def inspect(checkpoint: Path) -> dict[str, Any]:
    """What `inspect --json` prints. Of tensors' values, only counters such as `step` are read.

    Raises: UserError where files are missing, or have another size or, of those that are read, another content than
        was written.
    """
    try:
        return _inspect(checkpoint)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        good_manifest(checkpoint)  # says which file is not what was written
        raise


def _inspect(checkpoint: Path) -> dict[str, Any]:
    manifest = good_manifest(checkpoint, hashes=False)
    has_optimizer = f"{OPTIMIZER_FOLDER}/{DESCRIPTION}" in manifest.files
    return {
        "path": str(checkpoint),
        "step": manifest.step,
        "date": manifest.date,
        "world_size": manifest.world_size,
        "zero_stage": manifest.zero_stage,
        "sequences_per_step": manifest.sequences_per_step,
        "versions": dict(manifest.versions),
        "num_files": len(manifest.files),
        "bytes": num_bytes_of(manifest),
        "model": _model(checkpoint, manifest),
        "optimizer": _optimizer(checkpoint, manifest) if has_optimizer else None,
        "random_states": sorted(filter(RANDOM_STATE.fullmatch, manifest.files)),
        "memories": sorted(filter(MEMORY.fullmatch, manifest.files)),
    }


def _model(checkpoint: Path, manifest: Manifest) -> dict[str, Any]:
    """What config.json calls the model, and its tensors. A tied weight is in the files, and counted, once."""
    config = {}
    if "config.json" in manifest.files:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    elements: dict[str, int] = {}
    for name in filter(WEIGHTS.fullmatch, manifest.files):
        for _, dtype, numel in _tensors_in(checkpoint / name):
            elements[dtype] = elements.get(dtype, 0) + numel
    return {
        "model_type": config.get("model_type"),
        "architectures": config.get("architectures"),
        "num_parameters": sum(elements.values()),
        "dtypes": sorted(elements),
    }


def _optimizer(checkpoint: Path, manifest: Manifest) -> dict[str, Any]:
    description = read_description(checkpoint)
    parameters = description["parameters"]
    groups = [
        {
            "options": group["options"],
            "num_tensors": len(group["parameters"]),
            "num_parameters": sum(torch.Size(parameters[name]["shape"]).numel() for name in group["parameters"]),
        }
        for group in description["groups"]
    ]
    return {
        "name": description["optimizer"],
        "groups": groups,
        "states": _states(checkpoint, manifest),
        "engine": description["engine"],
    }


def _states(checkpoint: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Each state of the optimizer over all parts, and after how many steps it stands."""
    states: dict[str, dict[str, Any]] = {}
    for part in filter(_PART.fullmatch, manifest.files):
        for key, dtype, numel in _tensors_in(checkpoint / part):
            state, name = split_key(key)
            found = states.setdefault(state, {"dtypes": set(), "names": set(), "elements": 0, "bytes": 0})
            found["dtypes"].add(dtype)
            found["names"].add(name)
            found["elements"] += numel
            found["bytes"] += numel * getattr(torch, dtype).itemsize
    with OptimizerParts(checkpoint) as parts:
        steps = {
            name: int(parts.read_whole(STEP, name))
            for name in parts.names()
            if STEP in parts.states_of(name) and not parts.is_sliced(STEP, name)
        }
    rows = []
    for state, found in sorted(states.items()):
        counted = [steps[name] for name in found["names"] if name in steps]
        rows.append(
            {
                "name": state,
                "dtype": ", ".join(sorted(found["dtypes"])),
                "num_tensors": len(found["names"]),
                "elements": found["elements"],
                "bytes": found["bytes"],
                "steps": [min(counted), max(counted)] if counted else None,
            }
        )
    return rows


def _tensors_in(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, dtype and number of elements of each tensor, from the file's header alone."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                found = file.get_slice(name)
                dtype = _DTYPES.get(found.get_dtype())
                shown = str(dtype).removeprefix("torch.") if dtype else found.get_dtype()
                yield name, shown, torch.Size(found.get_shape()).numel()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); take another checkpoint") from error


def lines_of(found: dict[str, Any]) -> list[str]:
    """`inspect`'s result for a reader."""
    stage = "without DeepSpeed" if found["zero_stage"] is None else f"at ZeRO stage {found['zero_stage']}"
    model = found["model"]
    architecture = f" ({', '.join(model['architectures'])})" if model["architectures"] else ""
    versions = [f"{name} {version}" for name, version in found["versions"].items() if version]
    weights = f"{model['num_parameters']:,} parameters in {', '.join(model['dtypes']) or 'no safetensors file'}"
    lines = [
        f"step {found['step']:,}, {found['sequences_per_step']:,} sequences a step, {found['date']}",
        f"written by {counted(found['world_size'], 'rank')} {stage}: {counted(found['num_files'], 'file')}, "
        f"{size(found['bytes'])}, all there by name and size (`verify` reads them)",
        f"versions:  {', '.join(versions)}",
        f"model:     {model['model_type'] or 'no config.json'}{architecture}, {weights}",
    ]
    lines += _optimizer_lines(found["optimizer"])
    lines.append(f"random states: {_listed(found['random_states'])}")
    if found["memories"]:
        lines.append(f"recurrent memories: {_listed(found['memories'])}")
    return lines


def _listed(files: Sequence[str]) -> str:
    """File names, or of many how many."""
    return ", ".join(files) or "none" if len(files) <= 4 else f"{files[0]} and {len(files) - 1} more"


def _optimizer_lines(optimizer: dict[str, Any] | None) -> list[str]:
    if optimizer is None:
        return [f"optimizer: in FSDP's files (no {OPTIMIZER_FOLDER}/{DESCRIPTION})"]
    lines = [f"optimizer: {optimizer['name']}"]
    for index, group in enumerate(optimizer["groups"]):
        options = [f"{name} {_shown(group['options'][name])}" for name in _SHOWN_OPTIONS if name in group["options"]]
        has = f"{group['num_parameters']:,} parameters in {counted(group['num_tensors'], 'tensor')}"
        lines.append(f"  group {index}: {', '.join([*options, has])}")
    rows: list[Sequence[str]] = [("state", "dtype", "tensors", "elements", "size", "steps")]
    for state in optimizer["states"]:
        low, high = state["steps"] or (None, None)
        steps = "-" if low is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"
        cells = (f"{state['num_tensors']:,}", f"{state['elements']:,}", size(state["bytes"]), steps)
        rows.append((state["name"], state["dtype"], *cells))
    return lines + [f"  {line}" for line in _table(rows)]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows in columns; all but the first two, which are words, end at the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def counted(number: int, noun: str) -> str:
    """A number of things that a regular noun names."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(num_bytes: int) -> str:
    """Bytes in the decimal unit that fits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return counted(num_bytes, "byte")
