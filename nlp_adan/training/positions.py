"""The engine on a data set that is read by position: what pretraining and fine-tuning share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from nlp_adan.training.engine import Engine
from nlp_adan.training.loader import BatchCounter, PositionDataset, PositionLoader, PositionSampler
from nlp_adan.training.signals import ignore_signals


def steps_of_epochs(num_samples: int, num_epochs: float, samples_per_step: int) -> int:
    """Optimizer steps that take every sample at least `num_epochs` times: the last one may reach into the next epoch.

    `samples_per_step`: over all ranks and micro-batches.
    """
    return max(1, math.ceil(num_samples * num_epochs / samples_per_step))


class EpochOfPosition(TrainerCallback):
    """Keeps `state.epoch`, and what is due at an epoch's end: the Trainer takes the whole run for one epoch."""

    def __init__(self, num_samples: int, samples_per_step: int) -> None:
        self.num_samples = num_samples
        self.samples_per_step = samples_per_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        samples = state.global_step * self.samples_per_step
        state.epoch = samples / self.num_samples
        if samples // self.num_samples > (samples - self.samples_per_step) // self.num_samples:
            control.should_log |= args.logging_strategy == IntervalStrategy.EPOCH
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.EPOCH
            control.should_save |= args.save_strategy == SaveStrategy.EPOCH

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed run's may be others than the checkpoint's


class PositionEngine(Engine):
    """The engine on a data set that is read by position (`loader.PositionDataset`).

    An epoch has no end of its own: `num_train_epochs` only says how many steps there are. A resumed run begins at its
    position without reading what came before.

    Args:
        counter: told of every batch before it is trained on.
    """

    train_dataset: PositionDataset

    def __init__(self, *, args: Any, train_dataset: PositionDataset, counter: BatchCounter, **kwargs: Any) -> None:
        args.ignore_data_skip = True  # the sampler begins where the run stands
        if args.max_steps < 0:  # the Trainer wants to know it at once
            args.max_steps = steps_of_epochs(
                train_dataset.num_samples, args.num_train_epochs, args.num_sequences_per_step
            )
        super().__init__(args=args, train_dataset=train_dataset, **kwargs)
        self.counter = counter
        self.add_callback(EpochOfPosition(train_dataset.num_samples, args.num_sequences_per_step))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. Each rank draws its own dropout; a checkpoint's random state, where it has one, follows."""
        torch.manual_seed(self.args.seed + self.args.process_index)
        return super().train(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """See the Trainer."""
        return _apart(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """See the Trainer."""
        return _apart(super().get_test_dataloader(test_dataset))

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
            worker_init_fn=ignore_signals,
            pin_memory=options.dataloader_pin_memory and options.device.type == "cuda",
            persistent_workers=options.dataloader_persistent_workers,
            prefetch_factor=options.dataloader_prefetch_factor,
            multiprocessing_context=options.dataloader_multiprocessing_context,
        )
        return PositionLoader(batches, options.device, self.counter)


def _apart(loader: Any) -> Any:
    """A loader of evaluation batches that takes no signal, and draws none of the run's random numbers."""
    batches = getattr(loader, "base_dataloader", loader)  # accelerate's hands no attribute on to it
    batches.worker_init_fn = ignore_signals
    batches.generator = torch.Generator()
    return loader
