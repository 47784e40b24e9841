"""The files of an optimizer's state in a checkpoint, one of each rank that wrote it, read as one.

A part is a safetensors file of tensors STATE/PARAMETER. Those that its metadata lists under "slices", with a begin and
an end, are ranges of the flattened parameter; the others are what the optimizer keeps once a parameter, such as `step`.
Under "numbers" are those of the latter that are Python numbers.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nlp_adan.errors import UserError

FOLDER = "optimizer"
DESCRIPTION = "optimizer.json"
MASTER = "master"  # the state's name of a float32 master weight
_PART = re.compile(r"part-(\d{5,})-of-(\d{5,})\.safetensors")
_NUMBERS = {"int": int, "float": float, "bool": bool}


def part_path(rank: int, world_size: int) -> str:
    """The part that a rank writes, in the checkpoint's folder."""
    return f"{FOLDER}/part-{rank:05}-of-{world_size:05}.safetensors"


def split_key(key: str) -> tuple[str, str]:
    """State and parameter of a tensor's name in a part."""
    state, _, name = key.partition("/")
    return state, name


class OptimizerParts:
    """All parts of a checkpoint, opened for reading slices. Nothing but what is asked for is read.

    Raises: UserError for a part that is missing or no such file.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.folder = checkpoint / FOLDER
        self._files: dict[str, Any] = {}
        self._slices: dict[str, list[tuple[int, int, str]]] = {}  # (begin, end, part), by key, sorted
        self._whole: dict[str, str] = {}
        self._numbers: dict[str, str] = {}
        self._states: dict[str, list[str]] = {}  # of each parameter
        self._open = contextlib.ExitStack()
        try:
            for part in self._parts():
                self._add(part)
        except BaseException:
            self._open.close()
            raise
        for ranges in self._slices.values():
            ranges.sort()

    def __enter__(self) -> OptimizerParts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._open.close()

    def _parts(self) -> list[str]:
        found = {path.name for path in self.folder.glob("part-*-of-*.safetensors")}
        numbered = [match for match in map(_PART.fullmatch, sorted(found)) if match]
        counts = {int(match[2]) for match in numbered}
        if len(counts) != 1:
            what = "parts of several checkpoints" if counts else "no parts of an optimizer's state"
            raise UserError(f"{self.folder}: {what} are there; resume from another checkpoint")
        (count,) = counts
        for rank in range(count):
            name = Path(part_path(rank, count)).name
            if name not in found:
                raise UserError(
                    f"{self.folder / name} is missing, {len(found)} of {count} parts are there; resume from another "
                    "checkpoint, or copy this one again with all its files"
                )
        return sorted(found)

    def _add(self, part: str) -> None:
        try:
            file = self._open.enter_context(safe_open(self.folder / part, framework="pt", device="cpu"))
            metadata = file.metadata() or {}
            ranges = json.loads(metadata.get("slices", "{}"))
            self._numbers.update(json.loads(metadata.get("numbers", "{}")))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{self.folder / part} cannot be read ({error}); resume from another checkpoint") from error
        self._files[part] = file
        for key in file.keys():  # noqa: SIM118, it is no mapping
            state, name = split_key(key)
            if key in ranges:
                begin, end = ranges[key]
                self._slices.setdefault(key, []).append((begin, end, part))
            else:
                self._whole[key] = part
            states = self._states.setdefault(name, [])
            if state not in states:
                states.append(state)

    def names(self) -> list[str]:
        """The parameters that there is anything of, sorted."""
        return sorted(self._states)

    def states_of(self, name: str) -> list[str]:
        """The states of a parameter, without its master weight; none where the optimizer had not stepped it."""
        return sorted(state for state in self._states.get(name, ()) if state != MASTER)

    def has_master(self, name: str) -> bool:
        """Whether there is a float32 master weight of a parameter."""
        return MASTER in self._states.get(name, ())

    def is_sliced(self, state: str, name: str) -> bool:
        """Whether a state has an element for each of the parameter's."""
        return f"{state}/{name}" in self._slices

    def read(self, state: str, name: str, begin: int, end: int) -> Tensor:
        """Elements [begin, end) of the flattened state, 1-D, on the CPU. UserError where no part has them."""
        key = f"{state}/{name}"
        pieces, position = [], begin
        for first, last, part in self._slices.get(key, ()):
            if first <= position < last:
                until = min(last, end)
                pieces.append(self._files[part].get_slice(key)[position - first : until - first])
                position = until
            if position >= end:
                break
        if position < end:
            raise UserError(
                f"{self.folder}: no part has elements {position} to {end - 1} of {state} of {name}; resume from "
                "another checkpoint"
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def read_whole(self, state: str, name: str) -> Tensor | float:
        """What the optimizer keeps once a parameter: a tensor or a Python number."""
        key = f"{state}/{name}"
        value: Tensor = self._files[self._whole[key]].get_tensor(key)
        return _NUMBERS[self._numbers[key]](value.item()) if key in self._numbers else value
