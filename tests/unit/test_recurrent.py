"""Memories in a checkpoint, whatever the split; schedules on top of the Trainer's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.tensor_files import write_tensor_file
from nlp_adan.training.recurrent import Memory, load_memories, memory_file
from nlp_adan.training.schedules import ScheduleOptions, drops, multiply, warm_up


def columns(rank: int, world_size: int, size: int, num_micro: int) -> list[list[int]]:
    begins = [(micro * world_size + rank) * size for micro in range(num_micro)]
    return [list(range(begin, begin + size)) for begin in begins]


def memory_of(each: list[int]) -> Memory:
    """Levels of different shapes and dtypes whose rows tell their column."""
    rows = torch.tensor(each, dtype=torch.float32)
    return rows[:, None, None].expand(-1, 3, 2).clone(), (rows[:, None] + 0.5).bfloat16()


@pytest.mark.parametrize(("world_size", "size", "num_micro"), [(1, 12, 1), (1, 3, 4), (2, 3, 2), (3, 2, 2), (4, 3, 1)])
@pytest.mark.parametrize(("then_world_size", "then_size", "then_micro"), [(1, 12, 1), (2, 6, 1), (3, 1, 4)])
def test_memories_come_back_for_any_split(
    world_size: int, size: int, num_micro: int, then_world_size: int, then_size: int, then_micro: int, tmp_path: Path
) -> None:
    for rank in range(world_size):
        mine = columns(rank, world_size, size, num_micro)
        write_tensor_file(tmp_path, memory_file(rank, mine, [memory_of(each) for each in mine]))
    for rank in range(then_world_size):
        mine = columns(rank, then_world_size, then_size, then_micro)
        for found, each in zip(load_memories(tmp_path, mine), mine, strict=True):
            for level, expected in zip(found, memory_of(each), strict=True):
                assert level.dtype == expected.dtype and torch.equal(level, expected)


def test_an_empty_memory_and_a_missing_one(tmp_path: Path) -> None:
    write_tensor_file(tmp_path, memory_file(0, [[0, 1]], []))
    assert load_memories(tmp_path, [[0], [1]]) == []
    with pytest.raises(UserError, match="no memory of 1 of the streams"):
        load_memories(tmp_path, [[0, 1, 2]])
    file = tmp_path / "memory-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"memory-00000\.safetensors is damaged.*earlier checkpoint"):
        load_memories(tmp_path, [[0, 1]])


def rates(scheduler: LambdaLR, num_steps: int) -> list[float]:
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        assert scheduler.optimizer.param_groups[0]["lr"] == found[-1]
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_a_warm_up_on_top_and_drops() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    cosine = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / 20)))
    found = rates(multiply(cosine, warm_up(4), drops([0.5, 0.75], 0.1, lambda step: step / 20)), 20)
    for step, rate in enumerate(found):
        warm, dropped = min(1, (step + 1) / 4), (step >= 10) + (step >= 15)
        assert math.isclose(rate, 2 * warm * 0.5 * (1 + math.cos(math.pi * step / 20)) * 0.1**dropped)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"lr_drops": [0.7, 0.5]}, "rising shares"), ({"lr_drops": [1.5]}, "--lr_drops: 1.5"),
     ({"lr_drop_factor": 2.0}, "--lr_drop_factor: 2")],
)  # fmt: skip
def test_schedules_that_cannot_be(options: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ScheduleOptions(**options)
