"""Blocks of tokens in files, read by their numbers in any order, each checked against its checksum.

`train-00000.bin` holds the first `blocks_per_shard` blocks of the training part, row by row (numpy.memmap opens it,
too); `train-00000.crc` the CRC-32 of each (uint32, little-endian).
"""

from __future__ import annotations

import os
import resource
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nlp_adan.errors import UserError

# A training part may have thousands, and each takes two file descriptors: of those that a process may have (1,024 by
# default, `ulimit -n`), some are left to others.
DESCRIPTORS_FOR_OTHERS = 256
MIN_OPEN_SHARDS = 64
CHECKSUM_BYTES = 4


def shard_name(part: str, shard: int) -> str:
    """The file of a shard's blocks."""
    return f"{part}-{shard:05}.bin"


def checksum_name(part: str, shard: int) -> str:
    """The file of a shard's checksums."""
    return f"{part}-{shard:05}.crc"


def max_open_shards() -> int:
    """How many shards a process may keep open, by its limit of open files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowed = sys.maxsize if limit == resource.RLIM_INFINITY else limit
    return max(MIN_OPEN_SHARDS, (allowed - DESCRIPTORS_FOR_OTHERS) // 2)


@dataclass(frozen=True)
class ShardLayout:
    """Where the blocks of a part are: in files of `blocks_per_shard` each, the last one may have fewer."""

    folder: Path
    part: str
    num_blocks: int
    blocks_per_shard: int
    block_size: int
    dtype: np.dtype[Any]

    @property
    def num_shards(self) -> int:
        """Files of blocks."""
        return -(-self.num_blocks // self.blocks_per_shard)


class TokenBlocks:
    """The blocks of one part of prepared data: a sequence of rows of `block_size` tokens.

    Shards are opened when first read from and stay open, `max_open_shards` of them. An object that goes to another
    process, forked or pickled, reads there on its own; it is for one thread.
    """

    def __init__(self, layout: ShardLayout) -> None:
        self._layout = layout
        self._files: dict[int, tuple[int, int]] = {}
        self._max_open = max_open_shards()

    def __len__(self) -> int:
        return self._layout.num_blocks

    @property
    def block_size(self) -> int:
        """Tokens in a block, special tokens included."""
        return self._layout.block_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return self._layout.dtype

    def read(self, indices: npt.ArrayLike) -> npt.NDArray[Any]:
        """(num_indices, block_size) uint16 or uint32: the blocks of these numbers, in their order.

        indices: (num_indices,) integers in [0, len(self)), in any order, repeated ones too.

        Raises: IndexError for a number outside of that; UserError for a block that is not what was prepared, naming
        it, its file and the remedy.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"blocks {chosen.min()} to {chosen.max()} asked of {len(self)}")
        layout = self._layout
        num_bytes = layout.block_size * layout.dtype.itemsize
        blocks = np.empty((len(chosen), layout.block_size), dtype=layout.dtype)
        if not len(chosen):
            return blocks
        target = blocks.data.cast("B")
        shards, places = np.divmod(chosen, layout.blocks_per_shard)
        for row, (shard, place) in enumerate(zip(shards.tolist(), places.tolist(), strict=True)):
            view = target[row * num_bytes : (row + 1) * num_bytes]
            try:
                content, checksums = self._files.get(shard) or self._open(shard)
                count = os.preadv(content, (view,), place * num_bytes)
                expected = os.pread(checksums, CHECKSUM_BYTES, place * CHECKSUM_BYTES)
            except OSError as error:
                raise self._bad(shard, place, f"cannot be read ({error.strerror or error})") from error
            if count < num_bytes or len(expected) < CHECKSUM_BYTES:
                raise self._bad(shard, place, "is not there: the file is cut off")
            if zlib.crc32(view) != int.from_bytes(expected, "little"):
                raise self._bad(shard, place, "is damaged: its checksum differs")
        return blocks

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """(block_size,): one block."""
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} asked of {len(self)}")
        return self.read([index])[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"_layout": self._layout, "_files": {}, "_max_open": self._max_open}

    def __del__(self) -> None:
        for descriptors in getattr(self, "_files", {}).values():
            for descriptor in descriptors:
                os.close(descriptor)

    def _open(self, shard: int) -> tuple[int, int]:
        """The descriptors of a shard's two files; the ones opened first are closed where many are open."""
        layout = self._layout
        content = os.open(layout.folder / shard_name(layout.part, shard), os.O_RDONLY | os.O_CLOEXEC)
        try:
            checksums = os.open(layout.folder / checksum_name(layout.part, shard), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(content)
            raise
        if len(self._files) >= self._max_open:
            for descriptor in self._files.pop(next(iter(self._files))):
                os.close(descriptor)
        self._files[shard] = (content, checksums)
        return content, checksums

    def _bad(self, shard: int, place: int, what: str) -> UserError:
        folder = self._layout.folder
        return UserError(
            f"{folder / shard_name(self._layout.part, shard)}: block {place} {what}. "
            f"`python run_pretrain.py prepare --verify {folder}` names all that is damaged; "
            "preparing again with the same options, after that, makes it anew"
        )
