"""The engine of a fine-tuning run: the learning curve on the development files, and the checkpoint to report."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glue_eval.chunks import CPU_CHUNK_TOKENS, chunks_of
from glue_eval.data import Split
from glue_eval.examples import Examples, SortedExamples, TrainingExamples, as_it_is
from glue_eval.metrics import main_score, score
from glue_eval.predictions import Logits, answers
from glue_eval.results import CurvePoint
from glue_eval.run_watch import Cadence, TokenCount
from glue_eval.tasks import Task
from nlp_adan.errors import UserError
from nlp_adan.training.engine import EngineOptions, mean_over_items
from nlp_adan.training.option_checks import REFUSED, REFUSED_IN_PRETRAINING
from nlp_adan.training.positions import PositionEngine, steps_of_epochs

MOST_EVALUATIONS = 10  # of a run, unless its user says when

_ALSO_REFUSED = (
    "accelerator_config.dispatch_batches", "accelerator_config.split_batches", "auto_find_batch_size",
    "batch_eval_metrics", "dataloader_drop_last", "dataloader_in_order", "do_predict", "enable_jit_checkpoint",
    "label_names", "remove_unused_columns", "restore_callback_states_from_checkpoint", "resume_from_checkpoint",
    "save_only_model", "use_liger_kernel",
)  # fmt: skip


_REFUSED = {
    **REFUSED,
    **{name: REFUSED_IN_PRETRAINING[name] for name in _ALSO_REFUSED},
    "label_names": "would leave the loss without its labels; leave it out",
    "load_best_model_at_end": "would not act: say `--checkpoint best`",
    "metric_for_best_model": "would not act: `--checkpoint best` goes by the task's own score",
    "save_strategy": "would not act: a run begins anew; `--save_models` keeps the trained model",
    "train_sampling_strategy": "would not act: say `--group_by_length`",
    "use_liger_kernel": "would not act: Liger has no kernels for classifiers; leave it out",
}


@dataclasses.dataclass
class FinetuneOptions(EngineOptions):
    """The engine's options as fine-tuning takes them: a run that was interrupted begins anew, so nothing is saved."""

    save_strategy: str = dataclasses.field(
        default="no", metadata={"help": "Not used: a run begins anew; `--save_models` keeps the trained model."}
    )
    logging_nan_inf_filter: bool = dataclasses.field(
        default=False, metadata={"help": "Log the mean of the losses before in the place of one that is no number."}
    )
    per_device_eval_batch_size: int = dataclasses.field(
        default=64, metadata={"help": "Examples predicted at a time, on each device."}
    )
    refused = _REFUSED


def example_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy, or squared error for scores, summed over the examples and divided by those of the whole step.

    Args:
        outputs: `outputs["logits"]`: (batch, num_labels), or (batch, 1) for scores.
        labels: (batch,) int64 classes or float scores.
    """
    logits = outputs["logits"].float()
    if labels.is_floating_point():
        total = nn.functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
    else:
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return mean_over_items(total, len(labels), num_items_in_batch)


def evaluation_steps(options: EngineOptions, num_samples: int, most: int) -> frozenset[int]:
    """After which steps the development files are scored: each epoch's last, as far as `most` allows it."""
    samples = options.num_sequences_per_step
    max_steps = options.max_steps
    if max_steps < 0:
        max_steps = steps_of_epochs(num_samples, options.num_train_epochs, samples)
    num_ends = (max_steps - 1) * samples // num_samples  # of epochs, before the last step
    apart = num_ends // most + 1
    chosen = range(apart, num_ends + 1, apart)
    return frozenset({*(steps_of_epochs(num_samples, epoch, samples) for epoch in chosen), max_steps})


class Diverged(UserError):
    """The loss, or what the model predicts, is no number any more."""


@dataclasses.dataclass
class Reported:
    """The checkpoint whose predictions a run reports: after `step`, with logits by development file."""

    step: int
    scores: dict[str, float]
    collapsed: bool
    logits: dict[str, Logits]
    weights: dict[str, Tensor] | None = None  # on the host; None where the model has them


