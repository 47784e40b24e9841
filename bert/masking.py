"""Dynamic masking in RoBERTa's manner, the same for a sample whatever rank, batch or resumed run it turns up in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .shards import TokenBlocks

IGNORED_LABEL = -100  # torch.nn.functional.cross_entropy's ignore_index; the Trainer counts the labels that differ


class MaskedBlocks(torch.utils.data.Dataset[dict[str, Any]]):
    """Token blocks as samples: the block, its index and the epoch, which together fix its mask.

    Args:
        blocks: rows of block_size token ids, uint16 or uint32, special tokens at both ends included.
    """

    def __init__(self, blocks: np.ndarray | TokenBlocks) -> None:
        self.blocks = blocks
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.blocks[index], "sample": index, "epoch": self.epoch}

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch: every epoch masks other tokens."""
        self.epoch = epoch


class MaskingCollator:
    """Makes a batch of samples and masks it.

    Of the tokens that are not special, each is chosen with `mask_probability`; of the chosen, 80 % become the mask
    token, 10 % a random token, 10 % stay. Random numbers come from (seed, epoch, sample) alone.

    Args:
        mask_token_id, special_token_ids, vocab_size: of the tokenizer; special tokens are never chosen.
        mask_probability: 0.15 in BERT.
        seed: of the run.
    """

    def __init__(
        self,
        *,
        mask_token_id: int,
        special_token_ids: Sequence[int],
        vocab_size: int,
        mask_probability: float,
        seed: int,
    ) -> None:
        self.mask_token_id = mask_token_id
        self.vocab_size = vocab_size
        self.mask_probability = mask_probability
        self.seed = seed
        self.is_special = torch.zeros(vocab_size, dtype=torch.bool)
        self.is_special[list(special_token_ids)] = True

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `labels`, both (batch, block_size) int64; labels are -100 where nothing is asked."""
        ids = torch.from_numpy(np.stack([sample["input_ids"] for sample in samples]).astype(np.int64))
        draws = torch.from_numpy(np.stack([self._draws(sample, ids.shape[1]) for sample in samples]))  # (3, batch, seq)
        choice, action, replacement = draws.unbind(1)
        chosen = (choice < self.mask_probability) & ~self.is_special[ids]
        labels = torch.where(chosen, ids, IGNORED_LABEL)
        random_ids = (replacement * self.vocab_size).long()
        masked = torch.where(chosen & (action < 0.8), self.mask_token_id, ids)
        masked = torch.where(chosen & (action >= 0.8) & (action < 0.9), random_ids, masked)
        return {"input_ids": masked, "labels": labels}

    def _draws(self, sample: dict[str, Any], length: int) -> np.ndarray:
        """(3, length) float64 in [0, 1): Philox is keyed by the seed and counted by (epoch, sample)."""
        counter = [0, 0, int(sample["epoch"]), int(sample["sample"])]
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter)).random((3, length))
