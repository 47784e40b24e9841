"""The order of the samples: a permutation for each epoch that is computed, not stored.

A run's samples stand in one endless sequence: epoch after epoch, each a permutation of the data set. What stands at a
position follows from (seed, position) alone, in O(1), so any rank can start anywhere, and a step may hold the end of
one epoch and the beginning of the next.

The permutation is a Feistel network over the smallest even number of bits that holds the data set; a value outside of
the data set is permuted again until it falls inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

NUM_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: splitmix64's increment


class EpochOrder:
    """What stands at each position of the endless sequence of epochs.

    Args:
        num_samples: size of the data set, at least 1.
        seed: another one gives other permutations.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError(f"a data set of {num_samples} samples has no order")
        self.num_samples = num_samples
        self.seed = seed
        bits = max(2, (num_samples - 1).bit_length())
        self._half_bits = np.uint64((bits + 1) // 2)
        self._half_mask = np.uint64((1 << int(self._half_bits)) - 1)

    def at(self, positions: IntArray) -> tuple[IntArray, IntArray]:
        """The epoch and the index in the data set at each position; (n,) int64 in, two times (n,) int64 out."""
        epochs, places = np.divmod(np.asarray(positions, dtype=np.int64), self.num_samples)
        values = places.astype(np.uint64)
        keys = self._round_keys(epochs.astype(np.uint64))
        values = self._encrypt(values, keys)
        outside = np.flatnonzero(values >= self.num_samples)
        while outside.size:
            values[outside] = self._encrypt(values[outside], keys[:, outside])
            outside = outside[values[outside] >= self.num_samples]
        return epochs, values.astype(np.int64)

    def _round_keys(self, epochs: _Words) -> _Words:
        """(NUM_ROUNDS, n) keys from the seed, the epoch and the round."""
        seed = _mixed(np.array([self.seed % (1 << 64)], dtype=np.uint64) + _GOLDEN)
        of_epoch = _mixed(seed + epochs * _GOLDEN)
        rounds = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64)[:, None]
        return _mixed(of_epoch[None, :] + rounds * _GOLDEN)

    def _encrypt(self, values: _Words, keys: _Words) -> _Words:
        """A bijection of the numbers of 2 x half_bits bits."""
        left, right = values >> self._half_bits, values & self._half_mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & self._half_mask)
        return (left << self._half_bits) | right


def _mixed(words: _Words) -> _Words:
    """splitmix64's finalizer: every bit of the word changes every bit of the result (arithmetic modulo 2^64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
