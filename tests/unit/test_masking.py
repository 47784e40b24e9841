"""Masking: its statistics, and that a sample's mask depends on seed, epoch and sample alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from bert.masking import IGNORED_LABEL, MaskingCollator, sample_keys, uniform

VOCAB_SIZE, MASK, NUM_SPECIAL = 1000, 4, 5


def collator(seed: int = 0, probability: float = 0.15, pad_positions: bool = False) -> MaskingCollator:
    return MaskingCollator(
        mask_token_id=MASK,
        special_token_ids=range(NUM_SPECIAL),
        vocab_size=VOCAB_SIZE,
        mask_probability=probability,
        seed=seed,
        pad_positions=pad_positions,
    )


def blocks(num_blocks: int = 400, length: int = 128, epoch: int = 0) -> dict[str, Any]:
    """Stacked samples with special tokens at both ends of a block."""
    ids = np.random.default_rng(0).integers(NUM_SPECIAL, VOCAB_SIZE, (num_blocks, length)).astype(np.uint16)
    ids[:, 0], ids[:, -1] = 0, 2
    return {"input_ids": ids, "sample": np.arange(num_blocks), "epoch": np.full(num_blocks, epoch)}


def rows(stacked: dict[str, Any], indices: list[int]) -> list[dict[str, Any]]:
    return [{name: column[index] for name, column in stacked.items()} for index in indices]


def test_statistics() -> None:
    """50,400 maskable tokens: the bounds are about four standard errors (0.15: 0.0016, of the chosen 0.8: 0.0046)."""
    data = blocks()
    batch = collator()(data)
    original = torch.from_numpy(data["input_ids"].astype(np.int64))
    ids, labels = batch["input_ids"], batch["labels"]
    chosen = labels != IGNORED_LABEL
    assert torch.equal(labels[chosen], original[chosen])
    assert torch.equal(ids[~chosen], original[~chosen])
    assert not chosen[:, 0].any() and not chosen[:, -1].any()
    assert abs(chosen[:, 1:-1].float().mean().item() - 0.15) < 0.0065
    masked, kept = ids[chosen] == MASK, ids[chosen] == original[chosen]
    assert abs(masked.float().mean().item() - 0.8) < 0.019
    assert abs(kept.float().mean().item() - 0.1) < 0.014
    random_ids = ids[chosen][~masked & ~kept]
    assert random_ids.min() < 50 and random_ids.max() > 950 and len(random_ids.unique()) > 300


def test_random_numbers_are_uniform_and_independent() -> None:
    """400 x 500 numbers: chi-squared of 100 bins (99 degrees of freedom, deviation 14), correlations of neighbours
    in every direction (deviation 0.0022), and the moments that a poor mix of nearby keys would move."""

    def numbers(seed: int, epoch: int, first_sample: int, counter: int = 0) -> np.ndarray:
        samples = np.arange(first_sample, first_sample + 400)
        keys = sample_keys(seed, np.full(400, epoch), samples)
        return uniform(keys[:, None], np.arange(500, dtype=np.uint64) + np.uint64(counter))

    found = numbers(0, 0, 0)
    assert 0 <= found.min() < 1e-4 and 1 - 1e-4 < found.max() < 1
    for axis in (0, 1):  # over all, and of each column and row: the mean's deviation is 0.289 / sqrt(n)
        means = found.mean(axis)
        assert abs(means.std() * math.sqrt(found.shape[axis]) - 12**-0.5) < 0.05
    for one in (found, numbers(0, 0, 10**9), numbers(2**63, 7, 0), numbers(-1, 0, 0)):
        counts = np.histogram(one, bins=100, range=(0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 5 * 14.1
    others = {
        "seed": numbers(1, 0, 0),
        "epoch": numbers(0, 1, 0),
        "sample": numbers(0, 0, 1),
        "position": numbers(0, 0, 0, counter=1),
        "draw": numbers(0, 0, 0, counter=1 << 32),
        "epoch and sample exchanged": numbers(0, 400, 0),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(found.ravel(), other.ravel())[0, 1]) < 5 * 0.0022, name


def test_other_probability() -> None:
    labels = collator(probability=0.3)(blocks(100))["labels"]
    assert abs((labels != IGNORED_LABEL).float().mean().item() - 0.3 * 126 / 128) < 0.017


def test_a_mask_depends_on_seed_epoch_and_sample_only() -> None:
    data = blocks(8)
    alone = collator()(rows(data, [3]))["input_ids"][0]
    in_company = collator()(rows(data, [7, 3, 1]))["input_ids"][1]
    assert torch.equal(alone, in_company)
    assert torch.equal(alone, collator()(data)["input_ids"][3])
    shorter = {**data, "input_ids": data["input_ids"][:, :50]}
    assert torch.equal(alone[:50], collator()(shorter)["input_ids"][3])
    assert not torch.equal(alone, collator(seed=1)(rows(data, [3]))["input_ids"][0])
    assert not torch.equal(alone, collator()(rows(blocks(8, epoch=1), [3]))["input_ids"][0])


def test_two_epochs_mask_a_block_independently() -> None:
    """Tokens chosen in both: 0.15 x 0.15 of 126,000 (deviation 0.00042)."""
    first, second = (collator()(blocks(1000, epoch=epoch))["labels"] != IGNORED_LABEL for epoch in (0, 1))
    assert abs((first & second)[:, 1:-1].float().mean().item() - 0.15**2) < 5 * 0.00042


def test_the_samples_are_left_as_they_were() -> None:
    data = blocks(4)
    data["input_ids"] = data["input_ids"].astype(np.int64)
    before = data["input_ids"].copy()
    collator()(data)
    assert np.array_equal(data["input_ids"], before)


@pytest.mark.parametrize("pad_positions", [False, True])
def test_masked_positions(pad_positions: bool) -> None:
    batch = collator(pad_positions=pad_positions)(blocks(32))
    positions, labels = batch["masked_positions"], batch["labels"].flatten()
    expected = (labels != IGNORED_LABEL).nonzero()[:, 0]
    assert torch.equal(positions[: len(expected)], expected)
    assert (positions[len(expected) :] == 32 * 128).all()
    if pad_positions:  # 614.4 on average and five deviations of 22.9: 728.7, to the next multiple
        assert len(positions) == 768
    else:
        assert len(positions) == len(expected)


def test_no_masked_token_is_dropped_when_there_are_more_than_expected() -> None:
    """Room for 15 % of 1000 and five deviations is 206.5, so 256; 900 need 960."""
    padded = collator(pad_positions=True)._padded
    assert len(padded(np.arange(150), 1000)) == 256
    assert padded(np.arange(900), 1000).tolist() == [*range(900), *[1000] * 60]
