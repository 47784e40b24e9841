"""A checkpoint as another number of ranks, at another ZeRO stage, would have written it.

No start needs it: each reads the slices that it owns from whatever parts there are. In a resharded checkpoint they are
in one file a rank, and the manifest names the ranks and the stage.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.derived_folder import (
    byte_bar,
    check_new,
    copy_file,
    derived_folder,
    good_manifest,
    num_bytes_of,
    verify_shown,
)
from nlp_adan.training.checkpoint.fragments import Fragment
from nlp_adan.training.checkpoint.inspection import MEMORY, RANDOM_STATE
from nlp_adan.training.checkpoint.manifest import CHECKPOINT_NAME, FileEntry, Manifest
from nlp_adan.training.checkpoint.optimizer_description import read_description
from nlp_adan.training.checkpoint.optimizer_parts import DESCRIPTION, FOLDER, MASTER, OptimizerParts, part_path
from nlp_adan.training.checkpoint.optimizer_state import shares
from nlp_adan.training.checkpoint.tensor_files import TensorFile, write_tensor_file

# ZeRO 1 and 2 make each rank's part of a group a multiple of so many elements.
ALIGNMENT = 2

Slice = tuple[str, int, int]
"""A parameter's name, and where its elements begin and end in the flattened parameter."""


