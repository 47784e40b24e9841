"""Training batches by position: the same global batches however a step is split over ranks and micro-batches.

Step s trains on the positions [s x B, (s + 1) x B) of the endless sequence that `order.EpochOrder` defines, B being the
sequences of one optimizer step. A step is whole wherever an epoch ends, no sample is taken twice to fill a batch up,
and a resumed run begins at its step's position at once: nothing is skipped by reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from nlp_adan.errors import UserError
from nlp_adan.training.order import IntArray


class PositionDataset(Protocol):
    """A data set whose training samples are asked for by their positions in the sequence of epochs."""

    num_samples: int

    def __getitem__(self, positions: IntArray) -> Any:
        """What the collator makes a batch of; positions: (batch,) int64."""
        ...


class PositionSampler(Sampler[IntArray]):
    """This rank's micro-batches of positions, without end.

    Args:
        first_step: asked when iteration begins: the steps that are trained already.
        micro_batch: sequences that a rank takes at a time; num_micro_batches: how many of these make a step.
        rank, world_size: of this process.
    """

    def __init__(
        self, first_step: Callable[[], int], micro_batch: int, num_micro_batches: int, rank: int, world_size: int
    ) -> None:
        self.first_step = first_step
        self.micro_batch = micro_batch
        self.num_micro_batches = num_micro_batches
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[IntArray]:
        """(micro_batch,) int64 arrays; the ranks' micro-batches lie beside each other."""
        in_micro_batch = np.arange(self.rank * self.micro_batch, (self.rank + 1) * self.micro_batch, dtype=np.int64)
        number = self.first_step() * self.num_micro_batches
        while True:
            yield number * self.micro_batch * self.world_size + in_micro_batch
            number += 1


class BatchCounter(Protocol):
    """What is told of every batch (`meter.Meter`)."""

    def waiting_for_data(self) -> AbstractContextManager[None]:
        """Around the fetching of a batch."""
        ...

    def count(self, batch: Mapping[str, Tensor]) -> None:
        """A batch, on the host, that will be trained on."""
        ...


class PositionLoader:
    """Batches on the training device, each told to a counter.

    It has no length, so the Trainer counts steps, not epochs.
    """

    def __init__(self, batches: DataLoader[Any], device: torch.device, counter: BatchCounter) -> None:
        self.batches = batches
        self.device = device
        self.counter = counter

    @property
    def dataset(self) -> Any:
        """The data set, where the Trainer looks for it."""
        return self.batches.dataset

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        iterator = iter(self.batches)
        while True:
            try:
                with self.counter.waiting_for_data():
                    batch = next(iterator)
            except UserError as error:  # from a worker, torch puts its traceback into the message
                raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error
            self.counter.count(batch)
            # Not blocking: a copy from pinned memory that waits would wait for all kernels before it.
            yield {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
