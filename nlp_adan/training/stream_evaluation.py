"""Evaluation of a model with a memory on one text: the mean loss of its tokens, for any batch size and any ranks.

Defined by reading the text from its beginning in segments, as one stream. Where a model sees a bounded number of
segments back, a column may begin in the middle: it first reads those before it, which do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nlp_adan.training.agreement import sum_of_floats_over_ranks

IGNORED = -100
CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Grid:
    """How a text's segments are divided into columns that are read side by side.

    num_segments: of the text; num_before: segments that a column reads before its first own one; num_columns;
    num_own: segments of a column's own (the first column has `num_before` more).
    """

    num_segments: int
    num_before: int
    num_columns: int
    num_own: int

    @property
    def num_steps(self) -> int:
        """Segments that each column reads."""
        return self.num_before + self.num_own


def make_grid(num_segments: int, num_before: int, num_columns: int) -> Grid:
    """At most `num_columns` columns, as many as are worth their segments before."""
    num_before = min(num_before, num_segments - 1)  # there are no more
    # Column c reads the segments [c x own, c x own + before + own) and counts the last `own` of them; column 0 all.
    worth = max(1, num_segments // (2 * num_before)) if num_before else num_segments
    num_columns = max(1, min(num_columns, worth))
    own = max(1, math.ceil((num_segments - num_before) / num_columns))
    return Grid(num_segments, num_before, num_columns, own)


class SegmentBatches:
    """The batches of one rank: a segment of each of its columns at a time.

    Args:
        tokens: (num_tokens,) unsigned integers, of which all but the first are predicted.
        length: tokens of a segment; the last may have fewer.
        columns: of this rank; of a column outside of the grid nothing counts (other ranks may need the step).
    """

    def __init__(self, tokens: npt.NDArray[Any], length: int, grid: Grid, columns: range) -> None:
        self.tokens = tokens
        self.length = length
        self.grid = grid
        self.columns = columns

    def __len__(self) -> int:
        return self.grid.num_steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """`input_ids` and `labels`, (columns, length) int64; labels that do not count are -100."""
        grid = self.grid
        for step in range(grid.num_steps):
            ids = np.zeros((len(self.columns), self.length), dtype=np.int64)
            labels = np.full_like(ids, IGNORED)
            for row, column in enumerate(self.columns):
                begin = (column * grid.num_own + step) * self.length
                seen = self.tokens[begin : begin + self.length + 1].astype(np.int64)
                if len(seen) < 2 or column >= grid.num_columns:
                    continue
                ids[row, : len(seen) - 1] = seen[:-1]
                if column == 0 or step >= grid.num_before:
                    labels[row, : len(seen) - 1] = seen[1:]
            yield {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


@dataclass(frozen=True)
class StreamEvaluation:
    """What is evaluated, and how it is read.

    Args:
        tokens: (num_tokens,) unsigned integers: the text.
        length: tokens of a segment.
        batch_size: columns of a rank at a time; of an unbounded memory, segments at a time.
        num_before: segments before its own that a token may depend on; None: without bound.
        unit: "perplexity" of the tokens, or "bits_per_character".
        train_counts: (vocab_size,) int64, how often each token occurs in the training part; None: not known.
    """

    tokens: npt.NDArray[Any]
    length: int
    batch_size: int
    num_before: int | None
    unit: str = "perplexity"
    train_counts: npt.NDArray[np.int64] | None = None

    def batches(self, rank: int = 0, world_size: int = 1) -> SegmentBatches:
        """This rank's batches; every rank has as many."""
        if len(self.tokens) < 2:
            raise ValueError(f"a text of {len(self.tokens)} tokens has nothing to predict")
        length = self.length * (self.batch_size if self.num_before is None else 1)
        num_segments = math.ceil((len(self.tokens) - 1) / length)
        if self.num_before is None:
            grid = Grid(num_segments, 0, 1, num_segments)
            return SegmentBatches(self.tokens, length, grid, range(rank, rank + 1))
        grid = make_grid(num_segments, self.num_before, self.batch_size * world_size)
        per_rank = math.ceil(grid.num_columns / world_size)
        return SegmentBatches(self.tokens, length, grid, range(rank * per_rank, (rank + 1) * per_rank))

    def measure(
        self,
        model: nn.Module,
        batches: SegmentBatches,
        device: torch.device | str = "cpu",
        tell: Callable[[], None] = lambda: None,
    ) -> tuple[dict[str, float], int]:
        """The figures of the text, and how many tokens they are of; with several ranks, all must call it.

        tell: called after each batch.

        Returns: loss (nats a token), the unit's figure, unigram_cross_entropy where the counts are known, num_tokens.
        """
        total = torch.zeros((), dtype=torch.float64)
        count = 0
        was_training = model.training
        model.eval()
        mems: Any = None
        with torch.no_grad():
            for batch in batches:
                labels = batch["labels"]
                output = model(input_ids=batch["input_ids"].to(device), labels=labels.to(device), mems=mems)
                mems = output["mems"]
                total += output["losses"].double().sum().cpu()
                count += int((labels != IGNORED).sum())
                tell()
        model.train(was_training)
        loss_sum, num_tokens = sum_of_floats_over_ranks(float(total), float(count))
        return self.figures(loss_sum / num_tokens, int(num_tokens)), int(num_tokens)

    @cached_property
    def _unigram(self) -> float:
        assert self.train_counts is not None
        return unigram_cross_entropy(self.train_counts, self.tokens[1:])

    def figures(self, loss: float, num_tokens: int) -> dict[str, float]:
        """The names and values of an evaluation's figures."""
        figures = {"loss": loss}
        if self.unit == "bits_per_character":
            figures["bits_per_character"] = loss / math.log(2)
        else:
            figures["perplexity"] = math.exp(min(loss, 700.0))
        if self.train_counts is not None:
            figures["unigram_cross_entropy"] = self._unigram
        figures["num_tokens"] = num_tokens
        return figures


def unigram_cross_entropy(train_counts: npt.NDArray[np.int64], tokens: npt.NDArray[Any]) -> float:
    """Nats a token of guessing by the training part's frequencies, each counted once more (none is impossible)."""
    counts = np.zeros(len(train_counts), dtype=np.int64)
    for begin in range(0, len(tokens), CHUNK_TOKENS):  # bincount makes int64 of what it is given
        counts += np.bincount(tokens[begin : begin + CHUNK_TOKENS], minlength=len(train_counts))
    log_shares = np.log(train_counts + 1) - math.log(float(train_counts.sum()) + len(train_counts))
    return float(-(counts * log_shares).sum() / counts.sum())
