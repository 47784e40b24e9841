"""Sets of runs that are killed and started again: a command in a process of its own, and what it has finished."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from nlp_adan.runs import start_server

Command = Callable[[list[str]], None]
PATIENCE_SECONDS = 240


def fresh_server(preload: Sequence[str]) -> None:
    """A server for runs that has imported these modules; one that earlier tests have started has others."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    start_server(preload)


def _command(command: Command, given: list[str], cache: str) -> None:
    """The command, in a process that was forked when everything was imported, as are its runs."""
    forkserver.ensure_running = lambda: None
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    os.environ["NLP_ADAN_CACHE"] = cache
    command(given)


def start(command: Command, given: list[str], cache: Path) -> Any:
    """The process of a command; `fresh_server` has been called."""
    process = multiprocessing.get_context("forkserver").Process(target=_command, args=(command, given, str(cache)))
    process.start()
    return process


def results(out: Path) -> dict[Path, int]:
    """The finished runs, with the moments of their last writing."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/*/result.json")}


def wait_for(num_done: int, out: Path, process: Any) -> None:
    """Return when so many runs are finished."""
    until = time.monotonic() + PATIENCE_SECONDS
    while len(results(out)) < num_done:
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.002)
