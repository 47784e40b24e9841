"""Sets of runs: isolated from each other, kept when finished, tried again when failed, ended with their parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

import nlp_adan.runs.execution
from nlp_adan.errors import UserError
from nlp_adan.locks import folder_lock
from nlp_adan.runs import Advance, Outcome, Run, execute
from nlp_adan.runs.process import LOCK_SECONDS, told
from nlp_adan.storage import write_json
from nlp_adan.training.environment import num_cpu_cores
from nlp_adan.training.signals import RESUME_EXIT_CODE, exits_to_be_resumed

PRELOAD = (__name__,)
SOON_SECONDS = 30.0  # on a machine that does much else


def wait_until(is_so: Callable[[], bool], seconds: float = SOON_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- what runs do ----


def count_up(folder: Path, advance: Advance, value: int = 1) -> None:
    """Write the value, and a line for each call."""
    with open(folder / "calls", "a") as file:
        file.write("call\n")
    for step in range(4):
        advance(step + 1, 4)
    write_json(folder / "result.json", {"value": value})


def fail(folder: Path, advance: Advance, how: str) -> None:
    """Come to an end without a result, unless `folder` holds a file `well`."""
    print("python says", how)
    os.write(1, b"a library says more\n")
    if (folder / "well").exists():
        write_json(folder / "result.json", {})
    elif how == "mistake":
        raise UserError("train.tsv:3: no label:\n    add one")
    elif how == "defect":
        raise ZeroDivisionError("by nought")
    elif how == "memory":
        raise MemoryError
    elif how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "resume":
        sys.exit(RESUME_EXIT_CODE)


def record_threads(folder: Path, advance: Advance) -> None:
    """The threads that a run has."""
    threads = {"set": os.environ["OMP_NUM_THREADS"], "used": torch.get_num_threads()}
    write_json(folder / "result.json", threads)


def meet(folder: Path, advance: Advance, others: list[Path]) -> None:
    """Wait for runs beside this one."""
    (folder / "here").touch()
    wait_until(lambda: all((other / "here").exists() for other in others))
    write_json(folder / "result.json", {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES")})


def work_long(folder: Path, advance: Advance, saves: bool = False) -> None:
    """Start a process, say which, and sleep; `saves`: when told to end, leave a word and end as one who can go on."""

    def save(*_: Any) -> None:
        (folder / "saved").touch()
        sys.exit(RESUME_EXIT_CODE)

    if saves:
        signal.signal(signal.SIGTERM, save)
    child = subprocess.Popen(["sleep", "600"])
    write_json(folder / "pids.json", [os.getpid(), child.pid])
    time.sleep(600)


def do_a_third(folder: Path, advance: Advance) -> None:
    """And the rest a second later."""
    advance(1, 3)
    time.sleep(1)
    write_json(folder / "result.json", {})


def make(tmp_path: Path, function: Callable[..., None], *names: str, **arguments: Any) -> list[Run]:
    return [Run(name, tmp_path / name, function, arguments) for name in names]


# ---- outcomes ----


def test_finished_runs_are_kept_and_failed_ones_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make(tmp_path, count_up, "first", "last", value=7)
    runs = [good[0], Run("bad", tmp_path / "bad", fail, {"how": "defect"}), good[1]]
    outcomes = execute(runs, preload=PRELOAD, bar=False)
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done"]
    assert [outcome.run for outcome in outcomes] == runs
    assert json.loads((tmp_path / "last" / "result.json").read_text()) == {"value": 7}
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("[1/3] first: done") and told[1].startswith("[2/3] bad FAILED: ZeroDivisionError: by")
    assert str(tmp_path / "bad" / "output.log") in told[1]

    assert [outcome.state for outcome in execute(runs, preload=PRELOAD, bar=False)] == ["kept", "failed", "kept"]
    failure = json.loads((tmp_path / "bad" / "failed.json").read_text())
    assert failure["attempts"] == 2 and failure["error"] == "ZeroDivisionError: by nought"
    (tmp_path / "bad" / "well").touch()
    assert [outcome.state for outcome in execute(runs, preload=PRELOAD, bar=False)] == ["kept", "done", "kept"]
    assert not (tmp_path / "bad" / "failed.json").exists()
    assert (tmp_path / "first" / "calls").read_text() == "call\n"


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """A run for each way to fail, two at a time."""
    folder = tmp_path_factory.mktemp("failed")
    ways = ("mistake", "defect", "memory", "signal", "exit", "resume", "nothing")
    runs = [Run(how, folder / how, fail, {"how": how}) for how in ways]
    return {outcome.run.name: outcome for outcome in execute(runs, jobs=2, preload=PRELOAD, bar=False)}


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("mistake", "train.tsv:3: no label: add one"),
        ("defect", "ZeroDivisionError: by nought"),
        ("memory", "out of memory (MemoryError): smaller batches or fewer `--jobs` help"),
        ("signal", "ended by SIGKILL: if nobody sent it, the system had no memory left"),
        ("exit", "ended with exit code 3"),
        ("resume", "was told to stop; the next call goes on with it"),
        ("nothing", "ended without a result"),
    ],
)
def test_a_failure_is_named(failed: dict[str, Outcome], how: str, error: str) -> None:
    outcome = failed[how]
    assert (outcome.state, outcome.error) == ("failed", error)
    left = json.loads((outcome.run.folder / "failed.json").read_text())
    assert left["error"] == error and left["attempts"] == 1
    assert left["output"][:2] == [f"python says {how}", "a library says more"]
    assert ("Traceback" in "".join(left["output"])) == (how in ("defect", "memory"))


def test_memory_of_a_device_or_of_the_system() -> None:
    assert told(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")).startswith("out of memory (CUDA out")
    assert told(RuntimeError("DefaultCPUAllocator: can't allocate memory")).startswith("out of memory (DefaultCPU")
    assert told(RuntimeError("shapes\ndiffer")) == "RuntimeError: shapes"
    assert told(AssertionError()) == "AssertionError"


def test_two_runs_need_two_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one folder"):
        execute([Run("a", tmp_path, count_up), Run("b", tmp_path / ".." / tmp_path.name, count_up)])


# ---- several at a time ----


def test_jobs_run_side_by_side_the_longest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    runs = [Run("short", tmp_path / "short", count_up, work=1)]
    runs += [Run(folder.name, folder, meet, {"others": folders}, work=5) for folder in folders]
    outcomes = execute(runs, jobs=2, preload=PRELOAD, bar=False)
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    assert "[1/3] short" not in capsys.readouterr().out  # it waits for one of the two that wait for each other


@pytest.mark.parametrize(("given", "expected"), [(None, max(1, num_cpu_cores() // 2)), ("3", 3)])
def test_a_run_has_its_share_of_the_cores(
    given: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NLP_ADAN_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = dict(os.environ)
    outcomes = execute(make(tmp_path, record_threads, "a", "b"), jobs=2, preload=PRELOAD, bar=False)
    assert dict(os.environ) == before
    seen = [json.loads((outcome.run.folder / "result.json").read_text()) for outcome in outcomes]
    assert [of_run["set"] for of_run in seen] == [str(expected)] * 2
    if given is None:  # what the user chooses, torch has read when it was imported
        assert [of_run["used"] for of_run in seen] == [expected] * 2


def test_each_run_sees_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spawned, so that nothing has started CUDA before the variable is set."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    runs = make(tmp_path, meet, "a", "b", others=[tmp_path / "a", tmp_path / "b"])
    outcomes = execute(runs, jobs=2, devices=["4", "6", "7"], bar=False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "9"
    seen = [json.loads((outcome.run.folder / "result.json").read_text()) for outcome in outcomes]
    assert seen == [{"gpu": "4"}, {"gpu": "6"}]


def test_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-1f")
    assert nlp_adan.runs.execution._all_devices() == ["5", "GPU-1f"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert nlp_adan.runs.execution._all_devices() == ["0", "1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert nlp_adan.runs.execution._all_devices() == []


class Bar:
    """Stands for the progress bar."""

    def __init__(self, **given: Any) -> None:
        self.total, self.n = given["total"], 0.0
        self.names: set[str] = set()
        self.shares: list[float] = []
        Bar.last = self

    last: Bar

    def update(self, parts: float) -> None:
        assert parts >= -1e-9
        self.n += parts
        self.shares.append(round(self.n / self.total, 3))

    def set_description(self, text: str, refresh: bool) -> None:
        self.names.add(text)

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_bar_counts_work_and_names_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nlp_adan.runs.execution, "progress", Bar)
    runs = [
        Run("small", tmp_path / "small", count_up, work=1),
        Run("large", tmp_path / "large", do_a_third, work=9),
    ]
    used = time.process_time()
    execute(runs, preload=PRELOAD)
    assert time.process_time() - used < 0.5  # it waits, it does not look again and again
    assert {0.1, 0.1 + 0.9 / 3, 1.0} <= set(Bar.last.shares) and Bar.last.shares[-1] == 1
    assert Bar.last.names == {"small", "large", "runs"}


# ---- ends ----


def start_slowly(process: Any) -> None:
    """The run is at work some time before its parent knows that it has started it."""
    multiprocessing.process.BaseProcess.start(process)
    time.sleep(0.5)


def execute_in_a_child(folder: Path, saves: bool, result: Any) -> None:
    """A parent of runs that can be killed: it uses the fork server that it came from."""
    multiprocessing.get_context("forkserver").Process.start = start_slowly  # type: ignore[assignment, method-assign]
    forkserver.ensure_running = lambda: None
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    os.setsid()
    try:
        with exits_to_be_resumed("the same command"):
            execute(make(folder, work_long, "a", "b", saves=saves), jobs=2, bar=False)
    except SystemExit as left:
        result.send(left.code)


def begin(folder: Path, saves: bool = False) -> tuple[Any, Any, list[int]]:
    """The parent, what it says when it leaves, and the processes of its two runs."""
    nlp_adan.runs.execution.start_server(PRELOAD)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    parent = context.Process(target=execute_in_a_child, args=(folder, saves, theirs))
    parent.start()
    files = [folder / name / "pids.json" for name in ("a", "b")]
    wait_until(lambda: all(file.exists() for file in files))
    return parent, ours, [pid for file in files for pid in json.loads(file.read_text())]


def test_runs_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, _, pids = begin(tmp_path)
    assert len(pids) == 4 and all(map(is_alive, pids))
    parent.kill()
    parent.join()
    began = time.monotonic()
    # The next call waits for the folder until they have.
    (outcome,) = execute([Run("a", tmp_path / "a", count_up)], preload=PRELOAD, bar=False)
    assert outcome.state == "done"
    wait_until(lambda: not any(map(is_alive, pids)))
    assert time.monotonic() - began < 10
    assert not (tmp_path / "b" / "failed.json").exists()


@pytest.mark.parametrize(("number", "saves"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_to_the_parent_ends_its_runs(number: signal.Signals, saves: bool, tmp_path: Path) -> None:
    parent, result, pids = begin(tmp_path, saves)
    os.kill(parent.pid, number)
    parent.join(SOON_SECONDS)
    assert result.recv() == RESUME_EXIT_CODE
    wait_until(lambda: not any(is_alive(pid) for pid in pids[::2]))
    assert all((tmp_path / name / "saved").exists() == saves for name in ("a", "b"))


def hold(folder: Path, word: Any) -> None:
    with folder_lock(folder):
        word.send(os.getpid())
        time.sleep(600)


def test_a_folder_that_another_process_writes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp_adan.runs.execution.start_server(PRELOAD)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    holder = context.Process(target=hold, args=(tmp_path / "a", theirs))
    holder.start()
    pid = ours.recv()
    with pytest.raises(UserError, match=rf"{tmp_path / 'a'} is being written by process {pid} on \S+: wait"):
        with folder_lock(tmp_path / "a", wait_seconds=0.1):
            pass
    began = time.monotonic()
    refused, done = execute(make(tmp_path, count_up, "a", "b"), jobs=2, preload=PRELOAD, bar=False)
    assert time.monotonic() - began >= LOCK_SECONDS  # it was given that long
    assert refused.state == "failed" and f"is being written by process {pid}" in refused.error
    assert done.state == "done" and not (tmp_path / "a" / "failed.json").exists()
    holder.kill()
    holder.join()
    with folder_lock(tmp_path / "a"):
        pass
