"""A checkpoint for others: a Hugging Face folder of the model, and the optimizer's state in one file.

    config.json, model.safetensors, tokenizer files, ...   for `from_pretrained`
    optimizer.pt            the optimizer's state dict, for a plain Trainer or a loop in plain torch
    optimizer_official.pt   of Adan also: a state dict for the authors' code
    optimizer.json          the names of their parameters, in the order of the state dict's numbers

trainer_state.json, scheduler.pt and the random states go along: with them a plain Trainer can go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nlp_adan import state_formats
from nlp_adan.errors import UserError
from nlp_adan.options import state_dtype_of
from nlp_adan.storage import write_json
from nlp_adan.training.checkpoint.derived_folder import (
    byte_bar,
    check_new,
    copy_file,
    derived_folder,
    good_manifest,
    num_bytes_of,
)
from nlp_adan.training.checkpoint.inspection import MEMORY, WEIGHTS
from nlp_adan.training.checkpoint.manifest import OPTIMIZER_FOLDER, Advance, Manifest
from nlp_adan.training.checkpoint.optimizer_description import Description, read_description
from nlp_adan.training.checkpoint.optimizer_parts import DESCRIPTION, MASTER, OptimizerParts
from nlp_adan.training.checkpoint.tensor_files import TensorFile, write_tensor_file

DTYPES = ("float32", "as_trained")
OFFICIAL_FILE = "optimizer_official.pt"
TORCH_FILE = "optimizer.pt"
_INDEX = "model.safetensors.index.json"
_LOW_BITS = "param_low_bits"  # Adan's: what a bfloat16 parameter lacks to its float32 value


def export(checkpoint: Path, output: Path, dtype: str) -> list[str]:
    """Write a checkpoint's model and optimizer in the formats that others load.

    Args:
        output: a new folder.
        dtype: of the weights. "float32": those that the optimizer works on, where the model's are rounded from them;
            "as_trained": as the model has them.

    Returns: what was written, and what there is to know of it, a sentence each.

    Raises: UserError for a damaged checkpoint, and where weights of the optimizer are not the model's.
    """
    check_new(output, checkpoint)
    manifest = good_manifest(checkpoint, hashes=False)
    if not any(WEIGHTS.fullmatch(name) for name in manifest.files):
        raise UserError(f"{checkpoint} has no model.safetensors: FSDP's files, which `accelerate merge-weights` merges")
    good_manifest(checkpoint)
    with derived_folder(output) as folder, byte_bar(f"writing {output.name}", num_bytes_of(manifest)) as advance:
        if f"{OPTIMIZER_FOLDER}/{DESCRIPTION}" not in manifest.files:
            _copy_model(checkpoint, folder, manifest, advance)
            return ["the optimizer's state is in FSDP's files and was left out; the weights are as trained"]
        with OptimizerParts(checkpoint) as parts:
            if dtype == "float32":
                notes = _write_float32_model(checkpoint, folder, manifest, parts, advance)
            else:
                notes = _copy_model(checkpoint, folder, manifest, advance)
            return notes + _write_optimizer(checkpoint, folder, parts, advance)


def _copy_model(checkpoint: Path, folder: Path, manifest: Manifest, advance: Advance) -> list[str]:
    """Copy all that is not of our own formats."""
    for name, entry in manifest.files.items():
        if not (name.startswith(f"{OPTIMIZER_FOLDER}/") or MEMORY.fullmatch(name)):
            advance(copy_file(name, checkpoint, folder, entry).size)
    return []


def _write_float32_model(
    checkpoint: Path, folder: Path, manifest: Manifest, parts: OptimizerParts, advance: Advance
) -> list[str]:
    """`_copy_model` with all weights in float32; memory for one of the model's files is taken."""
    exact = {name for name in parts.names() if parts.has_master(name) or _LOW_BITS in parts.states_of(name)}
    others, num_bytes, num_raised = dict(manifest.files), 0, 0
    for name in filter(WEIGHTS.fullmatch, manifest.files):
        with safe_open(checkpoint / name, framework="pt", device="cpu") as file:
            saved = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
            metadata = file.metadata() or {}
        tensors = {key: _float32(key, tensor, parts) for key, tensor in saved.items()}
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
        exact -= tensors.keys()
        raised = sum(tensors[key].dtype != saved[key].dtype for key in saved)
        if raised:
            advance(write_tensor_file(folder, TensorFile(name, tensors, metadata)).size)
            del others[name]
            num_raised += raised
    if exact:
        raise UserError(
            f"{checkpoint}: the model's files have no {min(exact)!r}, of which the optimizer has the float32 weight; "
            "`--dtype as_trained` takes the weights as they are"
        )
    _copy_model(checkpoint, folder, Manifest(**{**vars(manifest), "files": others}), advance)
    if not num_raised:
        return ["the weights are float32 as trained"]
    for name in {"config.json", _INDEX} & others.keys():
        content = json.loads((checkpoint / name).read_text(encoding="utf-8"))
        if name == _INDEX:
            content.setdefault("metadata", {})["total_size"] = num_bytes
        write_json(folder / name, content if name == _INDEX else _of_float32(content))
    return [f"{num_raised:,} tensors of the model are now float32, with all the bits that the optimizer works on"]


