"""Small values that all ranks have to agree on, over the processors: no rank waits for an accelerator."""

from __future__ import annotations

import datetime
import functools
import os
from typing import Any

import torch
import torch.distributed as dist

from nlp_adan.errors import UserError

_timeout = datetime.timedelta(hours=6)


def wait_at_most(seconds: float) -> None:
    """How long a rank waits for one that does something alone; to be said before the ranks first agree on anything."""
    global _timeout
    _timeout = datetime.timedelta(seconds=seconds)


def start_cpu_group(backend: str | None, seconds: float) -> None:
    """Start the default group of ranks on CPUs that a launcher started, unless there is one.

    accelerate would start it with torch's patience of half an hour, whatever the options say.

    Args:
        backend: gloo by default.
        seconds: a rank waits for the others.
    """
    launched = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if launched and dist.is_available() and not dist.is_initialized():
        dist.init_process_group(backend or "gloo", timeout=datetime.timedelta(seconds=seconds))


def group_of_processors() -> Any:
    """A new group of all ranks on the processors' own communication. Every rank has to call it."""
    return dist.new_group(backend="gloo", timeout=_timeout)


@functools.cache
def _group(default_group: Any) -> Any:
    """The group of what is agreed on here; made together by all ranks, at its first use."""
    return group_of_processors()


def _reduced(values: torch.Tensor, operation: Any) -> torch.Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values, op=operation, group=_group(dist.group.WORLD))
    return values


def sum_over_ranks(value: int) -> int:
    """The sum modulo 2^64 of a number in [0, 2^64) of each rank. Every rank has to call it."""
    halves = torch.tensor([value >> 32, value & 0xFFFFFFFF], dtype=torch.int64)
    high, low = _reduced(halves, dist.ReduceOp.SUM).tolist()
    return ((high << 32) + low) % (1 << 64)


def largest_over_ranks(*values: float) -> list[float]:
    """The largest of each value over the ranks. Every rank has to call it."""
    largest: list[float] = _reduced(torch.tensor(values, dtype=torch.float64), dist.ReduceOp.MAX).tolist()
    return largest


def wait_for_all_ranks() -> None:
    """Return when every rank has come here."""
    largest_over_ranks(0.0)


def sum_of_floats_over_ranks(*values: float) -> list[float]:
    """The sum of each value over the ranks. Every rank has to call it."""
    sums: list[float] = _reduced(torch.tensor(values, dtype=torch.float64), dist.ReduceOp.SUM).tolist()
    return sums


def fail_together(error: UserError | None) -> None:
    """Raise on every rank where one has an error. Every rank has to call it."""
    failed = largest_over_ranks(float(error is not None))[0]
    if error is not None:
        raise error
    if failed:
        raise UserError("another rank has failed; its message says why")
