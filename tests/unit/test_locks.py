"""Locks on folders: who is refused, by whose name, and what ends a lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.errors import UserError
from nlp_adan.locks import LOCK, RankLock, folder_lock

# Locks are a process's own. Forked: the children do no more than lock and wait.
FORK = multiprocessing.get_context("fork")
SOON_SECONDS = 120.0


def serve(words: Connection) -> None:
    """Do what the parent asks for and answer with the error's text, or None."""
    while True:
        action, arguments = words.recv()
        try:
            action(*arguments)
        except UserError as error:
            words.send(str(error))
        else:
            words.send(None)


class Process:
    """Another process, which locks when it is told."""

    def __init__(self) -> None:
        self.words, theirs = FORK.Pipe()
        self.process = FORK.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def does(self, action: Callable[..., Any], *arguments: Any) -> str | None:
        """What the process was refused with; None where it was not."""
        self.words.send((action, arguments))
        assert self.words.poll(SOON_SECONDS)
        answer: str | None = self.words.recv()
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture
def others() -> Iterator[list[Process]]:
    """Two other processes."""
    processes = [Process(), Process()]
    yield processes
    for process in processes:
        process.kill()


@pytest.fixture(autouse=True)
def let_go(tmp_path: Path) -> Iterator[None]:
    yield
    RankLock(tmp_path).release()


def take_all(folder: Path, wait_seconds: float = 0.0) -> None:
    RankLock(folder).take_all(wait_seconds)


def take(folder: Path, rank: int) -> None:
    RankLock(folder).take(rank)


def release(folder: Path) -> None:
    RankLock(folder).release()


def lock_folder(folder: Path) -> None:
    with folder_lock(folder):
        pass


# What a process holds as long as it lives.
_KEPT = contextlib.ExitStack()


def keep_folder(folder: Path) -> None:
    _KEPT.enter_context(folder_lock(folder))


def test_a_second_start_is_refused_by_name(tmp_path: Path, others: list[Process]) -> None:
    run = tmp_path / "new" / "run"
    live, second = others
    assert live.does(take_all, run) is None
    told = second.does(take_all, run)
    assert told is not None
    assert told.startswith(f"{run} is being written by process {live.pid} on {socket.gethostname()} (rank 0), since 20")
    assert told.endswith(f": wait for it, or end it (`kill {live.pid}` there)")
    assert second.does(take, run, 1) is None  # of the same start: another byte
    assert live.does(take, run, 1) == (run / LOCK).read_text().splitlines()[1].strip().join(
        [f"{run} is being written by ", f": wait for it, or end it (`kill {second.pid}` there)"]
    )
    live.kill()
    second.kill()
    take_all(run)
    release(run)


def test_a_rank_that_outlived_its_launcher_keeps_a_start_away(tmp_path: Path, others: list[Process]) -> None:
    """Rank 0 is gone, and its byte with it; rank 2 goes on writing."""
    first, orphan = others
    assert first.does(take_all, tmp_path) is None
    assert orphan.does(take, tmp_path, 2) is None
    first.kill()
    with pytest.raises(UserError, match=rf"written by process {orphan.pid} on \S+ \(rank 2\)"):
        take_all(tmp_path)
    began = time.monotonic()
    with pytest.raises(UserError, match="rank 2"):  # to have looked has changed nothing
        take_all(tmp_path, wait_seconds=0.2)
    assert time.monotonic() - began >= 0.2
    orphan.kill()
    take_all(tmp_path)
    assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on")
    assert len((tmp_path / LOCK).read_text().splitlines()) == 1


def test_only_its_own_byte_is_kept(tmp_path: Path, others: list[Process]) -> None:
    take_all(tmp_path)
    first, second = others
    assert first.does(take, tmp_path, 1) is None
    assert second.does(take, tmp_path, 7) is None
    assert second.does(take, tmp_path, 1) is not None


def test_a_rank_waits_for_a_start_that_is_only_looking(tmp_path: Path, others: list[Process]) -> None:
    looking, rank = others
    assert looking.does(take, tmp_path, 1) is None
    rank.words.send((take, (tmp_path, 1)))
    assert not rank.words.poll(0.2)
    assert looking.does(release, tmp_path) is None
    assert rank.words.poll(SOON_SECONDS) and rank.words.recv() is None


def test_a_second_object_in_the_process_does_not_let_go(tmp_path: Path, others: list[Process]) -> None:
    """The first close of any descriptor of the file would."""
    take_all(tmp_path)
    take_all(tmp_path)
    take(tmp_path, 1)
    del_me = RankLock(tmp_path)
    del del_me
    assert others[0].does(take_all, tmp_path) is not None
    RankLock(tmp_path).release()
    assert others[0].does(take_all, tmp_path) is None


def test_a_folder_that_was_made_anew(tmp_path: Path, others: list[Process]) -> None:
    run = tmp_path / "run"
    take_all(run)
    shutil.rmtree(run)
    take_all(run)
    assert others[0].does(take_all, run) is not None
    release(run)


def test_a_file_that_a_start_which_failed_deletes_in_that_moment(
    tmp_path: Path, others: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    lockf, path = fcntl.lockf, tmp_path / LOCK

    def deleted_before(*given: int) -> None:
        monkeypatch.undo()
        path.unlink()
        lockf(*given)

    monkeypatch.setattr(fcntl, "lockf", deleted_before)
    take_all(tmp_path)
    assert not path.exists() or others[0].does(take_all, tmp_path) is not None
    assert path.exists()


def test_both_kinds_of_lock_know_each_other(tmp_path: Path, others: list[Process]) -> None:
    first, second = others
    assert first.does(keep_folder, tmp_path) is None
    assert f"by process {first.pid} on {socket.gethostname()}: wait" in str(second.does(take_all, tmp_path))
    first.kill()
    assert second.does(take, tmp_path, 3) is None
    with pytest.raises(UserError, match=f"is being written by .*process {second.pid} on"):
        lock_folder(tmp_path)


def test_a_holder_that_said_nothing(tmp_path: Path, others: list[Process]) -> None:
    others[0].does(take_all, tmp_path)
    (tmp_path / LOCK).write_text("")
    with pytest.raises(UserError, match=r"is being written by another process: wait for it, or end it$"):
        take_all(tmp_path)


def test_a_long_name_does_not_run_into_the_next_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 300)
    take_all(tmp_path)
    take(tmp_path, 1)
    first, second = (tmp_path / LOCK).read_text().splitlines()
    assert len(first) == len(second) and first.startswith(f"process {os.getpid()} on hhh")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output_dir: cannot write '.*file/.lock' \(.+\); choose another folder"):
        take_all(tmp_path / "file")
    with pytest.raises(UserError, match="choose another folder"):
        take(tmp_path / "file", 1)
    with pytest.raises(UserError, match=r"^cannot write '.*file/.lock' \(.+\); choose another folder"):
        with folder_lock(tmp_path / "file"):
            pass


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / LOCK).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"^cannot write '.*one/.lock' \(.+\); choose another folder"):
        lock_folder(tmp_path / "one")
    with pytest.raises(UserError, match=r"^--output_dir: cannot write '.*two/.lock' \(.+\); choose another folder"):
        take_all(tmp_path / "two")


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lockf(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    note = f"note: {tmp_path}: its file system has no locks; see that no other call writes it\n"
    with folder_lock(tmp_path):
        assert capsys.readouterr().out == note
    take_all(tmp_path)
    assert capsys.readouterr().out == note
    take(tmp_path, 1)
    assert capsys.readouterr().out == ""  # said once


def test_another_error_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with pytest.raises(OSError, match="Input/output error"):
        take_all(tmp_path)