class FinetuneEngine(PositionEngine):
    """The engine on one task's training examples, scored on its development files.

    Args:
        dev: the development files, in the task's order, with their tokenized examples.
        steps: after which the development files are scored; None: as `--eval_strategy` says.
        keeps_best: report the checkpoint with the best main score (the first of equals) instead of the last one.
    """

    args: FinetuneOptions

    def __init__(
        self,
        *,
        task: Task,
        train_dataset: TrainingExamples,
        dev: Sequence[tuple[Split, Examples]],
        steps: frozenset[int] | None,
        keeps_best: bool,
        **kwargs: Any,
    ) -> None:
        args: Any = kwargs["args"]
        # A GPU waits for its kernels' launches at these sizes, not for padding; DeepSpeed and FSDP hook every forward.
        in_chunks = args.device.type == "cpu" and not (args.deepspeed or args.fsdp or args.torch_compile)
        self.chunk_tokens = CPU_CHUNK_TOKENS if in_chunks else None
        self.token_count = TokenCount(self.chunk_tokens)
        super().__init__(
            train_dataset=train_dataset,
            eval_dataset=SortedExamples(dev[0][1]),  # for the Trainer to see that there is one
            data_collator=as_it_is,
            counter=self.token_count,
            compute_loss_func=example_loss,
            **kwargs,
        )
        self.task = task
        self.dev = dev
        self.keeps_best = keeps_best
        self.curve: list[CurvePoint] = []
        self.reported: Reported | None = None
        self.evaluation_seconds = 0.0
        self.cadence = Cadence(steps or frozenset())
        self.add_callback(self.cadence)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See the Trainer: the sum over the batch's chunks."""
        if return_outputs:
            return super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        losses = [
            super(FinetuneEngine, self).compute_loss(model, chunk, num_items_in_batch=num_items_in_batch)
            for chunk in chunks_of(inputs, self.chunk_tokens)
        ]
        return torch.stack(losses).sum()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the development files, once a step; a point of the learning curve."""
        step = self.state.global_step
        if not self.curve or self.curve[-1].step != step:
            began = time.monotonic()
            found = self.scored(step, {split.name: self.logits_of(examples) for split, examples in self.dev})
            self._keep(found)
            epoch = step * self.args.num_sequences_per_step / self.train_dataset.num_samples
            self.curve.append(CurvePoint(step, round(epoch, 4), found.scores, self.cadence.take_mean_loss()))
            self.evaluation_seconds += time.monotonic() - began
        return {f"eval_{name}": value for name, value in self.curve[-1].scores.items()}

    def scored(self, step: int, logits: dict[str, Logits]) -> Reported:
        """What these predictions of the development files score."""
        found = Reported(step, {}, False, logits)
        for split, _ in self.dev:
            scored = score(self.task, answers(self.task, logits[split.name]), np.asarray(split.labels))
            found.scores |= self.task.name_scores(split.name, scored.values)
            found.collapsed |= scored.collapsed
        return found

    def _keep(self, found: Reported) -> None:
        before = self.reported
        if not self.keeps_best or before is None or self._main(found) > self._main(before):
            if self.keeps_best and found.step < self.state.max_steps:
                found.weights = {name: value.detach().cpu().clone() for name, value in self._state_dict().items()}
            self.reported = found

    def _main(self, found: Reported) -> float:
        return main_score(self.task, found.scores)

    def _state_dict(self) -> dict[str, Tensor]:
        model: Any = self.accelerator.unwrap_model(self.model)
        weights: dict[str, Tensor] = model.state_dict()
        return weights

    def restore_reported(self) -> Reported:
        """Give the model the weights of the checkpoint to report; the last one's where it was never scored."""
        if not self.curve or self.curve[-1].step != self.state.global_step:
            self.evaluate()
        assert self.reported is not None
        if self.reported.weights is not None:
            with torch.no_grad():
                for name, value in self._state_dict().items():
                    value.copy_(self.reported.weights[name])
        return self.reported

    def logits_of(self, examples: Examples) -> Logits:
        """(num_examples, num_labels), or (num_examples, 1) for scores, in the examples' order; of all ranks alike.

        Raises:
            Diverged: one of them is no number.
        """
        ordered = SortedExamples(examples)
        found: Any = self.predict(ordered).predictions
        logits: Logits = (found[0] if isinstance(found, tuple) else found)[ordered.places].astype(np.float32)
        if not np.isfinite(logits).all():
            raise self.diverged("predictions", math.nan)
        return logits

    def diverged(self, figure: str, value: float) -> Diverged:
        """The error of a run of which this figure is no number any more."""
        return Diverged(
            f"{self.task.name} seed {self.args.seed} diverged: its {figure} at step {self.state.global_step:,}: "
            f"{value}; choose a lower --learning_rate (now {self.args.learning_rate:g}), a longer warm-up "
            "(--warmup_steps) or clipping (--max_grad_norm 1)"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """See the Trainer. A loss that is no number ends the training with `Diverged`."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise self.diverged("loss", logs["loss"])
            self.cadence.add(logs["loss"], self.state.global_step)
        super().log(logs, start_time)
