"""A budget of hours: the learning rate's schedule and the stop go by the time trained, not by a number of steps.

Trained time is that of the training loop, evaluations and checkpoints included; start-up, the time between two starts
of a run, and steps that a crash lost do not count.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments, get_scheduler

from nlp_adan.errors import UserError
from nlp_adan.training.schedules import replace, warm_up

# The schedules of transformers count whole steps: the budget is divided into so many.
VIRTUAL_STEPS = 1_000_000
# Stands for "as many as fit": the Trainer wants a number.
UNBOUNDED_STEPS = 1_000_000_000


@dataclasses.dataclass
class BudgetOptions:
    """How long to train."""

    max_hours: float | None = dataclasses.field(
        default=None,
        metadata={
            "help": "A budget in hours of training: the learning rate's schedule and the stop go by the time trained "
            "(over all starts of the run; the time between them does not count) instead of --max_steps."
        },
    )

    def __post_init__(self) -> None:
        if self.max_hours is not None and not 0 < self.max_hours < math.inf:
            raise UserError(f"--max_hours: {self.max_hours:g} is out of range; give hours above 0, such as 0.5")


class RunClock:
    """The trained time of a run over all its starts, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._before = 0.0  # of earlier starts, and of this one up to the last pause
        self._running_since: float | None = None

    def start(self, trained_before: float = 0.0) -> None:
        """Training begins, or goes on after `trained_before` seconds of earlier starts."""
        self._before = trained_before
        self._running_since = self._now()

    @property
    def seconds(self) -> float:
        """Seconds trained until now."""
        running = 0.0 if self._running_since is None else self._now() - self._running_since
        return self._before + running

    def pause(self) -> None:
        """What follows is not training."""
        self._before, self._running_since = self.seconds, None

    def resume(self) -> None:
        """Training goes on."""
        if self._running_since is None:
            self._running_since = self._now()


def budget_schedule(args: TrainingArguments, optimizer: Optimizer, progress: Callable[[], float]) -> LambdaLR:
    """The schedule `--lr_scheduler_type` stretched over a budget of time.

    `progress` gives the share of the budget that is used, the same on every rank. A `warmup_steps` below 1 is a share
    of the budget; a larger one is a number of steps, on top of the schedule.

    Raises: UserError for a schedule that goes by the loss, not by the time.
    """
    share = args.warmup_steps < 1
    scheduler: Any = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=round(args.warmup_steps * VIRTUAL_STEPS) if share else 0,
        num_training_steps=VIRTUAL_STEPS,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    if not isinstance(scheduler, LambdaLR):
        raise UserError(
            f"--lr_scheduler_type: {args.lr_scheduler_type.value} does not go by the time; with --max_hours choose "
            "linear, cosine, polynomial or another schedule with an end"
        )
    warm = warm_up(0 if share else int(args.warmup_steps))

    def factor(of_progress: Callable[[int], float]) -> Callable[[int], float]:
        # The first step has used nothing of the budget; with a rate of 0 it would be lost.
        return lambda step: warm(step) * of_progress(max(1, min(VIRTUAL_STEPS, round(progress() * VIRTUAL_STEPS))))

    replace(scheduler, [factor(each) for each in scheduler.lr_lambdas])
    return scheduler
