"""Files of tensors in the safetensors format, written as a stream: hashed on the way, and safe on the disk at the end.

safetensors' own writer takes every tensor as bytes at once and leaves hash and sync to a second reading. The format
(https://github.com/huggingface/safetensors#format): the length of the header in 8 bytes, the header (JSON, padded with
spaces to a multiple of 8), and the tensors' little-endian bytes one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nlp_adan.training.checkpoint.manifest import FileEntry

# What is hashed and written at once: it stays in the processor's cache from the one to the other.
CHUNK_BYTES = 4 << 20
# The format's names of the types that our files can have.
DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
METADATA = "__metadata__"
_ALIGNMENT = 8

Write = Callable[[int, memoryview], int]  # as os.write: may write less than it is given, and says how much


@dataclass(frozen=True)
class TensorFile:
    """Tensors that make a file.

    path: relative to the checkpoint, as `optimizer/part-00000-of-00002.safetensors`; tensors: live ones, of any device
    and layout in memory; metadata: the header's strings.
    """

    path: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_order(self) -> list[tuple[str, Tensor]]:
        """The tensors in the file's order: wide types first, so that every tensor is aligned to its type."""
        return sorted(self.tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))

    @property
    def header(self) -> bytes:
        """The file's beginning, up to the first tensor's bytes.

        Raises: TypeError for a type that the format has no name for; ValueError for the one name that it keeps.
        """
        if METADATA in self.tensors:
            raise ValueError(f"{self.path}: {METADATA!r} cannot be the name of a tensor")
        entries: dict[str, object] = {METADATA: dict(self.metadata)} if self.metadata else {}
        begin = 0
        for name, tensor in self.in_order:
            if tensor.dtype not in DTYPE_NAMES:
                raise TypeError(f"{self.path}: {name!r} is of type {tensor.dtype}, for which safetensors has no name")
            end = begin + tensor.numel() * tensor.element_size()
            entries[name] = {
                "dtype": DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [begin, end],
            }
            begin = end
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """The size that the file will have."""
        return len(self.header) + sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor's elements in order as a 1-D uint8 tensor: a view where they lie so in memory, else a copy."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], write: Write = os.write) -> FileEntry:
    """Write a new file from its pieces, one after the other, and return when it is safe on the disk.

    Args:
        path: its folder is made where it is missing; a file of that name is replaced.
        pieces: each is used before the next one is asked for.

    Returns: the file's size and SHA-256, of the bytes that were given and not of what a disk made of them.

    Raises: OSError, with the file's name, from what wrote it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(path, "wb", buffering=0) as file:
        try:
            for piece in pieces:
                whole = memoryview(piece)
                for begin in range(0, len(whole), CHUNK_BYTES):
                    chunk = whole[begin : begin + CHUNK_BYTES]
                    digest.update(chunk)  # other threads run meanwhile
                    written = 0
                    while written < len(chunk):
                        written += write(file.fileno(), chunk[written:])
                    size += written
            os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(path)  # the operating system was given a number only
            raise
    return FileEntry(size, digest.hexdigest())


def hash_and_sync(path: Path) -> FileEntry:
    """Size and SHA-256 of a file that somebody else has written, when it is safe on the disk. Raises: OSError."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(file.fileno())
    return FileEntry(size, digest.hexdigest())


def tensor_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's elements in order, as buffers of some MB in host memory."""
    flat = as_bytes(tensor)
    for begin in range(0, flat.numel(), CHUNK_BYTES):
        yield memoryview(flat[begin : begin + CHUNK_BYTES].cpu().numpy())


def write_tensor_file(folder: Path, file: TensorFile) -> FileEntry:
    """Write a file of tensors that nothing changes meanwhile."""
    header = file.header

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        for _, tensor in file.in_order:
            yield from tensor_bytes(tensor)

    return write_pieces(folder / file.path, pieces())
