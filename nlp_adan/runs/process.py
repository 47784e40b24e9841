"""What happens in a run's process: its folder is locked, its output goes to a file, and it ends with its parent."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path

from nlp_adan.errors import UserError
from nlp_adan.locks import folder_lock
from nlp_adan.runs.folder import FAILED, OUTPUT
from nlp_adan.runs.run import Run
from nlp_adan.training.environment import share_cpu_cores
from nlp_adan.training.signals import RESUME_EXIT_CODE

ADVANCE_SECONDS = 0.2  # between two words on how far the run is
# Processes of a call that was killed end within a second, on a busy machine within some; a new call's runs wait so
# long for their folders.
LOCK_SECONDS = 8.0
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # Python's; torch's, on an accelerator


def conduct(run: Run, environ: Mapping[str, str], reports: Connection) -> None:
    """Do a run; the target of its process.

    Sends `("advance", share)` now and then, and `("kept",)`, `("locked", error)` or `("failed", error)` where that is
    how it ends. A run that is done has its result to show for it.

    Args:
        environ: the environment of the run: a fork server's is that of the moment when it began.
    """
    os.setsid()  # a terminal's interrupt reaches the parent alone, which tells its runs; and a kill reaches all of them
    _end_with_parent()
    os.environ.clear()
    os.environ.update(environ)
    try:
        with folder_lock(run.folder, LOCK_SECONDS):
            if run.is_done:  # by a process of an earlier call, at its last breath
                reports.send(("kept",))
                return
            _redirect_output(run.folder / OUTPUT)
            share_cpu_cores()
            try:
                run.function(run.folder, _Reporter(reports), **run.arguments)
            except Exception as error:
                if not isinstance(error, UserError):
                    traceback.print_exc()
                reports.send(("failed", told(error)))
                sys.exit(1)
            (run.folder / FAILED).unlink(missing_ok=True)
    except UserError as error:
        reports.send(("locked", str(error)))
        sys.exit(1)


class _Reporter:
    """`advance` of a run: tells the parent the share that is done."""

    def __init__(self, reports: Connection) -> None:
        self.reports = reports
        self._told_at = -ADVANCE_SECONDS

    def __call__(self, done: float, total: float) -> None:
        now = time.monotonic()
        if now - self._told_at >= ADVANCE_SECONDS or done >= total:
            self._told_at = now
            self.reports.send(("advance", min(1.0, done / total) if total > 0 else 1.0))


def told(error: BaseException) -> str:
    """An exception in a line."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError):
        return " ".join(line.strip() for line in lines)
    if type(error).__name__ in _OUT_OF_MEMORY or "allocate memory" in str(error):
        return f"out of memory ({lines[0] if lines else type(error).__name__}): smaller batches or fewer `--jobs` help"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def end_reason(exit_code: int | None) -> str:
    """Why a process that said nothing has ended."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        more = ": if nobody sent it, the system had no memory left" if name == "SIGKILL" else ""
        return f"ended by {name}{more}"
    if exit_code == RESUME_EXIT_CODE:
        return "was told to stop; the next call goes on with it"
    if exit_code == 0:
        return "ended without a result"
    return f"ended with exit code {exit_code}"


def _end_with_parent() -> None:
    """Have a thread wait for the parent's end, whatever the cause, and then end the run and all that it started."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="parent's end", daemon=True).start()


def _redirect_output(path: Path) -> None:
    """Append standard output and error, those of libraries too, to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Line by line: a process that is killed leaves what it has said. No character ends a run.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    if os.fstat(1).st_size:
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}: another attempt ---")