def cut(
    groups: Sequence[Sequence[str]], sizes: Mapping[str, int], world_size: int, zero_stage: int | None
) -> list[list[Slice]]:
    """What each rank of a start holds of the optimizer's state.

    Args:
        groups: names of the parameters of each of the optimizer's groups.
        sizes: elements of each parameter.
        zero_stage: None without DeepSpeed.
    """
    names = [name for group in groups for name in group]
    if not zero_stage:  # every rank has everything: whole parameters are dealt out
        nowhere = torch.empty(0)
        dealt = shares([Fragment(name, 0, sizes[name], nowhere, 0) for name in names], world_size)
        return [[(each.name, each.begin, each.end) for each in share] for share in dealt]
    parts: list[list[Slice]] = [[] for _ in range(world_size)]
    if zero_stage == 3:  # each parameter in equal parts
        for name in names:
            _cut_run([name], sizes, -(-sizes[name] // world_size), parts)
        return parts
    for group in groups:  # the parameters of a group one after the other, in equal parts
        total = sum(sizes[name] for name in group)
        _cut_run(group, sizes, -(-total // (ALIGNMENT * world_size)) * ALIGNMENT, parts)
    return parts


def _cut_run(names: Iterable[str], sizes: Mapping[str, int], length: int, parts: list[list[Slice]]) -> None:
    """Give each rank `length` elements of parameters that lie one after the other; the last ones have less."""
    begin = 0  # of a parameter, in the run
    for name in names:
        end = begin + sizes[name]
        for rank in range(begin // max(1, length), len(parts)):
            first, last = max(begin, rank * length), min(end, (rank + 1) * length)
            if first >= last:
                break
            parts[rank].append((name, first - begin, last - begin))
        begin = end


def reshard(checkpoint: Path, output: Path, world_size: int, zero_stage: int | None) -> list[str]:
    """Write a checkpoint of the same content as a start of `world_size` ranks at a ZeRO stage would have written it.

    Returns: what a start on it has to know, a sentence each.

    Raises: UserError for a damaged checkpoint, and for what such a start could not go on with.
    """
    check_new(output, checkpoint)
    manifest = good_manifest(checkpoint, hashes=False)
    _check_possible(manifest, output, world_size)
    good_manifest(checkpoint)
    description = read_description(checkpoint)
    groups = [group["parameters"] for group in description["groups"]]
    sizes = {name: torch.Size(facts["shape"]).numel() for name, facts in description["parameters"].items()}
    files, notes = _other_files(manifest, world_size)
    with derived_folder(output) as folder, OptimizerParts(checkpoint) as parts:
        strange = set(parts.names()) - {name for group in groups for name in group}
        if strange:
            raise UserError(
                f"{parts.folder}: {DESCRIPTION} does not know {min(strange)!r}, of which there is state; take another "
                "checkpoint"
            )
        if zero_stage:
            _check_flat(parts, groups)
        written: dict[str, FileEntry] = {}
        with byte_bar(f"writing {output.name}", num_bytes_of(manifest)) as advance:
            for name, target in files.items():
                written[target] = copy_file(name, checkpoint, folder, manifest.files[name], target)
                advance(written[target].size)
            for rank, slices in enumerate(cut(groups, sizes, world_size, zero_stage)):
                file = _part(parts, slices, part_path(rank, world_size))
                written[file.path] = write_tensor_file(folder, file)
                advance(written[file.path].size)
        dataclasses.replace(manifest, world_size=world_size, zero_stage=zero_stage, files=written).write(folder)
        if damages := verify_shown(folder):
            raise UserError(f"--output_dir: the disk of {output} does not hold what was written: {damages[0]}")
    return notes


def _check_possible(manifest: Manifest, output: Path, world_size: int) -> None:
    if f"{FOLDER}/{DESCRIPTION}" not in manifest.files:
        raise UserError(
            f"the checkpoint of step {manifest.step:,} has no {FOLDER}/{DESCRIPTION}: FSDP's files, which torch deals "
            "out itself when a start with `--fsdp` and another number of ranks reads them"
        )
    if manifest.sequences_per_step % world_size:
        raise UserError(
            f"--world_size: {world_size} ranks cannot share the {manifest.sequences_per_step} sequences of a step "
            f"equally; choose a divisor of {manifest.sequences_per_step}"
        )
    named = CHECKPOINT_NAME.fullmatch(output.name)
    if named and int(named[1]) != manifest.step:
        raise UserError(
            f"--output_dir: {str(output)!r} is the name of a checkpoint of step {int(named[1]):,}, and this one is of "
            f"step {manifest.step:,}; name it checkpoint-{manifest.step}, or no such name"
        )


def _other_files(manifest: Manifest, world_size: int) -> tuple[dict[str, str], list[str]]:
    """What goes along beside the optimizer's parts, each with its new name; and what there is to know of it."""
    files, missing, left = {}, set(range(world_size)), []
    for name in manifest.files:
        random_state = RANDOM_STATE.fullmatch(name)
        if random_state is None:
            if not name.startswith(f"{FOLDER}/part-"):
                files[name] = name
        elif (rank := int(random_state[1] or 0)) < world_size:
            # The Trainer's names.
            files[name] = f"rng_state_{rank}.pth" if world_size > 1 else "rng_state.pth"
            missing.discard(rank)
        else:
            left.append(rank)
    notes = []
    if missing:
        notes.append(f"random states are drawn anew by {_ranks(sorted(missing))}, which this run did not have")
    if left:
        notes.append(f"random states of {_ranks(sorted(left))} are left out")
    if any(MEMORY.fullmatch(name) for name in files) and manifest.world_size != world_size:
        notes.append("recurrent memories go along as they are: a start gives each rank those of its streams")
    return files, notes


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


def _check_flat(parts: OptimizerParts, groups: Sequence[Sequence[str]]) -> None:
    """Raise a UserError for what cannot be in one flat tensor with others, as ZeRO has the parameters of a group."""
    remedy = "write `--stage none` or `--stage 0`"
    for group in groups:
        held = [name for name in group if parts.states_of(name)]
        for name in held:
            states, expected = parts.states_of(name), parts.states_of(held[0])
            if states != expected:
                raise UserError(
                    f"{parts.folder}: there are {', '.join(expected)} of {held[0]} and {', '.join(states)} of {name}, "
                    f"which ZeRO holds together; {remedy}"
                )
            for state in states:
                _check_together(parts, state, held[0], name)


def _check_together(parts: OptimizerParts, state: str, first: str, name: str) -> None:
    """Raise a UserError where a state of two parameters has neither elements of both nor one value for both."""
    remedy = "write `--stage none` or `--stage 0`"
    if parts.is_sliced(state, name) and parts.is_sliced(state, first):
        return
    if parts.is_sliced(state, name) or parts.is_sliced(state, first):
        raise UserError(
            f"{parts.folder}: only one of {first} and {name} has {state} for each element, and ZeRO holds them "
            f"together; {remedy}"
        )
    expected, value = (torch.as_tensor(parts.read_whole(state, each)) for each in (first, name))
    if value.ndim:
        raise UserError(
            f"{parts.folder}: {state} of {name} has the shape {tuple(value.shape)}, of which ZeRO can take no part; "
            f"{remedy}"
        )
    if not torch.equal(expected, value):
        raise UserError(
            f"{parts.folder}: {state} is {expected.item()} of {first} and {value.item()} of {name}, and ZeRO counts "
            f"them together; {remedy}"
        )


def _part(parts: OptimizerParts, slices: Sequence[Slice], path: str) -> TensorFile:
    """What a rank holds, as `optimizer_state.optimizer_files` would have it."""
    tensors: dict[str, Tensor] = {}
    ranges: dict[str, tuple[int, int]] = {}
    numbers: dict[str, str] = {}
    for name, begin, end in slices:
        for state in [*parts.states_of(name), *([MASTER] if parts.has_master(name) else [])]:
            key = f"{state}/{name}"
            if parts.is_sliced(state, name):
                tensors[key] = parts.read(state, name, begin, end)
                ranges[key] = (begin, end)
            elif begin == 0:
                value: Any = parts.read_whole(state, name)
                if not isinstance(value, Tensor):
                    numbers[key] = type(value).__name__
                    value = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
                tensors[key] = value
    return TensorFile(path, tensors, {"slices": json.dumps(ranges), "numbers": json.dumps(numbers)})
