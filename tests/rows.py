"""Blocks of tokens in memory, in place of prepared ones."""

from __future__ import annotations

import numpy as np


class Rows:
    """(num_blocks, block_size) tokens as `bert.samples.Blocks`."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The rows of these numbers."""
        return self.rows[indices]
