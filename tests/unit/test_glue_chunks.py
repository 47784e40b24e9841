"""Batches in chunks of similar length: the cheapest division, and the same loss and gradient as the whole."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from glue_eval.chunks import chunk_ends, chunks_of
from glue_eval.finetune_engine import example_loss
from glue_eval.run_watch import TokenCount


def cost(lengths: list[int], ends: tuple[int, ...], chunk_tokens: int) -> int:
    begins = (0, *ends[:-1])
    return sum(chunk_tokens + (end - begin) * lengths[end - 1] for begin, end in zip(begins, ends, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=9).map(sorted), st.integers(0, 100))
def test_no_division_is_cheaper(lengths: list[int], chunk_tokens: int) -> None:
    found = tuple(chunk_ends(np.array(lengths), chunk_tokens))
    divisions = [
        (*inner, len(lengths))
        for number in range(len(lengths))
        for inner in itertools.combinations(range(1, len(lengths)), number)
    ]
    assert found in divisions
    assert cost(lengths, found, chunk_tokens) == min(cost(lengths, ends, chunk_tokens) for ends in divisions)


def batch_of(lengths: list[int], on_left: bool) -> dict[str, torch.Tensor]:
    width = max(lengths) + 2  # wider than its longest row, as a multiple of 8 can be
    ids = torch.randint(5, 60, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    places = torch.arange(width)
    rows = torch.tensor(lengths)[:, None]
    mask = (places >= width - rows) if on_left else (places < rows)
    labels = torch.arange(len(lengths)) % 3
    return {"attention_mask": mask.long(), "input_ids": ids * mask, "labels": labels}


@pytest.mark.parametrize("on_left", [False, True])
def test_chunks_are_the_batch_without_its_padding(on_left: bool) -> None:
    batch = batch_of([2, 3, 3, 11, 12], on_left)
    chunks = chunks_of(batch, 4)
    assert [tuple(chunk["input_ids"].shape) for chunk in chunks] == [(3, 3), (2, 12)]
    assert torch.equal(torch.cat([chunk["labels"] for chunk in chunks]), batch["labels"])
    flat = torch.cat([chunk["input_ids"][chunk["attention_mask"].bool()] for chunk in chunks])
    assert torch.equal(flat, batch["input_ids"][batch["attention_mask"].bool()])
    (whole,) = chunks_of(batch, None)
    assert whole["input_ids"].shape == (5, 14)


def test_loss_and_gradient_are_those_of_the_whole_batch() -> None:
    """Measured: losses are equal, the largest difference of a gradient is 3e-8."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=60, intermediate_size=48, max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    batch = batch_of([2, 3, 3, 11, 12], on_left=False)
    found = []
    for chunk_tokens in (None, 4):
        model.zero_grad()
        losses = []
        for chunk in chunks_of(batch, chunk_tokens):
            labels = chunk.pop("labels")
            losses.append(example_loss(model(**chunk), labels, num_items_in_batch=5))
        loss = torch.stack(losses).sum()
        loss.backward()
        found.append((loss.detach(), {name: value.grad.clone() for name, value in model.named_parameters()}))
    (whole, expected), (parts, gradients) = found
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=5e-7, msg=name)


def test_padding_is_counted_as_it_is_processed() -> None:
    batch = batch_of([2, 3, 3, 11, 12], on_left=False)
    for chunk_tokens, places in ((None, 5 * 14), (4, 3 * 3 + 2 * 12)):
        count = TokenCount(chunk_tokens)
        for _ in range(2):
            with count.waiting_for_data():
                count.count(batch)
        assert count.over_ranks() == (2 * 31, 2 * (places - 31))
