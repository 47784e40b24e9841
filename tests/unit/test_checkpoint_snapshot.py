"""What is written is what the tensors were, whatever the training does meanwhile; and it is held up for copies only."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nlp_adan.storage import sha256_file
from nlp_adan.training.checkpoint import copy_memory, snapshot
from nlp_adan.training.checkpoint.copy_memory import Block, CopyMemory
from nlp_adan.training.checkpoint.snapshot import Snapshot, _Accelerator
from nlp_adan.training.checkpoint.tensor_files import TensorFile

SOON_SECONDS = 30.0
CHUNK, PIECE = 64, 256


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(copy_memory, "BLOCK_BYTES", PIECE)
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

    def __init__(
        self, folder: Path, tensors: dict[str, Tensor], stop: int = 10**9, memory: CopyMemory | None = None
    ) -> None:
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
        self.memory = memory or CopyMemory()
        self.snapshot = Snapshot(self.files, self.memory)
        self.raised: list[Exception] = []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            self.entries = self.snapshot.write(self.folder, self.write)
        except Exception as error:
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

    def protect_behind(self) -> threading.Event:
        """As a training that waits; set when it may go on."""
        done = threading.Event()

        def protect() -> None:
            self.snapshot.protect()
            done.set()

        threading.Thread(target=protect, daemon=True).start()
        return done

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


def count_blocks(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Block]]:
    """The blocks for copies that are made from now on."""
    blocks: list[weakref.ref[Block]] = []
    real = Block.__init__

    def init(self: Block, num_bytes: int) -> None:
        real(self, num_bytes)
        blocks.append(weakref.ref(self))

    monkeypatch.setattr(Block, "__init__", init)
    return blocks


def by_copying_thread(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call this before each copy that one of the threads for them makes."""
    real = snapshot._copied

    def copied(source: Tensor, to: Tensor) -> Tensor:
        if threading.current_thread().name.startswith("checkpoint-copy"):
            action()
        return real(source, to)

    monkeypatch.setattr(snapshot, "_copied", copied)


