"""A run's folder: what it holds, and who may write into it.

resolved.yaml      every option as it acted; a pretraining run's is itself a recipe (`--recipe runs/NAME/resolved.yaml`)
environment.json   versions, hardware, command, git state
starts.jsonl       one object a start or resumption: date, step, world_size, command
log.jsonl          one object a logging step: step, epoch, loss, grad_norm, learning_rate, tokens_per_second, ...
eval.jsonl         one object an evaluation
data.json          which prepared data a pretraining run trains on
checkpoint-N/      what `--resume auto` goes on from; .checkpoint-N.partial while it is written
.lock              locked by every rank that lives
config.json, model.safetensors, tokenizer files   the trained model
metrics.json       the final figures; written last, so that its presence means that the run is finished
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nlp_adan.errors import UserError
from nlp_adan.locks import LOCK
from nlp_adan.storage import write_json, write_text
from nlp_adan.training.checkpoint.manifest import MANIFEST
from nlp_adan.training.checkpoint.run_checkpoints import remove_later
from nlp_adan.training.environment import environment
from nlp_adan.training.recipe import read_recipe
from nlp_adan.training.settings import Difference, difference

SETTINGS = "resolved.yaml"
SURROUNDINGS = "environment.json"
STARTS = "starts.jsonl"

# What tries whether a folder can be written is named so; other ranks may see it.
PROBE = ".writable-"
# And the first file of a run until it is whole (`write_text`): all that a start which is killed then leaves.
UNFINISHED = f".{SETTINGS}."
# Read at once from the end of a log, to find the line where a resumed run goes on.
TAIL_BYTES = 1 << 16

# Options that the machine or the call decided: a recipe for another machine must not carry them.
MACHINES_OWN = frozenset({"use_cpu", "local_rank", "resume"})


class RunFolder:
    """The folder of one run. No file is written before `claim`.

    Args:
        folder: may not exist yet.
        last_file: the file that is written last, whose presence means that the run is finished.
    """

    def __init__(self, folder: str | Path, last_file: str = "metrics.json") -> None:
        self.path = Path(folder)
        self.last_file = last_file
        self._late: list[tuple[str, bytes]] = []  # lines that could not be written yet

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / self.last_file).is_file()

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """Every option of the run as it acted; None where the folder holds no run."""
        record = self.path / SETTINGS
        return read_recipe(record) if record.is_file() else None

    def check(
        self, options: Mapping[str, Any], resume: str, world_size: int = 1, identified: frozenset[str] = frozenset()
    ) -> None:
        """Check that a run with these options may use the folder, and go on from the checkpoint that it names.

        Args:
            options: all options of the new run, as `recipe.resolved` gives them.
            resume: "no" (the folder must hold no run), "auto" (go on from the last checkpoint if there is one), or
                the path of a checkpoint, in this run's folder or another's with the same settings.
            world_size: ranks of the new start.
            identified: options that the caller compares by what they name, when a run is gone on with.

        Raises:
            UserError: the folder holds another run, or something that is no run; there is no such checkpoint, or it
                is of another run.
        """
        self._check_writable()
        if resume not in ("no", "auto"):
            _check_named(Path(resume), options, world_size, identified)
        if self._is_free():
            return
        if not self.path.is_dir():
            raise UserError(f"--output_dir: {str(self.path)!r} is a file; choose a folder")
        found = self._difference(options, world_size, frozenset() if resume == "no" else identified)
        state = "finished" if self.finished else "unfinished"
        if found is not None:
            raise UserError(
                f"--output_dir: {str(self.path)!r} holds another run ({state}; {found.text}); "
                f"{found.remedy or 'choose another folder'}, or remove that one"
            )
        if resume == "no":
            remedy = (
                "choose another folder, or remove that one"
                if self.finished
                else "add `--resume auto` to go on with it, or choose another folder"
            )
            article = "a" if self.finished else "an"
            raise UserError(
                f"--output_dir: {str(self.path)!r} holds {article} {state} run with the same settings; {remedy}"
            )

    def _is_free(self) -> bool:
        return not self.path.exists() or (self.path.is_dir() and all(map(_is_passing, self.path.iterdir())))

    def _difference(self, options: Mapping[str, Any], world_size: int, identified: frozenset[str]) -> Difference | None:
        """What makes another run of the one that the folder holds."""
        settings = self.settings
        if settings is None:
            raise UserError(f"--output_dir: {str(self.path)!r} is not empty and holds no run; choose another folder")
        return difference(settings, options, (self._world_size(), world_size), identified)

    def _world_size(self) -> int:
        """Ranks of the last start, with which the recorded settings acted."""
        starts = self.read(STARTS)
        return int(starts[-1].get("world_size", 1)) if starts else 1

    def _check_writable(self) -> None:
        # os.path's: what may not be looked at counts as not there, and is told of by the folder above.
        parent = next(path for path in (self.path, *self.path.absolute().parents) if os.path.exists(path))
        try:
            if parent.is_dir():
                tempfile.TemporaryDirectory(dir=parent, prefix=PROBE).cleanup()
        except OSError as error:
            raise UserError(
                f"--output_dir: cannot write into {str(parent)!r} ({error.strerror}); choose another folder"
            ) from error

    def claim(self, options: dict[str, Any], resumed_step: int = 0) -> None:
        """Write what describes the run, and go back to the step that it goes on from. One rank calls it.

        Log lines and checkpoints of later steps are removed.
        """
        removed = remove_later(self.path, resumed_step) if resumed_step else []
        for left in self.path.glob(f"{UNFINISHED}*"):
            left.unlink()
        kept_options = {name: value for name, value in options.items() if name not in MACHINES_OWN}
        write_text(self.path / SETTINGS, yaml.safe_dump(kept_options, sort_keys=False, allow_unicode=True))
        surroundings = environment()
        write_json(self.path / SURROUNDINGS, surroundings)
        for name in ("log.jsonl", "eval.jsonl"):
            self._cut_after(name, resumed_step)
        self._cut_after(STARTS, sys.maxsize)  # or the next line would be a part of one that was not finished
        kept_names = ("date", "world_size", "command")
        self.append(STARTS, {"step": resumed_step, **{name: surroundings[name] for name in kept_names}})
        if removed:
            print(f"going on from step {resumed_step:,}: removed {', '.join(removed)} of {self.path}", flush=True)

    def remove_if_empty(self) -> None:
        """Leave nothing behind where a start failed before `claim`."""
        if self.path.is_dir() and self._is_free():
            with contextlib.suppress(OSError):  # another start has come into it
                for path in self.path.iterdir():
                    if path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink(missing_ok=True)
                self.path.rmdir()

    def _cut_after(self, name: str, step: int) -> None:
        """Remove a log's lines after a step, and a last line that a kill left unfinished.

        Read from the end: the cost is that of what is removed, however long the run is.
        """
        path = self.path / name
        if not path.is_file():
            return
        with open(path, "r+b") as file:
            tail, begin = b"", file.seek(0, os.SEEK_END)
            while begin > 0:
                size = min(begin, TAIL_BYTES)
                begin -= size
                file.seek(begin)
                tail = file.read(size) + tail
                lines = tail.splitlines(keepends=True)
                end = begin + len(tail)
                # The first line may have begun before the tail, unless the tail is the whole file.
                for line in reversed(lines if begin == 0 else lines[1:]):
                    if line.endswith(b"\n") and _step_of(line) <= step:
                        file.truncate(end)
                        return
                    end -= len(line)
            file.truncate(0)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The objects of a log file, up to a line that a killed run left unfinished."""
        path = self.path / name
        objects = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
            try:
                objects.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return objects

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Add one object to a log file; where the disk is full, with a later one."""
        self._late.append((name, json.dumps(line).encode() + b"\n"))
        while self._late:
            try:
                _append_whole(self.path / self._late[0][0], self._late[0][1])
            except OSError as error:
                if len(self._late) == 1:
                    print(f"WARNING: {self.path / name}: {error.strerror}; its lines are kept for later", flush=True)
                return
            del self._late[0]

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the final figures, and with them the mark that the run is finished."""
        write_json(self.path / self.last_file, metrics)


