"""Checkpoints written behind a training: published whole or not at all, and every failure is told."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nlp_adan.training.checkpoint import copy_memory, run_checkpoints, snapshot, tensor_files
from nlp_adan.training.checkpoint.manifest import Manifest, verify
from nlp_adan.training.checkpoint.run_checkpoints import (
    checkpoints_of,
    clean_partial,
    newest_good,
    partial_folder,
    rotate,
)
from nlp_adan.training.checkpoint.tensor_files import TensorFile
from nlp_adan.training.checkpoint.writer import CheckpointWriter, Failure

SOON_SECONDS = 60.0
FACTS: dict[str, Any] = {"zero_stage": 2, "sequences_per_step": 16, "versions": {"torch": "2.13"}}
PART = "optimizer/part-00000-of-00001.safetensors"
SMALL = {"trainer_state.json": b"{}", "optimizer/optimizer.json": b'{"a": 1}'}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small pieces, and no sync of a disk that others use."""
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", 64)
    monkeypatch.setattr(copy_memory, "BLOCK_BYTES", 256)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def part(tensors: dict[str, Tensor] | None = None) -> list[TensorFile]:
    return [TensorFile(PART, {"exp_avg/a": torch.arange(500.0)} if tensors is None else tensors)]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def save(checkpoints: CheckpointWriter, step: int, **changed: Any) -> None:
    """Begin and wait."""
    arguments = {"files": part(), "small": SMALL, **FACTS, **changed}
    checkpoints.begin(step, **arguments)
    checkpoints.wait()


def failing(after_bytes: int, number: int = errno.ENOSPC) -> Callable[[int, memoryview], int]:
    """A write call of a disk that is full after so many bytes."""
    left = after_bytes

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal left
        if not left:
            raise OSError(number, os.strerror(number))
        written = os.write(descriptor, data[:left])
        left -= written
        return written

    return write


def test_a_checkpoint_holds_what_it_was_given(tmp_path: Path) -> None:
    told: list[tuple[Path, str]] = []
    checkpoints = CheckpointWriter(
        tmp_path, on_published=lambda path: told.append((path, threading.current_thread().name))
    )
    partial = partial_folder(tmp_path, 12)
    partial.mkdir()
    (partial / "config.json").write_text('{"model_type": "bert"}')
    save(checkpoints, 12, written=["config.json"])
    path = tmp_path / "checkpoint-12"
    assert checkpoints.failed is None and checkpoints.published == path and told == [(path, "checkpoint")]
    assert names(tmp_path) == ["checkpoint-12"] and verify(path) == []
    found = Manifest.read(path)
    assert found.files.keys() == {PART, *SMALL, "config.json"}
    assert (found.step, found.world_size, found.zero_stage, found.sequences_per_step) == (12, 1, 2, 16)
    assert found.versions == FACTS["versions"] and found.date.endswith("+00:00")
    torch.testing.assert_close(load_file(path / PART), {"exp_avg/a": torch.arange(500.0)}, rtol=0, atol=0)
    assert (path / "optimizer/optimizer.json").read_bytes() == SMALL["optimizer/optimizer.json"]
    assert not checkpoints.is_busy and checkpoints.write_seconds > 0


def test_the_training_goes_on_while_it_is_written(tmp_path: Path) -> None:
    """It writes nothing until the training has changed all tensors."""
    go_on = threading.Event()

    def write(descriptor: int, data: memoryview) -> int:
        assert go_on.wait(SOON_SECONDS)
        return os.write(descriptor, data)

    checkpoints = CheckpointWriter(tmp_path, write=write)
    tensor = torch.arange(500.0)
    checkpoints.begin(1, part({"exp_avg/a": tensor}), SMALL, **FACTS)
    assert checkpoints.is_busy and checkpoints.published is None
    assert checkpoints.protect() > 0
    tensor.zero_()
    go_on.set()
    checkpoints.wait()
    assert checkpoints.protect() == 0.0
    torch.testing.assert_close(
        load_file(tmp_path / "checkpoint-1" / PART), {"exp_avg/a": torch.arange(500.0)}, rtol=0, atol=0
    )


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    def slow(descriptor: int, data: memoryview) -> int:
        time.sleep(0.01)
        return os.write(descriptor, data)

    published: list[str] = []
    checkpoints = CheckpointWriter(tmp_path, on_published=lambda path: published.append(path.name), write=slow)
    checkpoints.begin(1, part(), SMALL, **FACTS)
    held = checkpoints.stall_seconds
    checkpoints.begin(2, part(), SMALL, **FACTS)
    assert published == ["checkpoint-1"] and checkpoints.stall_seconds - held > 0.1
    held = checkpoints.stall_seconds
    checkpoints.wait()
    assert published == ["checkpoint-1", "checkpoint-2"] and checkpoints.stall_seconds - held > 0.1
    checkpoints.wait()


