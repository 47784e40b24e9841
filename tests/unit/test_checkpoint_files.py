"""Tensor files as safetensors reads them, however the tensors lie in memory and however a write goes."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from nlp_adan.training.checkpoint import tensor_files
from nlp_adan.training.checkpoint.tensor_files import (
    DTYPE_NAMES,
    TensorFile,
    hash_and_sync,
    write_pieces,
    write_tensor_file,
)

WIDE = (torch.complex64, torch.uint16)  # types that our files have no name for
TEXT = st.characters(codec="utf-8")
NAMES = st.text(TEXT, min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int, layout: Callable[[Tensor], Tensor]) -> Tensor:
    """Random bits, whatever number they are: NaNs and infinities are stored like any other."""
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=torch.manual_seed(seed))
    tensor = (bits[..., 0] % 2).bool() if dtype == torch.bool else bits.view(dtype).reshape(shape)
    return layout(tensor)


LAYOUTS: list[Callable[[Tensor], Tensor]] = [
    lambda tensor: tensor,
    lambda tensor: tensor.transpose(0, -1) if tensor.dim() else tensor,
    lambda tensor: tensor[::2] if tensor.dim() else tensor,
    lambda tensor: tensor[1:, ...] if tensor.dim() else tensor.expand(3),
]
TENSORS = st.builds(
    random_tensor, SHAPES, st.sampled_from(list(DTYPE_NAMES)), st.integers(0, 2**31 - 1), st.sampled_from(LAYOUTS)
)  # fmt: skip


def bits_of(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@settings(deadline=None, max_examples=40)
@given(
    tensors=st.dictionaries(NAMES, TENSORS, max_size=5),
    metadata=st.dictionaries(st.text(TEXT, max_size=5), NAMES, max_size=3),
    chunk_bytes=st.integers(1, 64),
)
def test_safetensors_reads_what_was_written(
    tensors: dict[str, Tensor], metadata: dict[str, str], chunk_bytes: int
) -> None:
    file = TensorFile("optimizer/part.safetensors", tensors, metadata)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_files, "CHUNK_BYTES", chunk_bytes)
        patch.setattr(os, "fsync", lambda descriptor: None)  # of a hundred files
        entry = write_tensor_file(Path(folder), file)
        path = Path(folder) / file.path
        content = path.read_bytes()
        loaded = load_file(path)
        with safe_open(path, "pt") as opened:
            assert (opened.metadata() or {}) == metadata
    assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert file.num_bytes == len(content)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits_of(loaded[name]) == bits_of(tensor)


def test_every_tensor_is_aligned_to_its_type() -> None:
    file = TensorFile("f", {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(2), "c": torch.ones(1).double()})
    assert [name for name, _ in file.in_order] == ["c", "b", "a"]
    assert len(file.header) % 8 == 0


@pytest.mark.parametrize("dtype", WIDE)
def test_a_type_without_a_name_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"f: 'x' is of type {dtype}"):
        write_tensor_file(tmp_path, TensorFile("f", {"x": torch.zeros(2, dtype=dtype)}))
    assert not list(tmp_path.iterdir())


def test_the_name_of_the_metadata_is_refused() -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        _ = TensorFile("f", {"__metadata__": torch.zeros(1)}).header


def test_a_write_that_takes_less_than_it_is_given_goes_on(tmp_path: Path) -> None:
    calls = []

    def write(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        return os.write(descriptor, data[: max(1, len(data) // 2)])

    entry = write_pieces(tmp_path / "new" / "f", [b"abc", b"", memoryview(bytes(1000))], write)
    content = (tmp_path / "new" / "f").read_bytes()
    assert content == b"abc" + bytes(1000) and calls[0] == 3 and len(calls) > 10
    assert (entry.size, entry.sha256) == (1003, hashlib.sha256(content).hexdigest())


def test_it_is_synced_after_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    write_pieces(tmp_path / "f", [b"abc", b"de"])
    assert sizes == [5]


def test_another_ones_file_is_hashed_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 3
    (tmp_path / "f").write_bytes(content)
    synced = []
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 100)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    entry = hash_and_sync(tmp_path / "f")
    assert (entry.size, entry.sha256) == (768, hashlib.sha256(content).hexdigest())
    assert synced == [(tmp_path / "f").stat().st_ino]
    with pytest.raises(FileNotFoundError):
        hash_and_sync(tmp_path / "none")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told_with_the_files_name() -> None:
    with pytest.raises(OSError, match="/dev/full") as raised:
        write_pieces(Path("/dev/full"), [b"abc"])
    assert raised.value.errno == errno.ENOSPC
