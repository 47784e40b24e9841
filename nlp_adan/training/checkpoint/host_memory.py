"""How much memory a process may still take on this machine."""

from __future__ import annotations

import os
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
# A container's limit, and the key in its figures for memory that cannot be given back: of cgroups version 2, and 1.
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat"), "anon"),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.stat"), "total_rss"),
)


def available_host_bytes() -> int | None:
    """This rank's share of what the machine, or the container, has left; None where the system does not say.

    Memory that holds copies of files counts as left. The ranks of a machine take memory at the same moment, each
    seeing the same figure: so each has a part of it.
    """
    found = [] if (machine := _figure(_MEMORY, "MemAvailable:")) is None else [machine * 1024]
    for limit, figures, key in _LIMITS:
        used = _figure(figures, key)
        try:
            found += [int(limit.read_text(encoding="utf-8")) - used] if used is not None else []
        except (OSError, ValueError):  # "max": no limit
            continue
    num_local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")
    return max(0, min(found)) // num_local_ranks if found else None


def _figure(file: Path, key: str) -> int | None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [key])
    except (OSError, ValueError, IndexError, StopIteration):
        return None
