"""A stream as columns of segments: nothing lost, nothing read twice, labels one token on, any split of a step."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from nlp_adan.errors import UserError
from nlp_adan.training.loader import PositionSampler
from transformer_xl.flops import mean_segment_length
from transformer_xl.stream import StreamSegments, fixed_lengths, random_lengths


def one_pass(segments: StreamSegments, number: int = 0) -> list[dict[str, torch.Tensor]]:
    """The batches of a pass, all columns of each."""
    first = number * segments.num_segments
    columns = np.arange(segments.num_columns)
    return [segments[(first + step) * segments.num_columns + columns] for step in range(segments.num_segments)]


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 400), st.integers(1, 9), st.integers(1, 40), st.sampled_from([None, 0, 7]), st.integers(0, 3))
def test_a_pass_reads_every_column_once(num_tokens: int, columns: int, length: int, seed: Any, number: int) -> None:
    tokens = np.arange(num_tokens, dtype=np.uint16)
    if (num_tokens - 1) // columns < length:
        with pytest.raises(
            UserError, match=rf"{num_tokens} tokens: too few for {columns} sequences of {length} tokens"
        ):
            StreamSegments(tokens, columns, length, seed)
        return
    segments = StreamSegments(tokens, columns, length, seed)
    batches = one_pass(segments, number)
    column_tokens = (num_tokens - 1) // columns
    inputs = torch.cat([batch["input_ids"] for batch in batches], dim=1)
    labels = torch.cat([batch["labels"] for batch in batches], dim=1)
    assert inputs.dtype == labels.dtype == torch.int64
    # The columns, one below the other, are the stream; the labels are the same stream one token on.
    assert (
        inputs.shape == (columns, column_tokens) and (inputs.flatten() == torch.arange(column_tokens * columns)).all()
    )
    assert (labels == inputs + 1).all()
    assert num_tokens - 1 - inputs.numel() < columns  # what no column has
    first = number * segments.num_segments
    assert [batch["input_ids"].shape[1] for batch in batches] == [
        segments.segment_length(first + step) for step in range(segments.num_segments)
    ]
    assert [segments.begins_pass(first + step) for step in range(len(batches) + 1)] == [
        True, *[False] * (len(batches) - 1), True,
    ]  # fmt: skip
    assert segments.num_samples == segments.num_segments * columns


def test_ranks_and_micro_batches_are_disjoint_and_their_union_is_the_step() -> None:
    segments = StreamSegments(np.arange(1000, dtype=np.uint16), 8, 10)
    whole = one_pass(segments)
    for world_size, micro, accumulation in ((1, 8, 1), (2, 4, 1), (2, 2, 2), (4, 1, 2), (8, 1, 1)):
        samplers = [
            iter(PositionSampler(lambda: 3, micro, accumulation, rank, world_size)) for rank in range(world_size)
        ]
        for step in range(3, 6):
            taken = [segments[next(sampler)]["input_ids"] for _ in range(accumulation) for sampler in samplers]
            assert torch.equal(torch.cat(taken), whole[step]["input_ids"])  # in the order of the columns


def test_fixed_segments_have_one_length_but_the_last() -> None:
    assert fixed_lengths(10, 4).tolist() == [0, 4, 8, 10]
    assert fixed_lengths(8, 4).tolist() == [0, 4, 8] and fixed_lengths(3, 4).tolist() == [0, 3]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 200), st.integers(0, 2**40), st.integers(0, 1000))
def test_random_segments_cover_the_column(num_tokens: int, length: int, seed: int, epoch: int) -> None:
    bounds = random_lengths(num_tokens, length, seed, epoch)
    assert bounds[0] == 0 and bounds[-1] == num_tokens and (np.diff(bounds) >= 1).all()
    assert len(bounds) == len(random_lengths(num_tokens, length, seed + 1, epoch + 1))
    assert (bounds == random_lengths(num_tokens, length, seed, epoch)).all()


def test_random_lengths_follow_the_rule() -> None:
    """100,000 lengths around 70: 5 % around 35, the others normal with a deviation of 5; stretched by less than 1 %."""
    lengths = np.diff(random_lengths(round(100_000 * 70 * 0.975), 70, 0, 0))
    assert len(lengths) == 100_000
    short = lengths < 52
    assert abs(short.mean() - 0.05) < 0.004  # its standard error is 0.0007
    assert abs(lengths[~short].mean() - 70) < 1 and abs(lengths[short].mean() - 35) < 1
    assert abs(lengths[~short].std() - 5) < 0.2 and abs(lengths[short].std() - 5) < 0.5


@pytest.mark.parametrize("length", [3, 10, 16, 70])
def test_the_mean_of_random_lengths_is_the_one_that_is_counted_with(length: int) -> None:
    """Of 2,800 segments at least, which cover the column but for what rounds their number."""
    segments = StreamSegments(np.zeros(400_001, dtype=np.uint8), 2, length, random_seed=3)
    drawn = [segments.segment_length(step) for step in range(segments.num_segments)]
    assert len(drawn) > 2800 and np.mean(drawn) == pytest.approx(mean_segment_length(length, True), rel=2e-4)
    assert mean_segment_length(length, False) == length


def test_random_lengths_differ_between_seeds_and_passes() -> None:
    tokens = np.arange(20_001, dtype=np.uint16)
    one, two = (StreamSegments(tokens, 4, 35, random_seed=seed) for seed in (1, 2))
    lengths = [
        [s.segment_length(p * s.num_segments + i) for i in range(s.num_segments)] for s in (one, two) for p in (0, 1)
    ]
    assert len({tuple(each) for each in lengths}) == 4 and {sum(each) for each in lengths} == {5000}
    again = StreamSegments(tokens, 4, 35, random_seed=1)
    step = again.num_segments + 3  # begun in the middle of the second pass
    assert torch.equal(again[np.array([step * 4 + 1])]["labels"], one[np.array([step * 4 + 1])]["labels"])


def test_positions_of_two_steps_are_refused() -> None:
    segments = StreamSegments(np.arange(100, dtype=np.uint8), 4, 5)
    for positions in ([3, 4], []):
        with pytest.raises(ValueError, match="positions of one step"):
            segments[np.array(positions, dtype=np.int64)]


def test_other_processes_get_the_name_of_the_file(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 60_000, 100_001).astype(np.uint16)
    content.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", np.uint16, mode="r")
    segments = StreamSegments(mapped, 10, 64, random_seed=5)
    positions = np.arange(270, 280)
    packed = pickle.dumps(segments)
    assert len(packed) < 10_000
    expected = segments[positions]
    assert all(torch.equal(value, expected[name]) for name, value in pickle.loads(packed)[positions].items())
    # A slice has the name of the whole file; an array has none.
    for tokens in (mapped[1000:], content):
        part = StreamSegments(tokens, 10, 64, random_seed=5)
        assert torch.equal(pickle.loads(pickle.dumps(part))[positions]["labels"], part[positions]["labels"])
    sampler = PositionSampler(lambda: 27, 10, 1, 0, 1)
    batch = next(iter(DataLoader(segments, sampler=sampler, batch_size=None, num_workers=1)))
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
