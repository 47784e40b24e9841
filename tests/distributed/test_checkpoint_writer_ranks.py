"""Two ranks write one checkpoint, each its files: both succeed, or both fail and nothing is left."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from nlp_adan.training.checkpoint import writer
from nlp_adan.training.checkpoint.manifest import Manifest, verify
from nlp_adan.training.checkpoint.tensor_files import TensorFile
from nlp_adan.training.checkpoint.writer import CheckpointWriter, Failure

pytestmark = [pytest.mark.distributed]

SOON_SECONDS = 120.0
FACTS: dict[str, Any] = {"zero_stage": 2, "sequences_per_step": 16, "versions": {}}
SHARED = {"trainer_state.json": b"{}"}


def part(rank: int) -> str:
    return f"optimizer/part-{rank:05}-of-00002.safetensors"


def files_of(rank: int, step: int) -> list[TensorFile]:
    return [TensorFile(part(rank), {f"exp_avg/{rank}": torch.full((300,), float(step + rank))})]


class Rank:
    """What a rank does in each case; `told`: what became of it."""

    def __init__(self, run: Path, rank: int) -> None:
        self.run, self.rank = run, rank
        self.published: list[str] = []
        self.callback: Callable[[Path], None] = lambda path: self.published.append(path.name)
        self.checkpoints = CheckpointWriter(
            run, rank=rank, world_size=2, group=dist.new_group(backend="gloo"), on_published=lambda p: self.callback(p)
        )

    def save(self, step: int, small: dict[str, bytes] | None = None, error: str | None = None) -> dict[str, Any]:
        own = {f"rng_state_{self.rank}.pth": b"x", **(SHARED if self.rank == 0 else {})}
        self.checkpoints.begin(step, files_of(self.rank, step), own if small is None else small, error=error, **FACTS)
        self.checkpoints.wait()
        return {
            "failed": self.checkpoints.failed,
            "published": self.checkpoints.published,
            "folder": sorted(path.name for path in self.run.iterdir()),
        }

    def good(self) -> dict[str, Any]:
        return self.save(1)

    def one_waits_for_the_other(self) -> dict[str, Any]:
        if self.rank == 1:
            self.checkpoints._write = self.slow
        found = self.save(2)
        self.checkpoints._write = os.write
        return found

    def slow(self, descriptor: int, data: memoryview) -> int:
        time.sleep(0.2)
        return os.write(descriptor, data)

    def full_disk(self) -> dict[str, Any]:
        def full(descriptor: int, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        if self.rank == 1:
            self.checkpoints._write = full
        found = self.save(3)
        self.checkpoints._write = os.write
        return found

    def error(self) -> dict[str, Any]:
        return self.save(4, error="no optimizer" if self.rank == 1 else None)

    def cannot_publish(self) -> dict[str, Any]:
        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error", "run")

        publish, writer.publish = writer.publish, refuse  # type: ignore[assignment]
        found = self.save(5)
        writer.publish = publish
        return found

    def same_file(self) -> dict[str, Any]:
        return self.save(6, small={"same": b"x"})

    def callback_fails(self) -> dict[str, Any]:
        def broken(path: Path) -> None:
            raise OSError(errno.EIO, "Input/output error", "old")

        before = self.callback
        if self.rank == 1:
            self.callback = broken
        found = self.save(7)
        self.callback = before
        return found

    def again(self) -> dict[str, Any]:
        return {**self.save(8), "told": self.published}

    def one_is_gone(self) -> dict[str, Any]:
        if self.rank == 1:
            os._exit(0)
        return self.save(9)


CASES = (
    "good", "one_waits_for_the_other", "full_disk", "error", "cannot_publish", "same_file", "callback_fails", "again",
    "one_is_gone",
)  # fmt: skip


def work(run: Path, store: Path, rank: int, words: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    doing = Rank(run, rank)
    for case in CASES:
        words.send((case, getattr(doing, case)()))
        if case != CASES[-1]:
            dist.barrier()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def results(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each rank said of each case; of the last one, rank 0 alone."""
    # Not forked from here: another test may have made this process a rank of its own.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    store = tmp_path_factory.mktemp("store") / "store"
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    pipes, processes = [], []
    for rank in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(run, store, rank, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        try:
            while pipe.poll(SOON_SECONDS):
                case, result = pipe.recv()
                found[case].append(result)
        except EOFError:
            pass
    for process in processes:
        process.kill()
        process.join()
    assert all(len(found[case]) == 2 for case in CASES[:-1]), found
    return found


def test_both_ranks_files_make_a_checkpoint(results: dict[str, list[dict[str, Any]]], run: Path) -> None:
    path = run / "checkpoint-1"
    for result in results["good"]:
        assert result == {"failed": None, "published": path, "folder": ["checkpoint-1"]}
    assert verify(path) == [] and Manifest.read(path).world_size == 2
    files = {part(0), part(1), "rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"}
    assert Manifest.read(path).files.keys() == files
    for rank in range(2):
        loaded = load_file(path / part(rank))
        torch.testing.assert_close(loaded, {f"exp_avg/{rank}": torch.full((300,), 1.0 + rank)}, rtol=0, atol=0)


def test_a_rank_waits_for_a_slower_one(results: dict[str, list[dict[str, Any]]], run: Path) -> None:
    for result in results["one_waits_for_the_other"]:
        assert result["folder"] == ["checkpoint-1", "checkpoint-2"] and result["published"] == run / "checkpoint-2"
    assert verify(run / "checkpoint-2") == []


@pytest.mark.parametrize(
    ("case", "rank", "reason"),
    [
        ("full_disk", 1, "No space left on device"), ("error", 1, "no optimizer"),
        ("cannot_publish", 0, "Input/output error"),
        ("same_file", 0, "ValueError: rank 1 and one before it have both written same"),
    ],
)  # fmt: skip
def test_one_rank_fails_for_all(
    case: str, rank: int, reason: str, results: dict[str, list[dict[str, Any]]], run: Path
) -> None:
    first, second = results[case]
    assert first == second
    failure = first["failed"]
    assert isinstance(failure, Failure) and (failure.rank, failure.reason) == (rank, reason)
    assert first["folder"] == ["checkpoint-1", "checkpoint-2"] and first["published"] == run / "checkpoint-2"
    if case == "full_disk":
        assert failure.path == str(run / ".checkpoint-3.partial" / part(1))
        each = [file.num_bytes for number in range(2) for file in files_of(number, 3)]
        assert failure.bytes_needed == sum(each) + len("xx{}") and failure.bytes_free is not None


def test_an_error_after_publishing_is_told_on_all_ranks(results: dict[str, list[dict[str, Any]]], run: Path) -> None:
    for result in results["callback_fails"]:
        assert result["published"] == run / "checkpoint-7" and result["failed"].path == "old"
        assert result["failed"].rank == 1


def test_after_failures_all_goes_on(results: dict[str, list[dict[str, Any]]], run: Path) -> None:
    told = ["checkpoint-1", "checkpoint-2", "checkpoint-7", "checkpoint-8"]
    first, second = results["again"]
    assert first["failed"] is None and second["failed"] is None
    assert first["told"] == told and second["told"] == [name for name in told if name != "checkpoint-7"]
    assert verify(run / "checkpoint-8") == []


def test_a_rank_that_is_gone(results: dict[str, list[dict[str, Any]]], run: Path) -> None:
    """The other one does not wait for ever, and publishes nothing."""
    (result,) = results["one_is_gone"]
    assert isinstance(result["failed"], Failure) and result["failed"].step == 9
    assert result["published"] == run / "checkpoint-8" and "checkpoint-9" not in result["folder"]
    shutil.rmtree(run)