def _is_passing(path: Path) -> bool:
    """Whether a start leaves this in a folder that it has not made its own."""
    return path.name == LOCK or path.name.startswith((PROBE, UNFINISHED))


def _append_whole(path: Path, line: bytes) -> None:
    """Add a line to a file, or leave it as it was and raise an OSError."""
    with open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def _step_of(line: bytes) -> float:
    """The step of a log's line; infinity for a line that is none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _check_named(checkpoint: Path, options: Mapping[str, Any], world_size: int, identified: frozenset[str]) -> None:
    """Check that a checkpoint can be gone on from, and that it is of a run with the same settings."""
    if not os.path.isfile(checkpoint / MANIFEST):
        raise UserError(
            f"--resume: {str(checkpoint)!r} is not a whole checkpoint folder (no {MANIFEST} to read); "
            "name one, or `auto`"
        )
    run = RunFolder(checkpoint.absolute().parent)
    settings = run.settings
    if settings is None:
        raise UserError(
            f"--resume: no {SETTINGS} in {str(run.path)!r} says with which options {checkpoint.name} was trained; "
            f"name a checkpoint in its run's folder"
        )
    found = difference(settings, options, (run._world_size(), world_size), identified)
    if found is not None:
        raise UserError(
            f"--resume: {str(checkpoint)!r} is of another run ({found.text}); "
            f"{found.remedy or 'give the options of that run'}, or start anew without --resume"
        )
