"""The engine of a model with a memory: each step goes on in every stream where the step before ended.

The model: `forward(input_ids, mems=None, labels=None, num_items_in_batch=None)`, whose output's `mems` is a tuple of
tensors with the batch as their first dimension (docs/design/0006). A position is segment x columns + column.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.tensor_files import TensorFile
from nlp_adan.training.pretraining import PretrainingEngine
from nlp_adan.training.schedules import ScheduleOptions, drops, multiply, warm_up
from nlp_adan.training.stream_evaluation import SegmentBatches, StreamEvaluation

Memory = tuple[Tensor, ...]  # each (batch, ...)
MEMORY_FILES = "memory-*.safetensors"  # in a checkpoint, one a rank


class StreamDataset(Protocol):
    """Segments of the columns of a text; a sample's position is step x num_columns + column."""

    num_samples: int
    num_columns: int

    def __getitem__(self, positions: Any) -> Mapping[str, Tensor]:
        """`input_ids` and `labels`, (batch, seq) int64; positions: (batch,) int64, of one step."""
        ...

    def begins_pass(self, step: int) -> bool:
        """Whether the step takes the first segment of a pass over the text."""
        ...

    def segment_length(self, step: int) -> int:
        """Tokens of each column in this step."""
        ...


def as_it_is(batch: Any) -> Any:
    """The collator of batches that the data set has made."""
    return batch