@pytest.mark.parametrize(
    ("after_bytes", "file"),
    [
        (0, PART), (70, PART), (1000, PART), (part()[0].num_bytes, "trainer_state.json"),
        (part()[0].num_bytes + 3, "optimizer/optimizer.json"),
    ],
)  # fmt: skip
def test_a_full_disk(after_bytes: int, file: str, tmp_path: Path) -> None:
    save(CheckpointWriter(tmp_path), 1)
    checkpoints = CheckpointWriter(tmp_path, write=failing(after_bytes))
    checkpoints.begin(2, part(), SMALL, **FACTS)
    checkpoints.protect()
    checkpoints.wait()
    failure = checkpoints.failed
    assert failure is not None and checkpoints.published is None
    assert (failure.step, failure.rank, failure.reason) == (2, 0, "No space left on device")
    assert failure.path == str(partial_folder(tmp_path, 2) / file) and failure.trace == ""
    assert failure.bytes_needed == part()[0].num_bytes + sum(map(len, SMALL.values()))
    assert failure.bytes_free is not None and failure.bytes_free > 0
    assert f"step 2 could not be written: {failure.path}: No space left on device (rank 0; it has 2," in str(failure)
    assert names(tmp_path) == ["checkpoint-1"] and verify(tmp_path / "checkpoint-1") == []
    checkpoints._write = os.write  # there is room again
    save(checkpoints, 3)
    assert checkpoints.failed is None and names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    checkpoints = CheckpointWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        save(checkpoints, 2)
    assert checkpoints.failed is not None
    assert checkpoints.failed.path == str(partial_folder(tmp_path, 2) / "optimizer")
    assert checkpoints.failed.reason == "Permission denied" and names(tmp_path) == []


def test_a_file_that_was_not_written(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path)
    save(checkpoints, 2, written=["config.json"])
    assert checkpoints.failed is not None and checkpoints.failed.reason == "No such file or directory"
    assert checkpoints.failed.path.endswith("config.json") and names(tmp_path) == []


def test_a_file_that_nobody_named(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path)
    partial_folder(tmp_path, 2).mkdir()
    (partial_folder(tmp_path, 2) / "scaler.pt").write_text("")
    save(checkpoints, 2)
    assert checkpoints.failed is not None and checkpoints.failed.trace == ""
    assert checkpoints.failed.reason.startswith("scaler.pt was not written with the checkpoint (a run's folder has to")
    assert names(tmp_path) == []


def test_an_error_of_the_caller(tmp_path: Path) -> None:
    partial_folder(tmp_path, 2).mkdir()
    checkpoints = CheckpointWriter(tmp_path)
    save(checkpoints, 2, error="the tokenizer could not be saved")
    assert checkpoints.failed is not None and checkpoints.failed.reason == "the tokenizer could not be saved"
    assert names(tmp_path) == [] and checkpoints.protect() == 0.0


def test_an_error_that_is_not_the_systems_is_told_with_its_trace(tmp_path: Path) -> None:
    checkpoints = CheckpointWriter(tmp_path)
    save(checkpoints, 2, files=part({"x": torch.zeros(1, dtype=torch.complex64)}))
    assert checkpoints.failed is not None and checkpoints.failed.reason.startswith("TypeError: ")
    assert "in header" in checkpoints.failed.trace and names(tmp_path) == []

    def broken(descriptor: int, data: memoryview) -> int:
        raise RuntimeError("broken")

    checkpoints = CheckpointWriter(tmp_path, write=broken)
    save(checkpoints, 2)
    assert checkpoints.failed is not None and checkpoints.failed.reason == "RuntimeError: broken"
    assert "in broken" in checkpoints.failed.trace and names(tmp_path) == []


def test_an_error_of_a_copy_is_told_and_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def write(descriptor: int, data: memoryview) -> int:
        assert go_on.wait(SOON_SECONDS)
        return os.write(descriptor, data)

    def broken(source: Tensor, to: Tensor) -> Tensor:
        raise RuntimeError("no copy")

    checkpoints = CheckpointWriter(tmp_path, write=write)
    with monkeypatch.context() as patch:
        checkpoints.begin(2, part(), SMALL, **FACTS)
        patch.setattr(snapshot, "_copied", broken)
        checkpoints.protect()
        go_on.set()
        checkpoints.wait()
    assert checkpoints.failed is not None and checkpoints.failed.reason == "RuntimeError: no copy"
    assert "in broken" in checkpoints.failed.trace and names(tmp_path) == []
    save(checkpoints, 3)
    assert checkpoints.failed is None and names(tmp_path) == ["checkpoint-3"]


