"""How much memory a process may still take on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_GROUPS = Path("/proc/self/cgroup")
# Where cgroups of version 2, and 1, are; a group's limit; and the key in its figures for memory that cannot be given
# back.
_KINDS = (
    ("", Path("/sys/fs/cgroup"), "memory.max", "anon"),
    ("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "total_rss"),
)


def available_host_bytes() -> int | None:
    """This rank's share of what the machine, its container or its job has left; None where the system does not say.

    Memory that holds copies of files counts as left. The ranks of a machine take memory at the same moment, each
    seeing the same figure: so each has a part of it.
    """
    found = [] if (machine := _figure(_MEMORY, "MemAvailable:")) is None else [machine * 1024]
    for limit, figures, key in _limits():
        used = _figure(figures, key)
        try:
            found += [int(limit.read_text(encoding="utf-8")) - used] if used is not None else []
        except (OSError, ValueError):  # "max": no limit
            continue
    num_local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")
    return max(0, min(found)) // num_local_ranks if found else None


def _limits() -> Iterator[tuple[Path, Path, str]]:
    """Of each group that this process is in, and of those above it: limit, figures, and the figure's key."""
    own: dict[str, str] = {}
    try:
        for line in _GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            own |= dict.fromkeys(controllers.split(","), path.strip("/"))
    except (OSError, ValueError):
        pass  # the group of the container, at the root
    for controller, root, limit, key in _KINDS:
        group = root / own.get(controller, "")
        for each in (group, *group.parents):
            if each.is_relative_to(root):
                yield each / limit, each / "memory.stat", key


def _figure(file: Path, key: str) -> int | None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [key])
    except (OSError, ValueError, IndexError, StopIteration):
        return None