class RecurrentEngine(PretrainingEngine):
    """The pretraining engine on a stream, with a memory for each micro-batch.

    Args:
        evaluation: of the validation part.
        schedule: on top of the Trainer's.
        nominal_length: where segments have random lengths, the one that the learning rate is meant for: a step's rate
            is scaled by its segment's length over this (Merity et al. 2017); None: not scaled.
    """

    train_dataset: StreamDataset

    def __init__(
        self,
        *,
        evaluation: StreamEvaluation,
        schedule: ScheduleOptions,
        nominal_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_collator=as_it_is, eval_dataset=evaluation, **kwargs)
        self.stream_evaluation = evaluation
        self.schedule = schedule
        self._memories: list[Memory] = []
        self._num_micro_batches = 0  # trained by this process
        self._checkpoint: str | None = None
        if nominal_length is not None:
            self.add_callback(LengthScaledRate(self.train_dataset, nominal_length))

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """See the Trainer."""
        self._memories, self._num_micro_batches, self._checkpoint = [], 0, resume_from_checkpoint
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See the Trainer: with the memory that this micro-batch's columns left a step before."""
        micro = self._num_micro_batches % self.args.gradient_accumulation_steps
        if self._num_micro_batches == 0 and self._checkpoint is not None:
            self._memories = self._load_memories(Path(self._checkpoint), inputs["input_ids"].device)
        if micro == 0 and self.train_dataset.begins_pass(self.state.global_step):
            self._memories = []
        mems = self._memories[micro] if micro < len(self._memories) else None
        loss, outputs = super().compute_loss(
            model, {**inputs, "mems": mems}, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        # Until the last micro-batch has left one, those of the step before are still needed.
        self._memories[micro : micro + 1] = [tuple(level.detach() for level in outputs["mems"])]
        self._num_micro_batches += 1
        return (loss, outputs) if return_outputs else loss

    def _columns(self) -> list[list[int]]:
        """The columns of this rank's micro-batches, as the position sampler takes them."""
        args: Any = self.args
        size, world_size = args.per_device_train_batch_size, args.world_size
        begins = [(micro * world_size + args.process_index) * size for micro in range(args.gradient_accumulation_steps)]
        return [list(range(begin, begin + size)) for begin in begins]

    def own_files(self) -> list[TensorFile]:
        """The memories of this rank's streams."""
        return [*super().own_files(), memory_file(self.args.process_index, self._columns(), self._memories)]

    def _load_memories(self, checkpoint: Path, device: torch.device) -> list[Memory]:
        return [tuple(level.to(device) for level in each) for each in load_memories(checkpoint, self._columns())]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The validation part's segments, of this rank's columns."""
        return self.stream_evaluation.batches(self.args.process_index, self.args.world_size)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """See the Trainer: the text read with a memory, the same value for any batch size and number of ranks."""
        figures, num_tokens = self.measure(self.stream_evaluation, dataloader)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return EvalLoopOutput(predictions=(), label_ids=None, metrics=metrics, num_samples=num_tokens)

    def measure(self, evaluation: StreamEvaluation, batches: SegmentBatches) -> tuple[dict[str, float], int]:
        """The figures of a text and the number of its tokens; every rank has to call it. See `StreamEvaluation`."""
        self.callback_handler.eval_dataloader = batches

        def tell() -> None:
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

        with self.compute_loss_context_manager():
            return evaluation.measure(self.model, batches, self.args.device, tell)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """The Trainer's schedule, or the budget's, with what `ScheduleOptions` puts on top."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        args: Any = self.args
        control, schedule = self.run_control, self.schedule
        by_time = control.budget_seconds is not None
        factors = []
        if schedule.warmup_on_top and not by_time:  # a budget's warm-up of whole steps is on top already
            num_warmup = args.get_warmup_steps(num_training_steps)
            factors.append(warm_up(num_warmup))
            given, args.warmup_steps = args.warmup_steps, 0
            scheduler = super().create_scheduler(num_training_steps, optimizer)
            args.warmup_steps = given
        else:
            scheduler = super().create_scheduler(num_training_steps, optimizer)
        if schedule.lr_drops:
            factors.append(
                drops(
                    schedule.lr_drops,
                    schedule.lr_drop_factor,
                    (lambda step: control.progress) if by_time else (lambda step: step / num_training_steps),
                )
            )
        if factors:
            if not isinstance(scheduler, LambdaLR):
                raise UserError(
                    f"--lr_scheduler_type: {args.lr_scheduler_type.value} goes by the loss, and nothing can be put on "
                    "top of it; leave `--warmup_on_top` and `--lr_drops` out"
                )
            multiply(scheduler, *factors)
        return scheduler


class LengthScaledRate(TrainerCallback):
    """Scales the learning rate of a step by the length of its segment; the schedule sees the rate that it set."""

    def __init__(self, dataset: StreamDataset, nominal_length: int) -> None:
        self.dataset = dataset
        self.nominal_length = nominal_length
        self._rates: list[float] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        factor = self.dataset.segment_length(state.global_step) / self.nominal_length
        groups = kwargs["optimizer"].param_groups
        self._rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for group, rate in zip(kwargs["optimizer"].param_groups, self._rates, strict=True):
            group["lr"] = rate


def memory_file(rank: int, columns: Sequence[Sequence[int]], memories: Sequence[Memory]) -> TensorFile:
    """A rank's memories as a file of a checkpoint.

    columns: of each micro-batch; memories: of each, or none where a pass begins anew.
    """
    tensors = {
        f"{micro}.{level}": tensor.contiguous()
        for micro, memory in enumerate(memories)
        for level, tensor in enumerate(memory)
    }
    return TensorFile(
        f"memory-{rank:05}.safetensors", tensors, {"columns": json.dumps([list(each) for each in columns])}
    )


def load_memories(folder: Path, columns: Sequence[Sequence[int]]) -> list[Memory]:
    """The memories of these columns, whichever ranks and micro-batches wrote them; [] where none was kept.

    columns: of each micro-batch.

    Raises: UserError where a column's memory is not in the checkpoint, or a file of it is damaged.
    """
    rows: dict[int, list[Tensor]] = {}
    is_empty = True
    for path in sorted(folder.glob(MEMORY_FILES)):
        try:
            with safe_open(path, framework="pt") as file:
                names = sorted(file.keys(), key=lambda name: [int(part) for part in name.split(".")])
                for micro, written in enumerate(json.loads(file.metadata()["columns"])):
                    levels = [file.get_tensor(name) for name in names if int(name.split(".")[0]) == micro]
                    is_empty = is_empty and not levels
                    for row, column in enumerate(written):
                        rows[column] = [level[row] for level in levels]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"--resume: {path} is damaged ({error}); name an earlier checkpoint") from error
    missing = [column for each in columns for column in each if column not in rows]
    if missing:
        raise UserError(
            f"--resume: {folder} has no memory of {len(missing)} of the streams (column {missing[0]}, for one); name "
            "another checkpoint"
        )
    if is_empty:
        return []
    return [tuple(torch.stack(list(level)) for level in zip(*(rows[c] for c in each), strict=True)) for each in columns]