def test_an_error_after_publishing_is_told(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        raise OSError(5, "Input/output error", "old checkpoint")

    checkpoints = CheckpointWriter(tmp_path, on_published=broken)
    save(checkpoints, 2)
    assert checkpoints.published == tmp_path / "checkpoint-2" and verify(checkpoints.published) == []
    assert checkpoints.failed is not None and checkpoints.failed.path == "old checkpoint"


def test_what_could_not_be_removed_does_not_end_up_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointWriter(tmp_path, write=failing(1000))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        save(checkpoints, 2, small={"rng_state_0.pth": b"12"})
    assert checkpoints.failed is not None and names(tmp_path) == [".checkpoint-2.partial"]
    checkpoints._write = os.write
    save(checkpoints, 2)
    assert checkpoints.failed is None and verify(tmp_path / "checkpoint-2") == []
    assert Manifest.read(tmp_path / "checkpoint-2").files.keys() == {PART, *SMALL}


def test_the_old_one_stays_where_the_new_one_fails(tmp_path: Path) -> None:
    """Saved at the same step again, by a run that was resumed there."""
    save(CheckpointWriter(tmp_path), 2, small={"a.json": b"old"})
    for after_bytes in (100, part()[0].num_bytes + 1):
        checkpoints = CheckpointWriter(tmp_path, write=failing(after_bytes))
        save(checkpoints, 2, small={"a.json": b"new"})
        assert checkpoints.failed is not None
        assert verify(tmp_path / "checkpoint-2") == [] and (tmp_path / "checkpoint-2/a.json").read_bytes() == b"old"
    save(CheckpointWriter(tmp_path), 2, small={"a.json": b"new"})
    assert verify(tmp_path / "checkpoint-2") == [] and (tmp_path / "checkpoint-2/a.json").read_bytes() == b"new"
    assert names(tmp_path) == ["checkpoint-2"]


def test_several_ranks_need_a_group(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 ranks need a group"):
        CheckpointWriter(tmp_path, world_size=2)


# ---- killed ----


def tensors_of(step: int) -> dict[str, Tensor]:
    return {f"exp_avg/{name}": torch.full((number,), float(step)) for name, number in [("a", 7000), ("b", 40)]}


def save_on_and_on(run: Path, first_step: int, word: Connection) -> None:
    """Save every step twice and keep two checkpoints, without end; tells each that is published."""
    torch.set_num_threads(1)

    def on_published(path: Path) -> None:
        word.send(int(path.name.rpartition("-")[2]))
        rotate(run, 2, known_good=path)

    def slow(descriptor: int, data: memoryview) -> int:
        time.sleep(1e-4)
        return os.write(descriptor, data)

    checkpoints = CheckpointWriter(run, on_published=on_published, write=slow)
    for step in itertools.count(first_step):
        for _ in range(2):
            checkpoints.begin(step, part(tensors_of(step)), SMALL, **FACTS)
            checkpoints.protect()


def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times: each folder with a checkpoint's name is whole, and none that was published is lost."""
    for module in (snapshot, tensor_files):
        monkeypatch.setattr(module, "CHUNK_BYTES", 256)
    generator = random.Random(3)
    context = multiprocessing.get_context("fork")
    newest, in_a_save = 0, 0
    for _ in range(10):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=save_on_and_on, args=(tmp_path, newest + 1, theirs), daemon=True)
        process.start()
        assert ours.poll(SOON_SECONDS)
        time.sleep(generator.uniform(0.02, 0.3))
        process.kill()
        process.join()
        theirs.close()
        while ours.poll():
            try:
                newest = max(newest, ours.recv())
            except EOFError:
                break
        in_a_save += any(path.name.endswith(".partial") for path in tmp_path.iterdir())
        found = checkpoints_of(tmp_path)
        assert [path for path in found if verify(path)] == []
        clean_partial(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in checkpoints_of(tmp_path)}
        good, passed_over = newest_good(tmp_path)
        assert good is not None and passed_over == []
        step = Manifest.read(good).step
        assert step >= newest
        torch.testing.assert_close(load_file(good / PART), tensors_of(step), rtol=0, atol=0)
        newest = step
    assert in_a_save >= 2  # of 10, that this test has tried what it is for


@pytest.mark.parametrize("moment", range(4))
def test_killed_while_one_replaces_another(moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of the renames, and before and while the old one is deleted: stopped there for good."""

    class KilledError(BaseException):
        pass

    save(CheckpointWriter(tmp_path), 2, small={"a.json": b"old"})
    num_changes = 0
    real_rename, real_rmtree = Path.rename, shutil.rmtree

    def change(real: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*arguments: Any, **options: Any) -> Any:
            nonlocal num_changes
            if real is real_rmtree and not arguments[0].exists():
                return None
            if num_changes == moment:
                if moment == 3:
                    (arguments[0] / "manifest.json").unlink()
                raise KilledError
            num_changes += 1
            return real(*arguments, **options)

        return changing

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", change(real_rename))
        patch.setattr(shutil, "rmtree", change(real_rmtree))
        patch.setattr(threading, "excepthook", lambda _: None)
        patch.setattr(run_checkpoints, "sync_folder", lambda folder: None)
        save(CheckpointWriter(tmp_path), 2, small={"a.json": b"new"})
    assert all(verify(path) == [] for path in checkpoints_of(tmp_path))
    clean_partial(tmp_path)
    assert names(tmp_path) == ["checkpoint-2"] and verify(tmp_path / "checkpoint-2") == []
    content = (tmp_path / "checkpoint-2" / "a.json").read_bytes()
    assert content == (b"old" if moment < 2 else b"new")


def test_a_failure_that_knows_no_sizes_does_not_tell_any() -> None:
    assert str(Failure(1234, 1, "x", "why")) == ("the checkpoint of step 1,234 could not be written: x: why (rank 1)")
