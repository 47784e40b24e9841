"""A run's folder: one process at a time writes it, and a run that failed leaves word there.

.lock         locked while a process writes; it says which
output.log    what the run printed, all attempts one after the other
failed.json   of the last attempt, where it failed: the error, the end of the output, the number of attempts
result.json   written last: the run is finished
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from nlp_adan.errors import UserError
from nlp_adan.storage import write_json

FAILED = "failed.json"
OUTPUT = "output.log"
LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems say that know none
RETRY_SECONDS = 0.05
SHOWN_LINES = 20
TAIL_BYTES = 1 << 14


@contextlib.contextmanager
def folder_lock(folder: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing. A process that dies lets go of it.

    The lock is the process's: children do not have it, and it ends with the first closing of its file.

    Args:
        wait_seconds: how long another process is given to let go.

    Raises:
        UserError: another process holds it; the message names both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait_seconds
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= until:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise UserError(f"{folder} is being written by {holder}: wait for it, or end it") from None
                time.sleep(RETRY_SECONDS)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                print(f"note: {folder}: its file system has no locks; see that no other call writes it", flush=True)
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def output_tail(folder: Path, begin: int = 0) -> list[str]:
    """The last lines of a run's output, of what follows byte `begin`."""
    path = folder / OUTPUT
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(begin, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]


def num_attempts(folder: Path) -> int:
    """Attempts that failed so far."""
    try:
        return int(json.loads((folder / FAILED).read_text(encoding="utf-8"))["attempts"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def write_failure(folder: Path, name: str, error: str, seconds: float) -> None:
    """Leave failed.json, counting attempts on."""
    write_json(
        folder / FAILED,
        {
            "name": name,
            "error": error,
            "attempts": num_attempts(folder) + 1,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "output": output_tail(folder),
        },
    )
