"""What is written is what the tensors were, whatever the training does meanwhile; and it is held up for copies only."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nlp_adan.storage import sha256_file
from nlp_adan.training.checkpoint import snapshot
from nlp_adan.training.checkpoint.snapshot import Snapshot, _Accelerator
from nlp_adan.training.checkpoint.tensor_files import TensorFile

SOON_SECONDS = 30.0
CHUNK, PIECE = 64, 256


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(snapshot, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_tensors() -> dict[str, Tensor]:
    return {
        "exp_avg/a": torch.randn(100),
        "exp_avg/b": torch.randn(7, 30).bfloat16(),
        "step/a": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(12, 9).t(),
        "every second": torch.randn(40)[::2],
        "flags": torch.rand(33) < 0.5,
    }


class Writing:
    """A snapshot that is being written by a thread, up to the `stop`-th write call, until `go_on`."""

    def __init__(self, folder: Path, tensors: dict[str, Tensor], stop: int = 10**9) -> None:
        names = list(tensors)
        self.folder = folder
        self.files = [
            TensorFile("a.safetensors", {name: tensors[name] for name in names[::2]}),
            TensorFile("sub/b.safetensors", {name: tensors[name] for name in names[1::2]}, {"a": "b"}),
        ]
        self.expected = {name: tensor.clone() for name, tensor in tensors.items()}
        self.tensors = tensors
        self.calls, self.stop = 0, stop
        self.error: OSError | None = None
        self.stopped, self.go_on = threading.Event(), threading.Event()
        self.snapshot = Snapshot(self.files)
        self.raised: list[OSError] = []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            self.entries = self.snapshot.write(self.folder, self.write)
        except OSError as error:
            self.raised.append(error)

    def write(self, descriptor: int, data: memoryview) -> int:
        self.calls += 1
        if self.calls == self.stop:
            self.stopped.set()
            assert self.go_on.wait(SOON_SECONDS)
            if self.error:
                raise self.error
        return os.write(descriptor, data)

    def start(self) -> None:
        self.thread.start()
        if self.stop < 10**9:
            assert self.stopped.wait(SOON_SECONDS)

    def end(self) -> None:
        self.go_on.set()
        self.thread.join(SOON_SECONDS)
        assert not self.thread.is_alive()

    def change(self) -> None:
        """What an optimizer's step does."""
        for tensor in self.tensors.values():
            tensor.copy_(torch.randn(tensor.shape) * 5)

    def check(self) -> None:
        found: dict[str, Tensor] = {}
        for file in self.files:
            path = self.folder / file.path
            found |= load_file(path)
            assert (self.entries[file.path].size, self.entries[file.path].sha256) == (
                path.stat().st_size,
                sha256_file(path),
            )
        assert found.keys() == self.expected.keys()
        for name, tensor in self.expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)
        assert self.snapshot.num_bytes == sum(entry.size for entry in self.entries.values())


def count_copies(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Tensor]]:
    """The copies that are made from now on."""
    copies: list[weakref.ref[Tensor]] = []
    real = _Accelerator.copy

    def copy(self: _Accelerator, source: Tensor, room: dict[torch.device, float]) -> Tensor | None:
        made = real(self, source, room)
        if made is not None:
            copies.append(weakref.ref(made))
        return made

    monkeypatch.setattr(_Accelerator, "copy", copy)
    return copies


def test_nothing_is_copied_where_nothing_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = count_copies(monkeypatch)
    writing = Writing(tmp_path, make_tensors())
    writing.start()
    writing.end()
    assert writing.snapshot.protect() == 0.0
    writing.change()
    writing.check()
    assert copies == []


NUM_CALLS = 24  # of `write` for these tensors: headers, and chunks of at most 64 bytes


@pytest.mark.parametrize("stop", [1, 2, 3, 7, 12, 20, NUM_CALLS])
def test_what_changes_later_is_not_written(stop: int, tmp_path: Path) -> None:
    """The writing stands still in a write call all the time: the training's thread does not wait for it."""
    writing = Writing(tmp_path, make_tensors(), stop)
    writing.start()
    assert writing.snapshot.protect() > 0
    writing.change()
    assert writing.snapshot.protect() == 0.0  # at the next step
    writing.end()
    assert writing.calls >= NUM_CALLS
    writing.check()


def test_before_it_begins(tmp_path: Path) -> None:
    writing = Writing(tmp_path, make_tensors())
    writing.snapshot.protect()
    writing.change()
    writing.start()
    writing.end()
    writing.check()


