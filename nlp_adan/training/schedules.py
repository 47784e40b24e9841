"""Learning-rate schedules that transformers does not have, as factors on top of one that it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch.optim.lr_scheduler import LambdaLR

from nlp_adan.errors import UserError

Factor = Callable[[int], float]  # of the learning rate, by the optimizer step


@dataclasses.dataclass
class ScheduleOptions:
    """What is put on top of `--lr_scheduler_type`."""

    warmup_on_top: bool = dataclasses.field(
        default=False,
        metadata={
            "help": "The warm-up scales the schedule, which runs from the first step to the last; otherwise the "
            "schedule begins after the warm-up."
        },
    )
    lr_drops: list[float] | None = dataclasses.field(
        default=None, metadata={"help": "Shares of the run after which the learning rate is multiplied, as 0.5 0.725."}
    )
    lr_drop_factor: float = dataclasses.field(default=0.1, metadata={"help": "What it is multiplied by."})

    def __post_init__(self) -> None:
        drops = self.lr_drops or []
        if any(not 0 < drop < 1 for drop in drops) or drops != sorted(set(drops)):
            raise UserError(
                f"--lr_drops: {' '.join(f'{drop:g}' for drop in drops)}: give rising shares of the run between 0 and "
                "1, such as `--lr_drops 0.5 0.725`"
            )
        if not 0 < self.lr_drop_factor < 1:
            raise UserError(f"--lr_drop_factor: {self.lr_drop_factor:g} is out of range; give a factor below 1 as 0.1")


def warm_up(num_steps: int) -> Factor:
    """A linear rise over so many steps; the first one trains already."""
    return lambda step: min(1.0, (step + 1) / num_steps) if num_steps else 1.0


def drops(shares: Sequence[float], factor: float, progress: Callable[[int], float]) -> Factor:
    """`factor` for each of the shares of the run that has passed; progress: the share that a step begins at."""
    return lambda step: factor ** sum(progress(step) >= share for share in shares)


def multiply(scheduler: LambdaLR, *factors: Factor) -> LambdaLR:
    """Let factors act on a schedule, from its first step on."""

    def product(before: Callable[[int], float]) -> Callable[[int], float]:
        def at(step: int) -> float:
            rate = before(step)
            for factor in factors:
                rate *= factor(step)
            return rate

        return at

    replace(scheduler, [product(each) for each in scheduler.lr_lambdas])
    return scheduler


def replace(scheduler: LambdaLR, lambdas: list[Callable[[int], float]]) -> None:
    """Give a schedule other functions; the rate of the first step was set by the ones before, and is set anew."""
    scheduler.lr_lambdas = lambdas
    groups = scheduler.optimizer.param_groups
    for group, base, each in zip(groups, scheduler.base_lrs, lambdas, strict=True):
        group["lr"] = base * each(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in groups]
