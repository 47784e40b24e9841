"""Host memory for copies of tensors, kept from one checkpoint to the next as long as nobody else wants it."""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

from nlp_adan.training.checkpoint.host_memory import available_host_bytes

# Taken and kept at once: large pages fit in, and it is not much to hold until the last copy in it is written.
BLOCK_BYTES = 32 << 20
# Of the memory that is left, the share that copies may take.
HOST_SHARE = 0.8


class Block:
    """Host memory for some copies. Raises: OSError where there is none.

    num_free: bytes at the end that hold nothing yet; num_parts: how many copies it holds that are still needed.
    """

    def __init__(self, num_bytes: int) -> None:
        self._memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._advise("MADV_HUGEPAGE")  # several times as fast where memory is new
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self.num_free, self.num_parts = num_bytes, 0

    def part(self, num_bytes: int) -> Tensor:
        """The next bytes that hold nothing yet: uint8, 1-D; at most `num_free`."""
        begin = len(self._bytes) - self.num_free
        self.num_free -= num_bytes
        self.num_parts += 1
        return self._bytes[begin : begin + num_bytes]

    def empty(self) -> bool:
        """Forget all, and let the system take the memory when it is short of it; False where it knows no such thing."""
        self.num_free, self.num_parts = len(self._bytes), 0
        return self._advise("MADV_FREE")

    def _advise(self, advice: str) -> bool:
        with contextlib.suppress(AttributeError, OSError):
            self._memory.madvise(getattr(mmap, advice))
            return True
        return False


class CopyMemory:
    """Blocks for the copies of one snapshot after the other.

    Memory that is new to a process costs more than the copy: it is zeroed, and a virtual machine may have to ask its
    host for it, which takes ten times as long. So blocks are kept, as many as were ever late; the system counts them as
    available, and takes their memory when it is short (MADV_FREE). One thread takes parts, another gives them back.
    """

    def __init__(self) -> None:
        self.block_bytes = BLOCK_BYTES
        self._kept: list[Block] = []
        self._block: Block | None = None
        self._room = 0.0

    def look(self, num_bytes: int) -> None:
        """See how much memory there is for the parts that follow, so many bytes in all."""
        self._block, self._room = None, _room()
        if self._room < num_bytes and self._kept:
            self._kept = []  # a container's limit counts them
            self._room = _room()

    def part(self, num_bytes: int) -> tuple[Block, Tensor] | None:
        """Memory for a copy of at most `block_bytes`, and the block that it lies in; None where memory is short."""
        if self._block is None or self._block.num_free < num_bytes:
            if self._room < self.block_bytes:
                return None
            self._room -= self.block_bytes
            try:
                self._block = self._kept.pop() if self._kept else Block(self.block_bytes)
            except OSError:
                self._room = 0.0
                return None
        return self._block, self._block.part(num_bytes)

    def give_back(self, block: Block) -> None:
        """One of a block's parts is not needed any more; with its last one, the block is kept."""
        block.num_parts -= 1
        if block.num_parts == 0 and block.empty():
            self._kept.append(block)


def _room() -> float:
    """Bytes of host memory that copies may take."""
    available = available_host_bytes()
    return float("inf") if available is None else HOST_SHARE * available