def test_the_training_waits_for_a_chunk_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a chunk takes a while here: 40 of them are left, the one that is being read is waited for."""
    fetch, number = _Accelerator.fetch, 0

    def slow(*arguments: object) -> Tensor:
        nonlocal number
        number += 1
        time.sleep(0.02)
        return fetch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_Accelerator, "fetch", slow)
    writing = Writing(tmp_path, {"a": torch.randn(CHUNK * 10)}, stop=2)
    writing.go_on.set()
    writing.start()
    before = number
    writing.snapshot.protect()
    assert number <= before + 2
    writing.change()
    writing.end()
    assert number < 20  # a copy is not read twice
    writing.check()


def test_copies_are_given_back_when_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = count_copies(monkeypatch)
    writing = Writing(tmp_path, make_tensors(), stop=4)
    alive = []
    write = writing.write

    def counting(descriptor: int, data: memoryview) -> int:
        alive.append(sum(copy() is not None for copy in copies))
        return write(descriptor, data)

    writing.write = counting  # type: ignore[method-assign]
    writing.start()
    writing.snapshot.protect()
    assert len(copies) >= 4
    writing.end()
    assert alive[4] >= len(copies) - 1 and alive[-1] <= 1
    assert alive[4:] == sorted(alive[4:], reverse=True)
    assert not any(copy() is not None for copy in copies)


@pytest.mark.parametrize("room", [0, 2 * PIECE])
def test_where_memory_is_short_it_waits_for_the_writing(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_room", lambda device: float(room))
    copies = count_copies(monkeypatch)
    writing = Writing(tmp_path, make_tensors(), stop=3)
    writing.start()
    threading.Timer(0.3, writing.go_on.set).start()
    assert writing.snapshot.protect() > 0.2
    writing.change()
    writing.end()
    writing.check()
    assert bool(copies) == bool(room)


def test_memory_that_is_refused_counts_as_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("numpy.empty", refuse)
    writing = Writing(tmp_path, make_tensors(), stop=3)
    writing.start()
    threading.Timer(0.1, writing.go_on.set).start()
    assert writing.snapshot.protect() > 0.05
    writing.change()
    writing.end()
    writing.check()


@pytest.mark.parametrize("room", [float("inf"), 0.0])
@pytest.mark.parametrize("when", ["before", "while it waits", "between"])
def test_an_error_of_the_writing_lets_the_training_go_on(
    when: str, room: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_room", lambda device: room)
    writing = Writing(tmp_path, tensors := make_tensors(), stop=5)
    writing.error = OSError(28, "No space left on device")
    watched = [weakref.ref(tensor) for tensor in tensors.values()]
    writing.start()
    if when == "before":
        writing.end()
        assert writing.snapshot.protect() == 0.0
    else:
        if room or when == "while it waits":
            threading.Timer(0.2, writing.go_on.set).start()
        else:
            writing.go_on.set()
        writing.snapshot.protect()
        writing.end()
    (raised,) = writing.raised
    assert raised.errno == 28 and raised.filename == str(tmp_path / "a.safetensors")
    del tensors
    writing.tensors, writing.files = {}, []
    assert not any(tensor() is not None for tensor in watched)


def test_a_type_without_a_name_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="complex64"):
        Snapshot([TensorFile("f", {"x": torch.zeros(2, dtype=torch.complex64)})])


def test_at_any_moment(tmp_path: Path) -> None:
    """Forty snapshots one after the other, each protected and changed somewhere while it is written."""
    generator = random.Random(7)
    tensors = make_tensors()
    for number in range(40):
        writing = Writing(tmp_path / str(number), tensors)
        write, delay = writing.write, generator.random() * 2e-4

        def slow(descriptor: int, data: memoryview, write: Callable = write, delay: float = delay) -> int:
            time.sleep(delay)
            return int(write(descriptor, data))

        writing.write = slow  # type: ignore[method-assign]
        writing.start()
        for _ in range(3):
            time.sleep(generator.random() * 2e-3)
            writing.snapshot.protect()
            writing.change()
        writing.end()
        writing.check()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("room", [float("inf"), 0.0])
def test_on_a_gpu(room: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied on the GPU, or in host memory; read after what was begun there before."""
    for size in (CHUNK, PIECE):
        monkeypatch.setattr(snapshot, "CHUNK_BYTES" if size == CHUNK else "PIECE_BYTES", size << 16)
    monkeypatch.setattr(snapshot, "_room", lambda device: room if device.type == "cuda" else float("inf"))
    tensors = {name: torch.randn(1 << 24, device="cuda") for name in "ab"}
    for _ in range(50):
        for tensor in tensors.values():
            tensor.mul_(1.01)  # still under way when the snapshot is made
    for stop in (1, 3):
        writing = Writing(tmp_path / str(stop), tensors, stop)
        writing.expected = {name: tensor.cpu() for name, tensor in writing.expected.items()}
        writing.start()
        writing.snapshot.protect()
        for tensor in tensors.values():
            tensor.normal_()
        writing.end()
        writing.check()
