"""Dynamic masking in RoBERTa's manner, the same for a sample whatever rank, batch or resumed run it turns up in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORED_LABEL = -100  # torch.nn.functional.cross_entropy's ignore_index; the Trainer counts the labels that differ
# Padded `masked_positions` have room for so many standard deviations more than are masked on average. One batch in
# three million has more, and takes the next multiple.
SPARE_DEVIATIONS = 5.0
POSITIONS_MULTIPLE = 64  # rows in a tile of a GPU's matrix product

Words = npt.NDArray[np.uint64]
# The three draws of a position, as offsets of its counter: its mask does not depend on the length of the block.
CHOICE, ACTION, REPLACEMENT = (np.uint64(draw << 32) for draw in range(3))
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd


class MaskingCollator:
    """Makes a batch of samples and masks it.

    Of the tokens that are not special, each is chosen with `mask_probability`; of the chosen, 80 % become the mask
    token, 10 % a random token, 10 % stay. Random numbers come from (seed, epoch, sample, position) alone.

    Args:
        mask_token_id, special_token_ids, vocab_size: of the tokenizer; special tokens are never chosen.
        mask_probability: 0.15 in BERT.
        seed: of the run.
        pad_positions: Whether all batches of a shape get `masked_positions` of one length, as a compiled model wants.
    """

    def __init__(
        self,
        *,
        mask_token_id: int,
        special_token_ids: Sequence[int],
        vocab_size: int,
        mask_probability: float,
        seed: int,
        pad_positions: bool = False,
    ) -> None:
        self.mask_token_id = mask_token_id
        self.vocab_size = vocab_size
        self.mask_probability = mask_probability
        self.seed = seed
        self.pad_positions = pad_positions
        self.is_special = np.zeros(vocab_size, dtype=bool)
        self.is_special[list(special_token_ids)] = True

    def __call__(self, samples: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> dict[str, Tensor]:
        """Mask a batch.

        Args:
            samples: of each its `input_ids` (block_size,), `sample` and `epoch`; or the same stacked in one mapping:
                `input_ids` (batch, block_size), `sample` and `epoch` (batch,).

        Returns:
            `input_ids` and `labels`, (batch, block_size) int64; labels are -100 where nothing is asked.
            `masked_positions`, (num_masked,) int64: where something is asked, as ascending indices into the flattened
            labels. Padding, at the end, is batch * block_size, which is no position.
        """
        if not isinstance(samples, Mapping):
            samples = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
        ids = np.array(samples["input_ids"], dtype=np.int64)
        keys = sample_keys(self.seed, np.asarray(samples["epoch"]), np.asarray(samples["sample"]))  # (batch,)
        columns = np.arange(ids.shape[1], dtype=np.uint64)
        chosen = (uniform(keys[:, None], columns + CHOICE) < self.mask_probability) & ~self.is_special[ids]
        positions = np.flatnonzero(chosen)
        rows, columns_chosen = np.divmod(positions, ids.shape[1])
        originals = ids[rows, columns_chosen]
        labels = np.full(ids.shape, IGNORED_LABEL)
        labels[rows, columns_chosen] = originals
        ids[rows, columns_chosen] = self._inputs(originals, keys[rows], columns_chosen.astype(np.uint64))
        arrays = {"input_ids": ids, "labels": labels, "masked_positions": self._padded(positions, ids.size)}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _inputs(self, originals: npt.NDArray[np.int64], keys: Words, columns: Words) -> npt.NDArray[np.int64]:
        """What the model sees in place of the chosen tokens; all arguments (num_masked,)."""
        action = uniform(keys, columns + ACTION)
        random_ids = (uniform(keys, columns + REPLACEMENT) * self.vocab_size).astype(np.int64)
        return np.where(action < 0.8, self.mask_token_id, np.where(action < 0.9, random_ids, originals))

    def _padded(self, positions: npt.NDArray[np.int64], num_tokens: int) -> npt.NDArray[np.int64]:
        if not self.pad_positions:
            return positions
        mean = num_tokens * self.mask_probability
        expected = mean + SPARE_DEVIATIONS * math.sqrt(mean * (1 - self.mask_probability))
        length = POSITIONS_MULTIPLE * math.ceil(max(expected, len(positions)) / POSITIONS_MULTIPLE)
        return np.pad(positions, (0, length - len(positions)), constant_values=num_tokens)


def sample_keys(seed: int, epochs: npt.NDArray[np.integer[Any]], samples: npt.NDArray[np.integer[Any]]) -> Words:
    """A key of the random numbers for each sample, from (seed, epoch, sample); shape of `samples`."""
    # Arrays, because numpy warns of the overflow of scalars, which is meant here.
    seeds = np.full(samples.shape, seed % 2**64, dtype=np.uint64)
    return _mixed(_mixed(_mixed(seeds) + epochs.astype(np.uint64)) + samples.astype(np.uint64))


def uniform(keys: Words, counters: Words) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), multiples of 2^-53: entry `counter` of the key's stream; shapes broadcast."""
    return (_mixed(keys + counters * GOLDEN_GAMMA) >> np.uint64(11)) * np.float64(2.0**-53)


def _mixed(words: Words) -> Words:
    """SplitMix64's output function, a bijection of 64 bits (Steele, Lea and Flood 2014; constants of Stafford's 13)."""
    words = words + GOLDEN_GAMMA
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
