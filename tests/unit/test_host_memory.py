"""How much memory copies of tensors may take: of the machine, its container, a scheduler's job; and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nlp_adan.training.checkpoint import copy_memory, host_memory
from nlp_adan.training.checkpoint.copy_memory import Block
from nlp_adan.training.checkpoint.host_memory import available_host_bytes


@pytest.mark.parametrize(
    ("limit", "ranks", "expected"),
    [(None, 1, 4096000), ("max", 1, 4096000), ("1000000", 1, 700000), ("1000000", 2, 350000), ("200000", 1, 0)],
)
def test_memory_that_is_left(
    limit: str | None, ranks: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "memory.stat").write_text("file 123\nanon 300000\nanon_thp 7\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
    monkeypatch.setattr(host_memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_GROUPS", tmp_path / "none")
    monkeypatch.setattr(host_memory, "_KINDS", (("", tmp_path, "memory.max", "anon"),))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert available_host_bytes() == expected


@pytest.mark.parametrize("version", [1, 2])
def test_a_jobs_limit_is_that_of_a_group_below(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a scheduler sets it on a machine that has more."""
    (tmp_path / "meminfo").write_text("MemAvailable:    4000 kB\n")
    limit, key, line = (
        ("memory.max", "anon", "0::/slurm/job_7/step_0") if version == 2
        else ("memory.limit_in_bytes", "total_rss", "9:cpu,cpuacct:/\n4:hugetlb,memory:/slurm/job_7/step_0")
    )  # fmt: skip
    (tmp_path / "own").write_text(f"{line}\n")
    job = tmp_path / "groups" / "slurm" / "job_7"
    for folder, most, used in ((job / "step_0", "max", 100_000), (job, "900000", 200_000), (tmp_path, "1", 0)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / "memory.stat").write_text(f"file 5\n{key} {used}\n")
    monkeypatch.setattr(host_memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_GROUPS", tmp_path / "own")
    kinds = tuple((controller, tmp_path / "groups", *rest) for controller, _, *rest in host_memory._KINDS)
    monkeypatch.setattr(host_memory, "_KINDS", kinds)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert available_host_bytes() == 700_000


def test_a_system_that_does_not_say_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(host_memory, "_KINDS", ())
    assert available_host_bytes() is None
    assert copy_memory._room() == float("inf")


def test_this_system_says() -> None:
    assert (available_host_bytes() or 0) > 1 << 20


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
