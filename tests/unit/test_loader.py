"""Batches by position, and the meter over them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState

from bert.masking import MaskingCollator
from bert.samples import TrainingBlocks, ValidationBlocks
from nlp_adan.training import meter as meter_module
from nlp_adan.training.loader import PositionLoader, PositionSampler
from nlp_adan.training.meter import Meter, hash_of_samples
from tests.rows import Rows


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50), st.integers(1, 4))
def test_ranks_and_micro_batches_make_up_each_step(
    world_size: int, accumulation: int, micro: int, first_step: int, num_steps: int
) -> None:
    size = world_size * accumulation * micro
    taken: dict[int, list[int]] = {}
    for rank in range(world_size):
        sampler = PositionSampler(lambda: first_step, micro, accumulation, rank, world_size)
        for number, positions in enumerate(itertools.islice(sampler, num_steps * accumulation)):
            taken.setdefault(first_step + number // accumulation, []).extend(positions.tolist())
    for step, found in taken.items():
        assert sorted(found) == list(range(step * size, (step + 1) * size))


def tiny_blocks(num_blocks: int = 21, length: int = 16) -> Rows:
    return Rows(np.random.default_rng(0).integers(5, 60, (num_blocks, length)).astype(np.uint16))


def collator() -> MaskingCollator:
    return MaskingCollator(
        mask_token_id=4, special_token_ids=range(5), vocab_size=60, mask_probability=0.2, seed=3
    )  # fmt: skip


def loader(step: int, micro: int, accumulation: int, rank: int = 0, world_size: int = 1, workers: int = 0) -> tuple[
    PositionLoader, Meter
]:  # fmt: skip
    meter = Meter(tokens_per_step=128, flops_per_step=1e6, peak_flops=None)
    sampler = PositionSampler(lambda: step, micro, accumulation, rank, world_size)
    batches = DataLoader(
        TrainingBlocks(tiny_blocks(), seed=1), sampler=sampler, batch_size=None, collate_fn=collator(),
        num_workers=workers,
    )  # fmt: skip
    return PositionLoader(batches, torch.device("cpu"), meter), meter


def step_hash(step: int, micro: int, accumulation: int, world_size: int = 1, workers: int = 0) -> int:
    """The hash of one step's global batch, put together from its ranks'."""
    total = 0
    for rank in range(world_size):
        batches, meter = loader(step, micro, accumulation, rank, world_size, workers)
        for _ in itertools.islice(batches, accumulation):
            pass
        total += int(meter.read()["batch_hash"], 16)
    return total % (1 << 64)


def test_the_hash_is_that_of_the_global_batch() -> None:
    """However it is split, over an epoch's end (21 blocks, steps of 8), with workers that read ahead."""
    hashes = [step_hash(step, 8, 1) for step in range(8)]
    assert len(set(hashes)) == 8
    for split in ((4, 2, 1), (2, 4, 1), (4, 1, 2), (1, 2, 4), (2, 1, 4)):
        assert [step_hash(step, *split) for step in range(8)] == hashes
    assert [step_hash(step, 4, 2, workers=2) for step in (0, 5)] == [hashes[0], hashes[5]]


def test_the_hash_notices_one_token_one_label_and_one_place() -> None:
    batches, _ = loader(0, 8, 1)
    batch = next(iter(batches))
    found = {hash_of_samples(batch)}
    for name in ("input_ids", "labels"):
        changed = {key: tensor.clone() for key, tensor in batch.items()}
        changed[name][3, 7] += 1
        found.add(hash_of_samples(changed))
    swapped = {key: tensor.clone() for key, tensor in batch.items()}
    swapped["input_ids"][0] = swapped["input_ids"][0].flip(0)
    found.add(hash_of_samples(swapped))
    assert len(found) == 4
    order = torch.randperm(8)
    assert hash_of_samples({name: batch[name][order] for name in ("input_ids", "labels")}) in found


def test_epochs_hold_every_block_once_and_are_masked_differently() -> None:
    batches, _ = loader(0, 7, 1)
    steps = list(itertools.islice(batches, 6))  # two epochs of 21 blocks
    originals = []
    for batch in steps:
        asked = batch["labels"] != -100
        originals.append(torch.where(asked, batch["labels"], batch["input_ids"]))
    epochs = [torch.cat(originals[:3]), torch.cat(originals[3:])]
    expected = tiny_blocks().read(np.arange(21)).astype(np.int64)
    for rows in epochs:
        assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
    assert not torch.equal(epochs[0], epochs[1])
    masks = [torch.cat([batch["labels"] for batch in half]) for half in (steps[:3], steps[3:])]
    assert sorted(map(tuple, masks[0].tolist())) != sorted(map(tuple, masks[1].tolist()))


def test_the_meter_counts_training_and_leaves_out_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            return cls.now

    monkeypatch.setattr(meter_module, "time", Time)
    meter = Meter(tokens_per_step=1000, flops_per_step=2e9, peak_flops=1e10)

    def step(waiting: float, computing: float) -> None:
        with meter.waiting_for_data():
            Time.now += waiting
        Time.now += computing
        meter.on_step_end(None, TrainerState(), TrainerControl())

    step(0.1, 0.4)
    Time.now += 100  # an evaluation and a checkpoint
    step(0.1, 0.3)
    Time.now += 0.1  # the log line waits for the device
    figures = meter.read()
    assert figures["tokens_per_second"] == 2000 and figures["flops_per_second"] == 4e9
    assert figures["mfu"] == 0.4 and figures["data_wait"] == 0.2
    step(0.0, 1.0)
    assert meter.read()["tokens_per_second"] == 1000


@pytest.mark.parametrize(("most", "expected"), [(100, list(range(21))), (21, list(range(21))), (4, [0, 5, 10, 15])])
def test_validation_looks_at_the_whole_part(most: int, expected: list[int]) -> None:
    samples = ValidationBlocks(tiny_blocks(), most)
    assert [samples[index]["sample"] for index in range(len(samples))] == expected
    for index, number in enumerate(expected):
        assert (samples[index]["input_ids"] == tiny_blocks().read(np.array([number]))[0]).all()
    with pytest.raises(IndexError):
        samples[len(samples)]
