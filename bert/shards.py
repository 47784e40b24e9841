"""Blocks of tokens in files, read by their numbers in any order, each checked against its checksum.

`train-00000.bin` holds the first `blocks_per_shard` blocks of the training part, row by row (numpy.memmap opens it,
too); `train-00000.crc` the CRC-32 of each (uint32, little-endian).
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nlp_adan.errors import UserError

# Of each kind; a training part may have thousands of shards.
MAX_OPEN_FILES = 64
CHECKSUM_BYTES = 4


def shard_name(part: str, shard: int) -> str:
    """The file of a shard's blocks."""
    return f"{part}-{shard:05}.bin"


def checksum_name(part: str, shard: int) -> str:
    """The file of a shard's checksums."""
    return f"{part}-{shard:05}.crc"


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

    Files are opened when first read from and at most MAX_OPEN_FILES are open. An object that goes to another process,
    forked or pickled, reads there on its own.
    """

    def __init__(self, layout: ShardLayout) -> None:
        self._layout = layout
        self._files: OrderedDict[str, int] = OrderedDict()

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
        for row, index in enumerate(chosen.tolist()):
            shard, place = divmod(index, layout.blocks_per_shard)
            view = target[row * num_bytes : (row + 1) * num_bytes]
            name = shard_name(layout.part, shard)
            try:
                count = os.preadv(self._file(name), [view], place * num_bytes)
                expected = os.pread(
                    self._file(checksum_name(layout.part, shard)), CHECKSUM_BYTES, place * CHECKSUM_BYTES
                )
            except OSError as error:
                raise self._bad(name, place, f"cannot be read ({error.strerror or error})") from error
            if count < num_bytes or len(expected) < CHECKSUM_BYTES:
                raise self._bad(name, place, "is not there: the file is cut off")
            if zlib.crc32(view) != int.from_bytes(expected, "little"):
                raise self._bad(name, place, "is damaged: its checksum differs")
        return blocks

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """(block_size,): one block."""
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} asked of {len(self)}")
        return self.read([index])[0]

    def head(self, count: int) -> TokenBlocks:
        """The first `count` blocks, or all where there are fewer."""
        layout = self._layout
        fewer = min(count, layout.num_blocks)
        return TokenBlocks(ShardLayout(**{**layout.__dict__, "num_blocks": fewer}))

    def __getstate__(self) -> dict[str, Any]:
        return {"_layout": self._layout, "_files": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def _file(self, name: str) -> int:
        descriptor = self._files.get(name)
        if descriptor is None:
            if len(self._files) >= 2 * MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            descriptor = self._files[name] = os.open(self._layout.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._files.move_to_end(name)
        return descriptor

    def _bad(self, name: str, place: int, what: str) -> UserError:
        folder = self._layout.folder
        return UserError(
            f"{folder / name}: block {place} {what}. `python run_pretrain.py prepare --verify {folder}` names all that "
            "is damaged; preparing again with the same options, after that, makes it anew"
        )