def _float32(name: str, weight: Tensor, parts: OptimizerParts) -> Tensor:
    """A tensor of the model in float32, where it is a number of lower precision.

    Raises: UserError where the model's weight is not the rounded one of the optimizer.
    """
    if not weight.is_floating_point() or weight.element_size() >= 4:
        return weight
    if parts.has_master(name):
        exact = parts.read(MASTER, name, 0, weight.numel()).view(weight.shape)
        if not torch.equal(exact.to(weight.dtype), weight):
            raise UserError(
                f"{parts.folder}: the float32 weights of {name} are not those that the model's were rounded from; "
                "`--dtype as_trained` takes the model's"
            )
        return exact
    if _LOW_BITS in parts.states_of(name) and weight.dtype == torch.bfloat16:
        low = parts.read(_LOW_BITS, name, 0, weight.numel()).view(torch.int16).view(weight.shape)
        # float32 bits = 2^16 * bfloat16 bits + low bits, both with their signs
        return ((weight.view(torch.int16).to(torch.int32) << 16) + low.to(torch.int32)).view(torch.float32)
    return weight.float()


def _of_float32(config: Any) -> Any:
    """A model's configuration, and those in it, whose weights are in float32."""
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key in ("dtype", "torch_dtype") and isinstance(value, str) else _of_float32(value)
        for key, value in config.items()
    }


def _write_optimizer(checkpoint: Path, folder: Path, parts: OptimizerParts, advance: Advance) -> list[str]:
    description = read_description(checkpoint)
    state_dict = torch_state_dict(description, parts)
    kind = description["optimizer"]
    write_json(folder / DESCRIPTION, description)
    advance(_save(state_dict, folder / TORCH_FILE))
    notes = [f"{TORCH_FILE}: the state dict of {kind}, {len(state_dict['state']):,} parameters with state"]
    if kind != "Adan":
        return notes
    try:
        official = state_formats.official(state_dict)
    except ValueError as error:
        return [*notes, f"no {OFFICIAL_FILE}: {error}"]
    _save(official, folder / OFFICIAL_FILE)
    notes.append(f"{OFFICIAL_FILE}: the same for the authors' code")
    for index, (group, theirs) in enumerate(zip(state_dict["param_groups"], official["param_groups"], strict=True)):
        steps = [
            int(state_dict["state"][number]["step"]) for number in group["params"] if number in state_dict["state"]
        ]
        if steps and min(steps) < max(steps):
            notes.append(
                f"{OFFICIAL_FILE}: group {index} counts {theirs['step']:,} steps, for all of its parameters; here they "
                f"count {min(steps):,} to {max(steps):,}"
            )
    return notes


def torch_state_dict(description: Description, parts: OptimizerParts) -> dict[str, Any]:
    """An optimizer's state dict as torch has it: parameters are numbered in the order of the groups."""
    shapes = {name: torch.Size(facts["shape"]) for name, facts in description["parameters"].items()}
    state: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    begin = 0
    for group in description["groups"]:
        names = group["parameters"]
        for number, name in enumerate(names, begin):
            found = {
                key: parts.read(key, name, 0, shapes[name].numel()).view(shapes[name])
                if parts.is_sliced(key, name)
                else parts.read_whole(key, name)
                for key in parts.states_of(name)
            }
            if found:
                state[number] = found
        groups.append({**_options(group["options"]), "params": list(range(begin, begin + len(names)))})
        begin += len(names)
    return {"state": state, "param_groups": groups}


def _options(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """A group's options as the optimizer had them, from JSON's."""
    options = {name: _decoded(value) for name, value in encoded.items()}
    if "state_dtype" in options:
        options["state_dtype"] = state_dtype_of(options["state_dtype"])
    return options


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_decoded, value))
    return float(value) if value in ("inf", "-inf", "nan") else value


def _save(value: Any, path: Path) -> int:
    """Write a torch file; its size, when it is safe on the disk. Raises: OSError."""
    with open(path, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # of torch, over what the disk said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
