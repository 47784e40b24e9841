"""Masking: its statistics, and that a sample's mask depends on seed, epoch and sample alone."""

from __future__ import annotations

import numpy as np
import torch

from bert.masking import IGNORED_LABEL, MaskedBlocks, MaskingCollator

VOCAB_SIZE, MASK, NUM_SPECIAL = 1000, 4, 5


def collator(seed: int = 0, probability: float = 0.15) -> MaskingCollator:
    return MaskingCollator(
        mask_token_id=MASK,
        special_token_ids=range(NUM_SPECIAL),
        vocab_size=VOCAB_SIZE,
        mask_probability=probability,
        seed=seed,
    )


def blocks(num_blocks: int = 400, length: int = 128) -> MaskedBlocks:
    ids = np.random.default_rng(0).integers(NUM_SPECIAL, VOCAB_SIZE, (num_blocks, length)).astype(np.uint16)
    ids[:, 0], ids[:, -1] = 0, 2
    return MaskedBlocks(ids)


def test_statistics() -> None:
    """50,400 maskable tokens: the bounds are about four standard errors (0.15: 0.0016, of the chosen 0.8: 0.0046)."""
    data = blocks()
    batch = collator()([data[index] for index in range(len(data))])
    original = torch.from_numpy(data.blocks.astype(np.int64))
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


def test_other_probability() -> None:
    data = blocks(100)
    labels = collator(probability=0.3)([data[index] for index in range(100)])["labels"]
    assert abs((labels != IGNORED_LABEL).float().mean().item() - 0.3 * 126 / 128) < 0.017


def test_a_mask_depends_on_seed_epoch_and_sample_only() -> None:
    data = blocks(8)
    alone = collator()([data[3]])["input_ids"][0]
    in_company = collator()([data[index] for index in (7, 3, 1)])["input_ids"][1]
    assert torch.equal(alone, in_company)
    assert not torch.equal(alone, collator(seed=1)([data[3]])["input_ids"][0])
    data.set_epoch(1)
    assert not torch.equal(alone, collator()([data[3]])["input_ids"][0])
