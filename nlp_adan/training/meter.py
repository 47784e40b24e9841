"""What a training run does with its time: tokens and FLOPs per second, the share spent waiting, what it trained on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.training.agreement import sum_over_ranks

# Odd constants of a multiplicative hash (arithmetic modulo 2^64, written as signed numbers).
_PRIMES = (-0x61C8864680B583EB, 0x165667B19E3779F9, -0x3D4D51C2D82B14B1, 0x27D4EB2F165667C5)


class Meter(TrainerCallback):
    """Counts over the steps between two log lines.

    Only the time of training counts: from asking for a step's first batch to the end of the step, and from there to
    its log line, which on a GPU is where the host waits for the device. Evaluations and checkpoints do not count.

    Args:
        tokens_per_step: over all ranks.
        flops_per_step: matrix-multiplication FLOPs, forward and backward, over all ranks; None: not known.
        peak_flops: of all devices together, FLOP/s; None: not known.
    """

    def __init__(self, tokens_per_step: int, flops_per_step: float | None, peak_flops: float | None) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_step = flops_per_step
        self.peak_flops = peak_flops
        self._begin: float | None = None  # of the step that is under way
        self._step_end = self._pause_begin = 0.0
        self._reset()

    def _reset(self) -> None:
        self._active_seconds = self._waiting_seconds = 0.0
        self._num_steps = 0
        self._hash = 0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Around the fetching of a batch."""
        before = time.monotonic()
        if self._begin is None:
            self._begin = before
        yield
        self._waiting_seconds += time.monotonic() - before

    def count(self, batch: Mapping[str, Tensor]) -> None:
        """A batch, on the host, that will be trained on."""
        self._hash = (self._hash + hash_of_samples(batch)) % (1 << 64)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """An optimizer step is done (on a GPU: queued)."""
        self._num_steps += 1
        self._step_end = time.monotonic()
        if self._begin is not None:
            self._active_seconds += self._step_end - self._begin
        self._begin = None

    def pause(self) -> None:
        """What follows is not training."""
        self._pause_begin = time.monotonic()

    def resume(self) -> None:
        """Training goes on."""
        paused = time.monotonic() - self._pause_begin
        self._step_end += paused
        if self._begin is not None:
            self._begin += paused

    def read(self) -> dict[str, Any]:
        """The figures since the last reading; every rank must call it, directly after a step and its log's wait.

        step_seconds is of the mean step; tokens_per_second, flops_per_second and mfu are of all ranks together;
        data_wait is a share of the time; batch_hash is equal for equal global batches, masks included, however they
        were split. Figures that are not known are None.
        """
        if self._num_steps:
            self._active_seconds += time.monotonic() - self._step_end
        seconds = max(self._active_seconds, 1e-9)
        flops = None if self.flops_per_step is None else self._num_steps * self.flops_per_step / seconds
        figures = {
            "step_seconds": None if not self._num_steps else float(f"{seconds / self._num_steps:.4g}"),
            "tokens_per_second": round(self._num_steps * self.tokens_per_step / seconds, 1),
            "flops_per_second": None if flops is None else float(f"{flops:.4g}"),
            "mfu": None if flops is None or not self.peak_flops else round(flops / self.peak_flops, 4),
            "data_wait": round(self._waiting_seconds / seconds, 4),
            "batch_hash": f"{sum_over_ranks(self._hash):016x}",
        }
        self._reset()
        return figures


def hash_of_samples(batch: Mapping[str, Tensor]) -> int:
    """A 64-bit hash of the set of samples in a batch: a sum of hashes of each sample's `input_ids` and `labels`.

    batch: `input_ids` and `labels`, (batch, seq) int64 on the host.
    """
    ids, labels = batch["input_ids"].long(), batch["labels"].long()
    places = torch.arange(1, ids.shape[1] + 1)
    words = _mixed(ids * _PRIMES[0] + labels * _PRIMES[1] + places * _PRIMES[2])
    return int(_mixed(words.sum(1) * _PRIMES[3]).sum()) % (1 << 64)


def _mixed(words: Tensor) -> Tensor:
    words = (words ^ (words >> 32)) * _PRIMES[0]
    words = (words ^ (words >> 29)) * _PRIMES[3]
    return words ^ (words >> 32)
