"""Starts of the small pretraining that fault_drill.py disturbs: their processes, what they print, what they leave."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pydoc_data.topics
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fault_drill_rank
import psutil
from fault_drill_rank import RANKS

from nlp_adan.errors import UserError
from nlp_adan.locks import LOCK
from nlp_adan.storage import write_text
from nlp_adan.training.run_folder import STARTS, RunFolder

PROJECT = Path(__file__).resolve().parents[1]
SAVE_STEPS, SAVE_LIMIT = 2, 3
# Two layers of 32 units: the optimizer's states and everything else are there, and a step takes some 20 ms.
WORDS = (
    "bert", "--recipe", "tiny", "--vocab_size", "500", "--hidden_size", "32", "--intermediate_size", "32",
    "--valid_fraction", "0.2", "--max_valid_blocks", "32", "--global_batch_size", "8", "--dropout", "0.1",
    "--logging_steps", "1", "--save_steps", str(SAVE_STEPS), "--save_total_limit", str(SAVE_LIMIT),
    "--disable_tqdm", "True", "--report_to", "none",
)  # fmt: skip
ON_CPU = {
    "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true", "PYTHONPATH": str(PROJECT),
}  # fmt: skip
# What a rank imports, and what takes seconds when it is first used: torch's compiler (by way of DeepSpeed's Muon) and
# the plots of a report.
IMPORTED = (
    "fault_drill_rank", "run_pretrain", "bert.pretrain", "deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer",
    "matplotlib.figure", "matplotlib.backends.backend_svg",
)  # fmt: skip
POLL_SECONDS = 0.002
# No start takes as long, also on a machine that is busy: what is not there by then hangs.
LIMIT_SECONDS = 600.0
PARTIAL = re.compile(r"\.checkpoint-\d+\.partial")
LAUNCHERS = ("deepspeed", "fork")


class Failure(Exception):
    """What a run did that it must not do."""


class Missed(Exception):
    """The run came to its end before the fault."""


class Start:
    """One start of the training, in a session of its own; leaving the block kills what is left of it.

    Args:
        pid: of the launcher, which leads the session.
        poll: the launcher's exit code, None as long as it lives.
        log: gets what it prints.
        is_two: whether the launcher is two processes, the second of which starts the ranks (DeepSpeed's).
    """

    def __init__(self, pid: int, poll: Callable[[], int | None], log: Path, is_two: bool) -> None:
        self.pid, self.poll, self.log, self._is_two = pid, poll, log, is_two
        self._leader = psutil.Process(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.wait_until(lambda: self.poll() is not None, "its end")

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    def ranks(self) -> list[psutil.Process]:
        """The ranks, in their order. Raises: Missed where one has ended already."""
        try:
            above = self._leader.children() if self._is_two else [self._leader]
            found = [rank for each in above for rank in each.children()]
            in_order = sorted(found, key=lambda rank: (rank.create_time(), rank.pid))
        except psutil.NoSuchProcess as error:
            raise Missed from error
        if len(in_order) != RANKS:
            raise Missed
        return in_order

    def launchers(self) -> list[psutil.Process]:
        """The processes above the ranks, the lowest first: no one of them is to see another's end."""
        return [*(self._leader.children() if self._is_two else []), self._leader]

    def members(self) -> list[psutil.Process]:
        """All its processes that are alive, orphans too."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(pid) == self.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(psutil.Process(pid))
        return found

    def kill_all(self) -> None:
        """SIGKILL to all its processes at the same moment."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait_until_gone()

    def wait(self) -> int:
        """The launcher's exit code, when it has ended."""
        self.wait_until(lambda: self.poll() is not None, "its end")
        code = self.poll()
        assert code is not None
        return code

    def wait_until_gone(self) -> None:
        """Return when none of its processes is left."""
        self.wait_until(lambda: self.poll() is not None and not self.members(), "its end")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Look until something is there. Raises: Failure when it does not come."""
        until = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if time.monotonic() > until:
                raise Failure(f"{what} did not come within {LIMIT_SECONDS:g} s; its last words:\n{self.last_words()}")
            time.sleep(POLL_SECONDS)

    def wait_in_training(self, condition: Callable[[], bool], run: Run, what: str) -> None:
        """As `wait_until`, while it trains. Raises: Missed where the run is finished before; Failure where it fails."""

        def come() -> bool:
            if condition():
                return True
            if run.finished:
                raise Missed
            if self.poll() is not None:
                raise Failure(f"ended with exit code {self.poll()} before {what}; its last words:\n{self.last_words()}")
            return False

        self.wait_until(come, what)

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.output[-2000:]


class Run:
    """The folder of one run, and what it tells of how far it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = RunFolder(folder)

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self._records.finished

    @property
    def step(self) -> int:
        """The last step of its log; 0 before the first one, -1 before a start has the folder for itself."""
        lines = self._records.read("log.jsonl")
        return int(lines[-1]["step"]) if lines else 0 if (self.folder / LOCK).exists() else -1

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written, or was when the run was killed."""
        try:
            return any(PARTIAL.fullmatch(name) for name in os.listdir(self.folder))
        except FileNotFoundError:
            return False

    @property
    def starts(self) -> list[int]:
        """The steps from which its starts went on."""
        return [int(line["step"]) for line in self._records.read(STARTS)]

    @property
    def log(self) -> list[tuple[Any, ...]]:
        """What must not depend on disturbances: each step's loss and the data that it was of."""
        lines = self._records.read("log.jsonl")
        return [(line["step"], line["loss"], line["batch_hash"]) for line in lines]

    @property
    def weights(self) -> Path:
        """The file of the trained model."""
        return self.folder / "model.safetensors"


class Trainings:
    """Starts trainings on one text.

    Args:
        work: a folder for the text, the data that are prepared from it, and what is printed.
        launcher: of LAUNCHERS. "fork": the ranks are forked from a process that has imported everything.
    """

    def __init__(self, work: Path, steps: int, launcher: str) -> None:
        self.work, self.steps, self.launcher = work, steps, launcher
        self.environment = {**ON_CPU, "NLP_ADAN_CACHE": str(work / "cache")}
        self.undisturbed: dict[int, Run] = {}  # by stage
        self._num_started = 0
        for name in sorted(pydoc_data.topics.topics)[:25]:
            write_text(work / "text" / f"{name}.txt", pydoc_data.topics.topics[name][:3000])
        if launcher == "fork":
            self._context = _warm_context(self.environment)

    def words(self, stage: int, run: Run) -> list[str]:
        """The words after `run_pretrain.py`."""
        words = [*WORDS, "--data", str(self.work / "text"), "--max_steps", str(self.steps)]
        return [*words, "--deepspeed", f"ds_configs/zero{stage}.json", "--output_dir", str(run.folder)]

    def run_undisturbed(self, stage: int) -> None:
        """Train once without a fault. Raises: UserError where that fails already."""
        run = self.undisturbed[stage] = Run(self.work / f"undisturbed-{stage}")
        with self.start(stage, run) as start:
            if start.wait() or not run.finished:
                raise UserError(f"the training fails without a fault; its last words:\n{start.last_words()}")

    def start(self, stage: int, run: Run, *more: str, full_disk: dict[str, Any] | None = None) -> Start:
        """Start a training, or go on with it (`--resume auto` in `more`).

        full_disk: arguments of `fault_drill_rank.fill_disk`.
        """
        self._num_started += 1
        log = self.work / f"start-{self._num_started}.txt"
        words = [*self.words(stage, run), *more]
        added = {} if full_disk is None else {fault_drill_rank.FULL_DISK: json.dumps(full_disk)}
        if self.launcher == "fork":
            environment = {**self.environment, **added, "MASTER_PORT": str(_free_port())}
            process = self._context.Process(target=fault_drill_rank.launch, args=(words, environment, str(log)))
            process.start()
            assert process.pid is not None
            return Start(process.pid, lambda: process.exitcode, log, is_two=False)
        script = "run_pretrain.py" if full_disk is None else f"benchmarks/{Path(fault_drill_rank.__file__).name}"
        return self._start_deepspeed([script, *words], added, log)

    def _start_deepspeed(self, words: Sequence[str], added: dict[str, str], log: Path) -> Start:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("WORLD_SIZE", "RANK", "LOCAL_"))}
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--quiet", "--num_gpus", str(RANKS)]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*launcher, "--master_port", str(_free_port()), *words],
                cwd=PROJECT,
                env={**kept, **self.environment, **added},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Start(process.pid, process.poll, log, is_two=True)


def _warm_context(environment: dict[str, str]) -> Any:
    """Forks processes that have imported what a rank imports."""
    os.environ.update(environment)  # what libraries read when they are imported
    # Of processes that were killed, semaphores are left; it is no news.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def suspended(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Within it, processes stand still, as in a system call that does not return."""
    try:
        for process in processes:
            process.suspend()
            while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                time.sleep(POLL_SECONDS)
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()
