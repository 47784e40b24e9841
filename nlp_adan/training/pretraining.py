"""The engine of a pretraining run: batches by position, a budget of hours, a meter, and a stop that can be resumed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.training.budget import UNBOUNDED_STEPS, budget_schedule
from nlp_adan.training.control import RunControl
from nlp_adan.training.engine import Engine, EngineOptions
from nlp_adan.training.loader import PositionDataset, PositionLoader, PositionSampler
from nlp_adan.training.meter import Meter


@dataclasses.dataclass
class PretrainingOptions(EngineOptions):
    """The engine's options; a GPU's model is compiled unless the command line says otherwise."""

    compiles_by_default = True


class EpochOfPosition(TrainerCallback):
    """Keeps `state.epoch` at the epochs trained; the Trainer takes the whole run for one epoch."""

    def __init__(self, num_samples: int, samples_per_step: int) -> None:
        self.num_samples = num_samples
        self.samples_per_step = samples_per_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.epoch = state.global_step * self.samples_per_step / self.num_samples


class PretrainingEngine(Engine):
    """The engine on a data set that is read by position (`loader.PositionDataset`).

    An epoch has no end of its own: `num_train_epochs` only says how many steps there are. A resumed run begins at its
    position without reading what came before.

    Args:
        meter: told of every batch and step; its figures go into every log line.
        control: ends the run when its budget is used up or a signal comes.
    """

    args: PretrainingOptions
    train_dataset: PositionDataset
    lr_scheduler: Any

    def __init__(
        self,
        *,
        args: PretrainingOptions,
        train_dataset: PositionDataset,
        meter: Meter,
        control: RunControl,
        **kwargs: Any,
    ) -> None:
        options: Any = args
        options.ignore_data_skip = True  # the sampler begins where the run stands
        if options.max_steps < 0:  # the Trainer wants to know it at once
            samples = train_dataset.num_samples * options.num_train_epochs
            epochs = max(1, math.ceil(samples / options.num_sequences_per_step))
            options.max_steps = epochs if control.budget_seconds is None else UNBOUNDED_STEPS
        super().__init__(args=args, train_dataset=train_dataset, **kwargs)
        self.meter = meter
        self.run_control = control
        if control.budget_seconds is not None:
            self.bar.count_seconds(control)
        for callback in (EpochOfPosition(train_dataset.num_samples, control.samples_per_step), control, meter):
            self.add_callback(callback)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. Each rank draws its own dropout; a checkpoint's random state, where it has one, follows."""
        torch.manual_seed(self.args.seed + self.args.process_index)
        return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> Any:
        """This rank's batches from the step on that the run has reached when they are first asked for."""
        options: Any = self.args
        sampler = PositionSampler(
            lambda: self.state.global_step,
            micro_batch=options.per_device_train_batch_size,
            num_micro_batches=options.gradient_accumulation_steps,
            rank=options.process_index,
            world_size=options.world_size,
        )
        batches: DataLoader[Any] = DataLoader(
            self.train_dataset,
            sampler=sampler,
            batch_size=None,  # the sampler's positions are a batch already
            collate_fn=self.data_collator,
            # Its iterator draws a seed for workers: from the run's generator, it would change a resumed run's dropout.
            generator=torch.Generator(),
            num_workers=options.dataloader_num_workers,
            pin_memory=options.dataloader_pin_memory and options.device.type == "cuda",
            persistent_workers=options.dataloader_persistent_workers,
            prefetch_factor=options.dataloader_prefetch_factor,
        )
        return PositionLoader(batches, options.device, self.meter)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """The schedule over steps, or over the budget of hours where there is one."""
        if self.run_control.budget_seconds is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = budget_schedule(
            self.args, self.optimizer if optimizer is None else optimizer, lambda: self.run_control.progress
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the meter's figures to a training step's line, for the log file and for every `--report_to`."""
        if "loss" in logs:
            figures = self.meter.read()
            logs.update({name: value for name, value in figures.items() if value is not None})
            logs["trained_seconds"] = round(self.run_control.clock.seconds, 3)
        # The run's log file keeps the lines: a checkpoint with all of them would grow with the run.
        self.state.log_history.clear()
        super().log(logs, start_time)
