"""Prepared blocks as samples: in training by their position in the run, in validation by their number."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from nlp_adan.training.order import EpochOrder, IntArray


class Blocks(Protocol):
    """Blocks of tokens, read by their numbers (`bert.shards.TokenBlocks`)."""

    def __len__(self) -> int: ...

    def read(self, indices: IntArray) -> npt.NDArray[Any]:
        """(n, block_size) for (n,) numbers."""
        ...


class TrainingBlocks(torch.utils.data.Dataset[dict[str, Any]]):
    """Blocks in the order of their epochs' permutations (`nlp_adan.training.loader.PositionDataset`).

    Args:
        blocks: the training part.
        seed: of the order.
    """

    def __init__(self, blocks: Blocks, seed: int) -> None:
        self.blocks = blocks
        self.order = EpochOrder(len(blocks), seed)
        self.num_samples = len(blocks)

    def __getitem__(self, positions: IntArray) -> dict[str, Any]:
        """`input_ids` (batch, block_size), `sample` and `epoch` (batch,) int64: together they fix the masks."""
        epochs, indices = self.order.at(positions)
        return {"input_ids": self.blocks.read(indices), "sample": indices, "epoch": epochs}


class ValidationBlocks(torch.utils.data.Dataset[dict[str, Any]]):
    """Blocks spread evenly over the validation part, in its order, masked alike at every evaluation.

    Args:
        blocks: the validation part.
        most: how many of them at most.
    """

    def __init__(self, blocks: Blocks, most: int) -> None:
        self.blocks = blocks
        self.num_samples = min(len(blocks), most)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` (block_size,), `sample` and `epoch`."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"validation block {index} of {self.num_samples}")
        number = index * len(self.blocks) // self.num_samples
        return {"input_ids": self.blocks.read(np.array([number]))[0], "sample": number, "epoch": 0}
