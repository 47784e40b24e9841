"""What watches a fine-tuning run: its tokens are counted, its progress told, its evaluations asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glue_eval.chunks import chunks_of
from nlp_adan.training.agreement import sum_over_ranks

# In examples passed forward through the model: a backward pass costs two forward passes.
TRAINING_WORK = 3


class TokenCount:
    """Counts the tokens that are trained on, and the padding beside them (`loader.BatchCounter`).

    chunk_tokens: as the engine cuts batches into chunks.
    """

    def __init__(self, chunk_tokens: int | None) -> None:
        self.chunk_tokens = chunk_tokens
        self.tokens = self.padding = 0

    def waiting_for_data(self) -> AbstractContextManager[None]:
        """Not measured: the examples are in memory."""
        return contextlib.nullcontext()

    def count(self, batch: Mapping[str, Tensor]) -> None:
        """batch: `attention_mask`, (batch, seq) int64 on the host."""
        tokens = int(batch["attention_mask"].sum())
        places = sum(chunk["attention_mask"].numel() for chunk in chunks_of(batch, self.chunk_tokens))
        self.tokens += tokens
        self.padding += places - tokens

    def over_ranks(self) -> tuple[int, int]:
        """Tokens and padding of all ranks together; every rank has to call it."""
        return sum_over_ranks(self.tokens), sum_over_ranks(self.padding)


class RunProgress(TrainerCallback):
    """Tells how far a run is, in examples passed forward through the model.

    num_predicted: that are predicted in the run besides training.
    """

    def __init__(self, advance: Callable[[float, float], None], samples_per_step: int, num_predicted: int) -> None:
        self.advance = advance
        self.samples_per_step = samples_per_step
        self.num_predicted = num_predicted
        self._predicted = 0
        self._steps = 0

    def _tell(self, state: TrainerState) -> None:
        work = TRAINING_WORK * self.samples_per_step
        total = work * state.max_steps + self.num_predicted
        self.advance(min(work * self._steps + self._predicted, total), total)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._steps = state.global_step
        self._tell(state)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._predicted += args.eval_batch_size * args.world_size
        self._tell(state)


class Cadence(TrainerCallback):
    """Asks for an evaluation, and the loss up to there, after certain steps; keeps the losses between evaluations."""

    def __init__(self, steps: frozenset[int]) -> None:
        self.steps = steps
        self.loss_sum = 0.0
        self.loss_steps = 0
        self._logged_step = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step in self.steps:
            control.should_evaluate = True
        control.should_log |= control.should_evaluate or state.global_step >= state.max_steps

    def add(self, loss: float, step: int) -> None:
        """The mean loss since the last log line, at this step."""
        self.loss_sum += loss * (step - self._logged_step)
        self.loss_steps += step - self._logged_step
        self._logged_step = step

    def take_mean_loss(self) -> float | None:
        """Over the steps since it was last taken."""
        mean = self.loss_sum / self.loss_steps if self.loss_steps else None
        self.loss_sum, self.loss_steps = 0.0, 0
        return mean
