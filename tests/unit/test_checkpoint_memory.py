"""Memory for copies: how much is left, and what becomes of it between two checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nlp_adan.training.checkpoint import copy_memory, host_memory
from nlp_adan.training.checkpoint.copy_memory import Block
from nlp_adan.training.checkpoint.host_memory import available_host_bytes


def test_memory_that_is_kept_is_the_systems() -> None:
    """It is in no other use, and the system knows: Linux says how much of it there is."""
    figures = Path("/proc/self/smaps_rollup")
    if not figures.exists() or "LazyFree:" not in figures.read_text():
        pytest.skip("no Linux")

    def lazily_free() -> int:
        return next(int(line.split()[1]) for line in figures.read_text().splitlines() if line.startswith("LazyFree:"))

    block = Block(4 << 20)
    block.part(3 << 20).fill_(1)
    before = lazily_free()
    assert block.empty()
    assert lazily_free() - before >= 3 << 10  # kB
    part = block.part(4 << 20).fill_(2)
    assert int(part.sum(dtype=torch.int64)) == 2 * (4 << 20)


@pytest.mark.parametrize(
    ("limit", "ranks", "expected"),
    [(None, 1, 4096000), ("max", 1, 4096000), ("1000000", 1, 700000), ("1000000", 2, 350000), ("200000", 1, 0)],
)
def test_memory_that_is_left(
    limit: str | None, ranks: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "stat").write_text("file 123\nanon 300000\nanon_thp 7\n")
    if limit is not None:
        (tmp_path / "max").write_text(limit + "\n")
    monkeypatch.setattr(host_memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_LIMITS", ((tmp_path / "max", tmp_path / "stat", "anon"),))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert available_host_bytes() == expected


def test_a_system_that_does_not_say_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(host_memory, "_LIMITS", ())
    assert available_host_bytes() is None
    assert copy_memory._room() == float("inf")


def test_this_system_says() -> None:
    assert (available_host_bytes() or 0) > 1 << 20
