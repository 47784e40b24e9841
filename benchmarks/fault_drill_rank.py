"""How the ranks of fault_drill.py start: as run_pretrain.py does, on a disk that is full where the drill says so.

    [deepspeed] python benchmarks/fault_drill_rank.py bert ...

`launch` starts them without a launcher, forked from a process that has imported everything already.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
# In the environment: {"steps": [8, 10], "file": "config.json"} as JSON, the arguments of `fill_disk`.
FULL_DISK = "FAULT_DRILL_FULL_DISK"
# Whatever is written to it meets a full disk: the kernel says so to Python, to torch's C++ and to tokenizers' Rust.
FULL_DEVICE = "/dev/full"
RANKS = 2
GRACE_SECONDS = 30  # as DeepSpeed's launcher gives the other ranks
POLL_SECONDS = 0.05


def fill_disk(steps: Collection[int], file: str) -> None:
    """From now on this process finds no space for `file` in the checkpoints of these steps.

    In the partial folder that it makes for one of them, the file is there already: a link to a device that is full.
    file: relative to the checkpoint; "" for the folder itself, which cannot be made then.
    """
    names = {f".checkpoint-{step}.partial" for step in steps}
    make = os.mkdir

    def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
        folder = Path(os.fsdecode(path))
        if folder.name not in names or folder.exists():
            make(path, *args, **kwargs)
            return
        if not file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        # Another rank may make the same folder: it gets its name with the link in it.
        prepared = folder.with_name(f"{folder.name}.{os.getpid()}")
        make(prepared)
        link = prepared / file
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(FULL_DEVICE)
        try:
            prepared.rename(folder)
        except OSError as error:  # the other rank was first
            link.unlink()
            for path in dict.fromkeys((link.parent, prepared)):
                path.rmdir()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder)) from error

    os.mkdir = mkdir


def main() -> None:
    """Be a rank."""
    full = os.environ.get(FULL_DISK)
    if full:
        fill_disk(**json.loads(full))
    import run_pretrain  # with the file system that it is to find

    run_pretrain.main()


def launch(words: Sequence[str], environment: Mapping[str, str], log: str, rank: Callable[[], None] = main) -> NoReturn:
    """Stand for a launcher: fork the ranks, in a session of their own, and end as DeepSpeed's launcher does.

    Where one of them fails, the others are asked to end, and killed after `GRACE_SECONDS`; the exit code is its own.

    Args:
        words: after `run_pretrain.py`.
        environment: variables that differ from this process's.
        log: the file that gets what the ranks print.
        rank: what a rank does.
    """
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(PROJECT)
    local = {"WORLD_SIZE": str(RANKS), "LOCAL_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({**environment, **local})
    sys.argv = ["run_pretrain.py", *words]
    alive = set()
    for number in range(RANKS):
        os.environ.update({"RANK": str(number), "LOCAL_RANK": str(number)})
        pid = os.fork()
        if pid == 0:
            _run(rank)
        alive.add(pid)
    while alive:
        pid, status = os.wait()
        alive.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code:
            _end(alive)
            os._exit(code % 256)
    os._exit(0)


def _run(rank: Callable[[], None]) -> NoReturn:
    """Do what a rank does and end with its exit code. The libraries' clean-up is that of a process that lives on."""
    code: Any = 1
    try:
        rank()
        code = 0
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _end(ranks: set[int]) -> None:
    """Ask processes to end, and kill them when they take too long."""
    for pid in ranks:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while ranks and time.monotonic() < until:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        ranks.discard(pid)
        time.sleep(POLL_SECONDS)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
