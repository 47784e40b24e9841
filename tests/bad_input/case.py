"""One case of bad input: what a user types and has lying about, and what the command has to say to it."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shlex
import subprocess
import sys
import tempfile
import traceback
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nlp_adan.errors import EXIT_CODE, exit_on_user_error

PROJECT = Path(__file__).resolve().parents[2]
PROCESS_SECONDS = 300  # on a machine that does much else
# Lines of the remedy included: a message is read at a glance.
MOST_LINES = 8


@dataclass(frozen=True)
class Case:
    """What is wrong, in words; the words after the command; parts of the message, among them value and remedy.

    files: planted beside the ground's for this case alone, texts or bytes by their paths; None: a folder. environment:
    variables set for it. is_process: tried in a process of its own, as a user does, which takes some seconds.
    """

    what: str
    words: str
    told: tuple[str, ...]
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_process: bool = False


class Answer(NamedTuple):
    """How a command ended, and what it printed."""

    code: int | str | None
    out: str
    err: str


@dataclass(frozen=True)
class Command:
    """How a command is started: by these words, or in this process by calling `door()` of `module` after `words`."""

    program: tuple[str, ...]  # after `python`
    module: str
    door: str
    takes_words: bool = False  # else it reads sys.argv
    is_guarded: bool = True  # by its `exit_on_user_error`; else that stands around its call
    kept_still: tuple[str, ...] = ()  # functions that would start processes, by module and name

    def answer(self, words: str) -> Answer:
        """Call it in this process."""
        given = [*self.program_words, *shlex.split(words)]
        out, err = io.StringIO(), io.StringIO()
        code: int | str | None = None
        with (
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _argv([self.program[-1], *given]),
            _still(self.kept_still),
        ):  # fmt: skip
            try:
                door: Callable[..., object] = getattr(importlib.import_module(self.module), self.door)
                with contextlib.nullcontext() if self.is_guarded else exit_on_user_error():
                    result = door(given) if self.takes_words else door()
                code = result if isinstance(result, int) else 0
            except SystemExit as ended:
                code = ended.code
            except BaseException:
                code = "exception"
                traceback.print_exc()
        return Answer(code, out.getvalue(), err.getvalue())

    @property
    def program_words(self) -> list[str]:
        """What stands on the command line before a case's words."""
        return list(self.program[2:] if self.program[0] == "-m" else self.program[1:])

    def process(self, words: str) -> Answer:
        """Start it as a user does."""
        program = [str(PROJECT / word) if word.endswith(".py") else word for word in self.program]
        ended = subprocess.run(
            [sys.executable, *program, *shlex.split(words)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=PROCESS_SECONDS,
        )
        return Answer(ended.returncode, ended.stdout, ended.stderr)


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    path = list(sys.path)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before, path


@contextlib.contextmanager
def _still(names: Sequence[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(unittest.mock.patch(name))
        yield


def ground_folder(folder: Path) -> Path:
    """A new ground in an empty folder: what is good (`tests.bad_input.ground`)."""
    from tests.bad_input.ground import build_ground

    with _standing_in(folder, {}), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        build_ground(folder)
    return folder


def try_case(command: Command, case: Case, ground: Path) -> list[str]:
    """Plant the case's files in the ground, run the command there; all that is wrong with its answer."""
    with _standing_in(ground, case.environment), _planted(ground, case.files):
        before = _contents(ground)
        answer = (command.process if case.is_process else command.answer)(case.words)
        changed = _difference(before, _contents(ground))
    printed = answer.err
    wrong = [f"not told: {part!r}" for part in case.told if part not in printed]
    if answer.code != EXIT_CODE:
        wrong.append(f"exit code {answer.code!r}")
    if "Traceback" in printed + answer.out:
        wrong.append("a traceback")
    message = printed[printed.find("error") :] if "error" in printed else ""
    if not 0 < len(message.splitlines()) <= MOST_LINES:
        wrong.append(f"a message of {len(message.splitlines())} lines")
    wrong += [f"left behind: {change}" for change in changed]
    return [*wrong, f"printed: {printed[-3000:]}"] if wrong else []


@contextlib.contextmanager
def _standing_in(ground: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The ground as the working folder, its own folders for caches and temporary files, nothing of a launcher."""
    before, folder, temporary = dict(os.environ), Path.cwd(), tempfile.tempdir
    os.chdir(ground)
    tempfile.tempdir = str(ground / "tmp")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)
    folders = {"NLP_ADAN_CACHE": str(ground / "cache"), "TMPDIR": str(ground / "tmp")}
    os.environ.update({"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", **folders, **environment})
    try:
        yield
    finally:
        os.chdir(folder)
        tempfile.tempdir = temporary
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _planted(ground: Path, files: Mapping[str, str | bytes | None]) -> Iterator[None]:
    there = set(ground.rglob("*"))
    for name, content in files.items():
        path = ground / name
        assert path not in there, f"{name} is of the ground"
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        yield
    finally:
        for path in sorted(set(ground.rglob("*")) - there, reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _contents(ground: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all that is there; of folders nothing but that they are there.

    The cache may have come by what is whole: a tokenizer, say, that the next start with other options takes up.
    """
    found = {}
    for path in ground.rglob("*"):
        name = path.relative_to(ground)
        if name.parts[0] == "cache" and not any(part.startswith(".") for part in name.parts):
            continue
        status = path.lstat()
        found[str(name)] = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return found


def _difference(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [
        f"{name} {'is gone' if name not in after else 'is new' if name not in before else 'changed'}" for name in names
    ]
