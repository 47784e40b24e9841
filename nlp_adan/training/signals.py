"""Signals that ask a run to stop, and the exit code that says that it can be resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# The exit code of a run that wants to be resumed: sysexits.h's EX_TEMPFAIL.
RESUME_EXIT_CODE = 75
# A scheduler's end of time, a keyboard's interrupt, a scheduler's warning.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
Handlers = dict[signal.Signals, Any]


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> Handlers:
    """Let `handler` answer SIGNALS; who answered them before."""
    return {number: signal.signal(number, handler) for number in SIGNALS}


def restore_signals(previous: Handlers) -> None:
    """Undo `handle_signals`."""
    for number, handler in previous.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """SIGNALS that come while the block runs act at its end; in a thread other than the main one, which has no part."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    previous = handle_signals(lambda number, frame: came.append(number))
    try:
        yield
    finally:
        restore_signals(previous)
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def exits_to_be_resumed(how: str) -> Iterator[None]:
    """Outside of training, a signal ends the process at once with `RESUME_EXIT_CODE`: nothing is lost there.

    how: by which command the work goes on, for the message.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        if os.environ.get("RANK", "0") == "0":
            told = f"\nstopped by {signal.Signals(number).name}; go on with {how} (exit code {RESUME_EXIT_CODE})"
            print(told, file=sys.stderr, flush=True)
        raise SystemExit(RESUME_EXIT_CODE)

    previous = handle_signals(leave)
    try:
        yield
    finally:
        restore_signals(previous)


def ignore_signals(worker_id: int = 0) -> None:
    """In a data loader's worker: the rank decides when it ends, and needs its batch to come to the end of a step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
