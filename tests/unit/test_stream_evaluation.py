"""A text read in columns: every token counts once, each column has read what its model can see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nlp_adan.training.stream_evaluation import IGNORED, StreamEvaluation, make_grid, unigram_cross_entropy


class Echo(nn.Module):
    """Its loss of a token tells exactly the `reach` segments before the token's own and the tokens up to it.

    The memory is the sum of (position-weighted) ids of each of the last `reach` segments; nothing else is seen.
    """

    def __init__(self, reach: int | None) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, input_ids: Tensor, labels: Tensor, mems: tuple[Tensor, ...] | None = None) -> dict:
        ids = input_ids.double()
        past = mems[0] if mems else torch.zeros(len(ids), 0, dtype=torch.float64)
        if self.reach is None:  # the sum of all that was read; a segment's length does not matter
            seen = past.sum(1, keepdim=True) + (ids + 1).cumsum(1)
            return {"losses": torch.where(labels == IGNORED, 0.0, seen + labels), "mems": (seen[:, -1:],)}
        weights = torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)
        here = ((ids + 1) * weights).cumsum(1)
        before = (past * torch.arange(1, past.shape[1] + 1)).sum(1, keepdim=True) + 1000 * past.shape[1]
        losses = torch.where(labels == IGNORED, 0.0, torch.sin(before + here + 7 * labels) + 1.5)
        kept = torch.cat([past, here[:, -1:]], 1)[:, past.shape[1] + 1 - min(self.reach, past.shape[1] + 1) :]
        return {"losses": losses, "mems": (kept,)}


@settings(max_examples=60, deadline=None)
@given(
    num_tokens=st.integers(2, 400),
    length=st.integers(1, 9),
    reach=st.integers(0, 5),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_value_is_that_of_one_stream(
    num_tokens: int, length: int, reach: int, batch_size: int, world_size: int, seed: int
) -> None:
    tokens = np.random.default_rng(seed).integers(0, 50, num_tokens).astype(np.uint16)

    def total(batch: int, ranks: int) -> tuple[float, int]:
        evaluation = StreamEvaluation(tokens, length, batch, reach)
        sums, count, steps = 0.0, 0, set()
        for rank in range(ranks):
            batches = evaluation.batches(rank, ranks)
            steps.add(len(batches))
            model, mems = Echo(reach), None
            for each in batches:
                output = model(each["input_ids"], each["labels"], mems)
                mems = output["mems"]
                sums += float(output["losses"].sum())
                count += int((each["labels"] != IGNORED).sum())
        assert len(steps) == 1  # under ZeRO-3 every rank is needed for every step
        return sums, count

    expected, count = total(1, 1)
    assert count == num_tokens - 1
    found, found_count = total(batch_size, world_size)
    assert found_count == count and math.isclose(found, expected, rel_tol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_a_memory_without_bound_is_read_as_one_stream(batch_size: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 50, 200).astype(np.uint8)
    evaluation = StreamEvaluation(tokens, 7, batch_size, None, train_counts=np.ones(50, np.int64))
    figures, count = evaluation.measure(Echo(None), evaluation.batches())
    seen = np.cumsum(tokens[:-1].astype(np.int64) + 1) + tokens[1:]
    assert count == 199 and math.isclose(figures["loss"], seen.sum() / 199)
    assert math.isclose(figures["unigram_cross_entropy"], math.log(50))
    assert len(evaluation.batches()) == math.ceil(199 / (7 * batch_size))


def test_columns_only_as_far_as_they_pay() -> None:
    assert make_grid(1000, 16, 64).num_columns == 31 and make_grid(10, 16, 8).num_columns == 1
    grid = make_grid(1000, 16, 8)
    assert grid.num_own * 8 + 16 >= 1000 and grid.num_steps < 1000 / 8 + 16


def test_the_figures() -> None:
    tokens = np.array([0, 1, 0, 1], np.uint8)
    words = StreamEvaluation(tokens, 4, 1, 0).figures(2.0, 3)
    assert math.isclose(words["perplexity"], math.exp(2)) and "unigram_cross_entropy" not in words
    characters = StreamEvaluation(tokens, 4, 1, 0, unit="bits_per_character").figures(2.0, 3)
    assert math.isclose(characters["bits_per_character"], 2 / math.log(2)) and "perplexity" not in characters
    assert StreamEvaluation(tokens, 4, 1, 0).figures(1e6, 3)["perplexity"] > 1e300  # no overflow
    assert math.isclose(
        unigram_cross_entropy(np.array([3, 0]), np.array([0, 1])), -(math.log(4 / 5) + math.log(1 / 5)) / 2
    )


def test_a_text_of_one_token() -> None:
    with pytest.raises(ValueError, match="nothing to predict"):
        StreamEvaluation(np.array([1], np.uint8), 4, 1, 0).batches()
