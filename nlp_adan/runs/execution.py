"""Conducting a set of runs: several at a time, each in a fresh process, whatever becomes of the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection, forkserver
from typing import Any

import torch

from nlp_adan.progress import progress
from nlp_adan.runs.folder import OUTPUT, write_failure
from nlp_adan.runs.process import conduct, end_reason
from nlp_adan.runs.run import Outcome, Run
from nlp_adan.training.environment import JOBS
from nlp_adan.training.signals import signals_wait

GRACE_SECONDS = 60.0  # for runs that save something when they are told to end
FREEZE = "nlp_adan.runs.freeze"
BAR_PARTS = 1000
BAR_FORMAT = "{desc}{percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"
DEVICES = "CUDA_VISIBLE_DEVICES"
# The server that runs are forked from stays single-threaded: its BLAS would start threads when it is imported.
SERVER_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def describe_outcome(outcome: Outcome) -> str:
    """A line about a run that has come to its end."""
    if outcome.state == "failed":
        return f"{outcome.run.name} FAILED: {outcome.error}; output: {outcome.run.folder / OUTPUT}"
    return f"{outcome.run.name}: {outcome.state} ({outcome.seconds:.0f} s)"


def execute(
    runs: Sequence[Run],
    *,
    jobs: int = 1,
    devices: Sequence[str] | None = None,
    preload: Sequence[str] = (),
    describe: Callable[[Outcome], str] = describe_outcome,
    bar: bool = True,
) -> list[Outcome]:
    """Do the runs that have no result yet.

    A run that fails leaves failed.json in its folder, and the others go on. An exception in here, such as the
    `SystemExit` of `signals.exits_to_be_resumed`, ends the runs that are under way; so does this process's end.

    Args:
        runs: with different names and folders.
        jobs: runs at a time, each with its share of the cores.
        devices: GPUs as CUDA_VISIBLE_DEVICES names them, for the runs in turn, one each; none: no GPU is used;
            None: all that there are.
        preload: modules that the runs will want; where there is no accelerator, they are imported once for all.
        describe: the line that is printed about a run when it ends.
        bar: whether to show a progress bar over all runs.

    Returns:
        An outcome for each run, in their order.
    """
    names, folders = {run.name for run in runs}, {run.folder.resolve() for run in runs}
    if not len(runs) == len(names) == len(folders):
        raise ValueError("two runs have one name, or one folder")
    with contextlib.ExitStack() as stack:
        return _Execution(runs, jobs, devices, preload, describe, bar, stack).outcomes()


def start_server(preload: Sequence[str]) -> None:
    """Have the process that runs are forked from import some modules already; it computes nothing."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([*preload, FREEZE])
    is_main = threading.current_thread() is threading.main_thread()
    # While it imports, an interrupt from the terminal would make it print a traceback; it ends with this process.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        with _environment({name: value for name, value in SERVER_ENVIRONMENT.items() if name not in os.environ}):
            forkserver.ensure_running()
    finally:
        if is_main:
            signal.signal(signal.SIGINT, previous)


