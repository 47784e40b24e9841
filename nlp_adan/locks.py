"""Locks on folders: of one process (`folder_lock`), or of the ranks of one start (`RankLock`).

Both are POSIX record locks on the file `.lock` in the folder, which says who holds it. Such a lock is a process's own:
its children do not have it, it ends with the process, however that ends, and network file systems carry it too. It also
ends as soon as the process closes any descriptor of the file.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from nlp_adan.errors import UserError

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems say that know none
RETRY_SECONDS = 0.05
MOST_DELETIONS = 10  # of the file while a start takes it
# Another start holds a rank's byte only while it looks for who holds the others.
RANK_WAIT_SECONDS = 2.0
_RECORD_BYTES = 160  # of what the file says of a rank, at rank * _RECORD_BYTES

# This process's descriptors of RankLocks, by file: a second one of the same file would let go of the first one's locks.
_descriptors: dict[Path, int] = {}


@contextlib.contextmanager
def folder_lock(folder: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing. A process that dies lets go of it.

    Args:
        wait_seconds: how long another process is given to let go.

    Raises:
        UserError: another process holds it (the message names both), or the folder cannot be written.
    """
    with _open_lock(folder) as file:
        if (taken := _lock(file.fileno(), 0, 0, wait_seconds)) is False:
            file.seek(0)
            raise _refusal(folder, file.read().strip())
        if taken is None:
            _note_no_locks(folder)
        try:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield


def _open_lock(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / LOCK, "a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError, option: str = "") -> UserError:
    return UserError(f"{option}cannot write {str(folder / LOCK)!r} ({error.strerror}); choose another folder")


class RankLock:
    """The lock of a run's folder, which the ranks of one start hold together: rank r byte r of the file.

    As long as one of them lives, another start is refused, also where their launcher and rank 0 are gone. Rank 0 calls
    `take_all`; when it has returned, the others call `take`, before rank 0 writes anything.

    Nothing else in the process may open and close the file meanwhile (copy the run's folder, say): its lock would go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take_all(self, wait_seconds: float = 0.0) -> None:
        """See that no process of another start lives, and hold byte 0, as long as this process lives.

        On a file system without locks, it says so and goes on.

        Args:
            wait_seconds: how long processes of another start, which may be about to end, are given.

        Raises:
            UserError: one lives, or the folder cannot be written.
        """
        for _ in range(MOST_DELETIONS):
            descriptor = self._descriptor()
            taken = _lock(descriptor, 0, 0, wait_seconds)
            if taken is False:
                raise _refusal(self.folder, self._holder(descriptor))
            if self._has_its_name(descriptor):
                break
            # A start that failed has deleted the file between opening and locking: the next start has another one.
        if taken is None:
            _note_no_locks(self.folder)
        self._sign(descriptor, 0)
        if taken:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 0, 1)  # all behind byte 0

    def take(self, rank: int) -> None:
        """Hold the byte of a rank other than 0, as long as this process lives.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        descriptor = self._descriptor()
        if _lock(descriptor, rank, 1, RANK_WAIT_SECONDS) is False:
            raise _refusal(self.folder, self._holder(descriptor))
        self._sign(descriptor, rank)

    def release(self) -> None:
        """Let go of what this process holds, for one that lives on after its run."""
        descriptor = _descriptors.pop(self._path, None)
        if descriptor is not None:
            os.close(descriptor)

    @property
    def _path(self) -> Path:
        return self.folder.resolve() / LOCK

    def _descriptor(self) -> int:
        """This process's descriptor of the file that has its name now."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = _descriptors.get(self._path)
            if known is not None and self._has_its_name(known):  # else it was deleted: a new one is another lock
                return known
            self.release()
            _descriptors[self._path] = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(self.folder, error, "--output_dir: ") from error
        return _descriptors[self._path]

    def _has_its_name(self, descriptor: int) -> bool:
        """Whether the file that was opened is the one that another process would open."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _sign(self, descriptor: int, rank: int) -> None:
        """Write who holds the byte of a rank, for the one that is refused; rank 0 clears what others wrote before."""
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = f"process {os.getpid()} on {socket.gethostname()} (rank {rank}), since {since}"
        record = text.encode()[: _RECORD_BYTES - 1].ljust(_RECORD_BYTES - 1) + b"\n"
        try:
            if rank == 0:
                os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, record, rank * _RECORD_BYTES)
        except OSError as error:
            raise _unwritable(self.folder, error, "--output_dir: ") from error

    @staticmethod
    def _holder(descriptor: int) -> str:
        """What the file says of the lowest rank whose byte another process holds."""
        for rank in range(-(-os.fstat(descriptor).st_size // _RECORD_BYTES)):
            if _lock(descriptor, rank, 1, 0.0) is False:
                record = os.pread(descriptor, _RECORD_BYTES, rank * _RECORD_BYTES)
                return record.replace(b"\0", b"").decode(errors="replace").strip()
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, rank)
        return ""


def _lock(descriptor: int, begin: int, length: int, wait_seconds: float) -> bool | None:
    """Take the lock on `length` bytes (0: all) from `begin`; None where the file system has no locks."""
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, begin)
            return True
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= until:
                return False
            time.sleep(RETRY_SECONDS)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return None


def _refusal(folder: Path, holder: str) -> UserError:
    process = re.match(r"process (\d+) on", holder)
    how = f"end it (`kill {process[1]}` there)" if process else "end it"
    return UserError(f"{folder} is being written by {holder or 'another process'}: wait for it, or {how}")


def _note_no_locks(folder: Path) -> None:
    print(f"note: {folder}: its file system has no locks; see that no other call writes it", flush=True)