def before_fetching(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call this each time before the writing thread reads a live tensor."""
    fetch = _Accelerator.fetch

    def fetch_later(*arguments: Any) -> Tensor:
        action()
        return fetch(*arguments)

    monkeypatch.setattr(_Accelerator, "fetch", fetch_later)


def test_nothing_is_copied_where_nothing_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = count_blocks(monkeypatch)
    writing = Writing(tmp_path, make_tensors())
    writing.start()
    writing.end()
    assert writing.snapshot.protect() == 0.0
    writing.change()
    writing.check()
    assert blocks == []


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
    number = 0

    def slow() -> None:
        nonlocal number
        number += 1
        time.sleep(0.02)

    before_fetching(slow, monkeypatch)
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


def test_a_chunk_that_is_being_read_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = threading.Event(), threading.Event()

    def wait() -> None:
        reads.set()
        assert read.wait(SOON_SECONDS)

    before_fetching(wait, monkeypatch)
    writing = Writing(tmp_path, make_tensors())
    writing.start()
    assert reads.wait(SOON_SECONDS)
    done = writing.protect_behind()
    assert not done.wait(0.1)
    read.set()
    assert done.wait(SOON_SECONDS)
    writing.change()
    writing.end()
    writing.check()


def test_a_chunk_that_was_being_read_when_all_was_released_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is the last one: the file would seem whole."""
    writing = Writing(tmp_path, {"a": torch.randn(CHUNK // 4)})

    def release_and_change() -> None:
        writing.snapshot.release()
        writing.change()

    before_fetching(release_and_change, monkeypatch)
    writing.start()
    writing.end()
    (raised,) = writing.raised
    assert str(raised) == "the snapshot has been released"


def test_copies_of_what_was_written_meanwhile_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chunk of the first piece is being written when all are copied."""
    blocks, memory = count_blocks(monkeypatch), CopyMemory()

    def go_on() -> None:
        writing.go_on.set()
        time.sleep(0.05)

    by_copying_thread(go_on, monkeypatch)
    for folder in "ab":
        writing = Writing(tmp_path / folder, {"a": torch.randn(3 * PIECE // 4)}, 1 + PIECE // CHUNK, memory)
        writing.start()
        writing.snapshot.protect()
        writing.change()
        writing.end()
        writing.check()
    assert len(blocks) == 3


def test_copies_are_made_by_several_threads_while_the_writing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy waits for two others that are under way, and for a writing thread that does not pause."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together, calls = threading.Barrier(3), []

    def wait() -> None:
        together.wait(SOON_SECONDS)
        time.sleep(0.01)
        calls.append(writing.calls)

    by_copying_thread(wait, monkeypatch)
    writing = Writing(tmp_path, {"a": torch.randn(PIECE * 3)})  # 12 blocks of 4 chunks, and the headers
    writing.snapshot.protect()  # nothing is written yet
    assert len(calls) == 12 and set(calls) == {0}
    calls.clear()
    writing = Writing(tmp_path, {"a": torch.randn(PIECE * 3)}, stop=2)
    writing.start()
    done = writing.protect_behind()
    writing.go_on.set()  # in the midst of the first piece
    assert done.wait(SOON_SECONDS) and len(calls) == 12 and max(calls) <= 4
    writing.change()
    writing.end()
    writing.check()


def test_copies_are_given_back_when_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = count_blocks(monkeypatch)
    writing = Writing(tmp_path, make_tensors(), stop=4)
    in_use = []
    write = writing.write

    def counting(descriptor: int, data: memoryview) -> int:
        in_use.append(sum(block().num_parts > 0 for block in blocks))  # type: ignore[union-attr]
        return write(descriptor, data)

    writing.write = counting  # type: ignore[method-assign]
    writing.start()
    writing.snapshot.protect()
    assert len(blocks) >= 4
    writing.end()
    assert in_use[4] >= len(blocks) - 1 and in_use[-1] <= 1
    assert in_use[4:] == sorted(in_use[4:], reverse=True)
    assert {block().num_free for block in blocks} == {PIECE}  # type: ignore[union-attr]


def test_the_next_copies_are_made_in_the_same_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, memory = count_blocks(monkeypatch), CopyMemory()

    for number, (num_late, num_made) in enumerate([(6, 6), (6, 6), (3, 6), (0, 6), (8, 8), (8, 8)]):
        writing = Writing(tmp_path / str(number), {"a": torch.randn(num_late * PIECE // 4)}, memory=memory)
        writing.snapshot.protect()
        writing.change()
        writing.start()
        writing.end()
        writing.check()
        assert len(blocks) == num_made
    assert not any(block() is None for block in blocks)


def test_a_limit_that_counts_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's: where it would be short by that, it is let go first."""
    blocks = count_blocks(monkeypatch)
    monkeypatch.setattr(
        copy_memory,
        "available_host_bytes",
        lambda: 10 * PIECE - sum(PIECE for block in blocks if block() is not None),
    )
    memory, tensors = CopyMemory(), {"a": torch.randn(8 * PIECE // 4)}
    for number in range(3):
        writing = Writing(tmp_path / str(number), tensors, memory=memory)
        assert writing.protect_behind().wait(SOON_SECONDS)  # nobody writes yet: all is copied
        writing.change()
        writing.start()
        writing.end()
        writing.check()


@pytest.mark.parametrize("room", [0, 2 * PIECE])
def test_where_memory_is_short_it_waits_for_the_writing(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_memory, "_room", lambda: float(room))
    blocks = count_blocks(monkeypatch)
    writing = Writing(tmp_path, make_tensors(), stop=3)
    writing.start()
    threading.Timer(0.3, writing.go_on.set).start()
    assert writing.snapshot.protect() > 0.2
    writing.change()
    writing.end()
    writing.check()
    assert len(blocks) == room // PIECE


def test_it_waits_for_what_has_no_copy_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten pieces seven are copied; the writing stands still from the fourth on."""
    monkeypatch.setattr(copy_memory, "_room", lambda: 7.0 * PIECE)
    writing = Writing(tmp_path, {"a": torch.randn(10 * PIECE // 4)}, stop=1 + 3 * PIECE // CHUNK + 1)
    done = writing.protect_behind()
    assert not done.wait(0.1)
    writing.start()
    assert done.wait(SOON_SECONDS)
    writing.change()
    writing.end()
    writing.check()


def test_memory_that_is_refused_counts_as_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    writing = Writing(tmp_path, make_tensors(), stop=3)
    writing.start()
    threading.Timer(0.1, writing.go_on.set).start()
    assert writing.snapshot.protect() > 0.05
    writing.change()
    writing.end()
    writing.check()


def test_an_error_of_a_copy_is_one_of_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no copy today")

    by_copying_thread(broken, monkeypatch)
    writing = Writing(tmp_path, make_tensors(), stop=5)
    writing.start()
    writing.snapshot.protect()
    assert writing.snapshot.protect() == 0.0
    writing.change()
    writing.end()
    (raised,) = writing.raised
    assert isinstance(raised, RuntimeError) and str(raised) == "no copy today"


@pytest.mark.parametrize("room", [float("inf"), 0.0])
@pytest.mark.parametrize("when", ["before", "while it waits", "between"])
def test_an_error_of_the_writing_lets_the_training_go_on(
    when: str, room: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_memory, "_room", lambda: room)
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
    assert isinstance(raised, OSError) and raised.errno == 28 and raised.filename == str(tmp_path / "a.safetensors")
    del tensors
    writing.tensors, writing.files = {}, []
    assert not any(tensor() is not None for tensor in watched)


def test_a_type_without_a_name_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="complex64"):
        Snapshot([TensorFile("f", {"x": torch.zeros(2, dtype=torch.complex64)})], CopyMemory())


def slowed(writing: Writing, seconds: float) -> None:
    """Let each call of `write` take longer."""
    write = writing.write

    def slow(descriptor: int, data: memoryview) -> int:
        time.sleep(seconds)
        return write(descriptor, data)

    writing.write = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_at_any_moment(num_threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty snapshots one after the other, in the same memory, more or less of it, each protected and changed somewhere
    while it is written; every fourth is let go of somewhere."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    generator, memory, tensors = random.Random(7), CopyMemory(), make_tensors()
    num_written = 0
    for number in range(40):
        room = generator.choice([0.0, 2.0 * PIECE, float("inf"), float("inf")])
        monkeypatch.setattr(copy_memory, "_room", lambda room=room: room)
        writing = Writing(tmp_path / str(number), tensors, memory=memory)
        slowed(writing, generator.random() * 2e-4)
        writing.start()
        if number % 4 == 3:
            threading.Timer(generator.random() * 6e-3, writing.snapshot.release).start()
        for _ in range(3):
            time.sleep(generator.random() * 2e-3)
            writing.snapshot.protect()
            writing.change()
        writing.end()
        if writing.raised:
            assert number % 4 == 3 and str(writing.raised[0]) == "the snapshot has been released"
        else:
            writing.check()
            num_written += 1
    assert num_written >= 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("room", [float("inf"), 0.0])
def test_on_a_gpu(room: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied on the GPU, or in host memory; read after what was begun there before."""
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", CHUNK << 16)
    monkeypatch.setattr(copy_memory, "BLOCK_BYTES", PIECE << 16)
    monkeypatch.setattr(snapshot, "_room", lambda device: room)
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