class _Process:
    """A run under way."""

    def __init__(self, run: Run, slot: int, context: Any, environ: Mapping[str, str]) -> None:
        self.run = run
        self.slot = slot
        self.share = 0.0  # of the run that is done
        self.end: tuple[str, ...] = ()  # what it said about its end
        self.began = time.monotonic()
        self.reports, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=conduct, args=(run, {**os.environ, **environ}, theirs), name=run.name)
        with _environment(environ):  # a spawned process imports modules before `conduct` begins
            self.process.start()
        theirs.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def receive(self) -> None:
        """Take in what it has said so far; `reports` is closed where nothing more can come."""
        try:
            while not self.reports.closed and self.reports.poll():
                kind, *values = self.reports.recv()
                if kind == "advance":
                    self.share = max(self.share, *values)
                else:
                    self.end = (kind, *values)
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a word
            self.reports.close()

    def outcome(self) -> Outcome:
        """Of a process that has ended."""
        self.process.join()
        self.receive()
        self.reports.close()
        kind, *error = self.end or ("ended",)
        if self.run.is_done:
            return Outcome(self.run, "kept" if kind == "kept" else "done", seconds=self.seconds)
        outcome = Outcome(self.run, "failed", error[0] if error else end_reason(self.process.exitcode), self.seconds)
        if kind != "locked":  # then the folder is another's
            write_failure(self.run.folder, self.run.name, outcome.error, self.seconds)
        return outcome

    def kill(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # where it had no group of its own yet


class _Execution:
    """The state of `execute`."""

    def __init__(
        self, runs: Sequence[Run], jobs: int, devices: Sequence[str] | None, preload: Sequence[str],
        describe: Callable[[Outcome], str], bar: bool, stack: contextlib.ExitStack,
    ) -> None:  # fmt: skip
        self.runs = runs
        self.devices = _all_devices() if devices is None else list(devices)
        self.describe = describe
        self.found = {run.name: Outcome(run, "kept") for run in runs if run.is_done}
        # The longest first, so that no long one is left over when the others have ended.
        self.waiting = [run for run in runs if run.name not in self.found]
        self.jobs = max(1, min(jobs, len(self.waiting)))
        if self.jobs > 1:
            self.waiting.sort(key=lambda run: -run.work)
        self.under_way: list[_Process] = []
        stack.callback(self._end_all)
        # CUDA does not survive a fork, and what is imported may have started it.
        has_accelerator = bool(self.devices) or (devices is None and torch.accelerator.is_available())
        self.context = multiprocessing.get_context("spawn" if has_accelerator else "forkserver")
        if self.waiting and not has_accelerator:
            start_server(preload)
        self.work = sum(run.work for run in self.waiting) or 1.0
        self.bar: Any = None
        if bar and self.waiting:
            self.bar = progress(description="runs: ", unit="", total=BAR_PARTS, bar_format=BAR_FORMAT)
            stack.callback(self.bar.close)

    def outcomes(self) -> list[Outcome]:
        """Do everything."""
        while self.waiting or self.under_way:
            while self.waiting and len(self.under_way) < self.jobs:
                self._start(self.waiting.pop(0))
            self._show()
            handles = [process.process.sentinel for process in self.under_way]
            handles += [process.reports for process in self.under_way if not process.reports.closed]
            ready = connection.wait(handles)
            for process in list(self.under_way):
                process.receive()
                if process.process.sentinel in ready:
                    self._finish(process)
        self._show()
        return [self.found[run.name] for run in self.runs]

    def _start(self, run: Run) -> None:
        slot = min(set(range(self.jobs)) - {process.slot for process in self.under_way})
        environ = {JOBS: str(self.jobs)}
        if self.devices:
            environ[DEVICES] = self.devices[slot % len(self.devices)]
        with signals_wait():  # or a run that has begun might be unknown to `_end_all`
            self.under_way.append(_Process(run, slot, self.context, environ))

    def _finish(self, process: _Process) -> None:
        outcome = process.outcome()
        self.under_way.remove(process)
        self.found[outcome.run.name] = outcome
        number = f"[{len(self.found)}/{len(self.runs)}]"
        if self.bar is not None:
            self.bar.clear()
        print(f"{number} {self.describe(outcome)}", flush=True)

    def _show(self) -> None:
        """The bar: what is done, in the runs' own measure of work, and what runs now."""
        if self.bar is None:
            return
        pending = sum(run.work for run in self.waiting)
        pending += sum(process.run.work * (1 - process.share) for process in self.under_way)
        self.bar.set_description(", ".join(process.run.name for process in self.under_way) or "runs", refresh=False)
        self.bar.update(BAR_PARTS * (1 - pending / self.work) - self.bar.n)

    def _end_all(self) -> None:
        """Ask what is under way to end, and end it if it does not."""
        try:
            for process in self.under_way:
                process.process.terminate()
            until = time.monotonic() + GRACE_SECONDS
            for process in self.under_way:
                process.process.join(max(0.0, until - time.monotonic()))
        finally:
            for process in self.under_way:
                if process.process.exitcode is None:
                    process.kill()


def _all_devices() -> list[str]:
    """The GPUs that this process may use, asked of the driver without starting CUDA."""
    visible = [name.strip() for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
    number = torch.cuda.device_count()
    return visible[:number] if visible else [str(index) for index in range(number)]


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that are started in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
