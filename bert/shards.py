"""Blocks of tokens in files, read by their numbers in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .packing import TokenArray


class TokenBlocks:
    """The blocks of one part of prepared data: a sequence of rows of `block_size` tokens.

    rows: (num_blocks, block_size) uint16 or uint32, memory-mapped.
    """

    def __init__(self, rows: TokenArray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def block_size(self) -> int:
        """Tokens in a block, special tokens included."""
        return int(self._rows.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return self._rows.dtype

    def read(self, indices: npt.ArrayLike) -> TokenArray:
        """(num_indices, block_size) uint16 or uint32: a copy of the blocks of these numbers, in their order.

        indices: (num_indices,) integers in [0, len(self)), in any order, repeated ones too.

        Raises: IndexError for a number outside of that.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"blocks {chosen.min()} to {chosen.max()} asked of {len(self)}")
        return self._rows[chosen]

    def __getitem__(self, index: int) -> TokenArray:
        """(block_size,): one block."""
        return self.read([index])[0]

    def head(self, count: int) -> TokenBlocks:
        """The first `count` blocks, or all where there are fewer."""
        return TokenBlocks(self._rows[:count])


def map_blocks(path: Path, dtype: str, num_blocks: int, block_size: int) -> TokenBlocks:
    """The blocks in a file, memory-mapped and read-only."""
    return TokenBlocks(np.memmap(path, dtype=dtype, mode="r", shape=(num_blocks, block_size)))
