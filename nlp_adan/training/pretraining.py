"""The engine of a pretraining run: batches by position, a budget of hours, a meter, and a stop that can be resumed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch.optim import Optimizer
from transformers import TrainerControl

from nlp_adan.errors import UserError
from nlp_adan.training.budget import UNBOUNDED_STEPS, budget_schedule
from nlp_adan.training.control import RunControl
from nlp_adan.training.engine import EngineOptions
from nlp_adan.training.loader import PositionDataset
from nlp_adan.training.meter import Meter
from nlp_adan.training.option_checks import REFUSED_IN_PRETRAINING
from nlp_adan.training.saving import SavingEngine


@dataclasses.dataclass
class PretrainingOptions(EngineOptions):
    """The engine's options; a GPU's model is compiled unless the command line says otherwise."""

    logging_nan_inf_filter: bool = dataclasses.field(
        default=False, metadata={"help": "Log the mean of the losses before in the place of one that is no number."}
    )
    compiles_by_default = True
    refused = REFUSED_IN_PRETRAINING


class Diverged(UserError):
    """The loss of a run is no number any more."""


class PretrainingEngine(SavingEngine):
    """The engine on a data set that is read by position, with a budget, a meter and an end that can be resumed.

    Args:
        meter: told of every batch and step; its figures go into every log line.
        control: ends the run when its budget is used up or a signal comes.
    """

    args: PretrainingOptions
    lr_scheduler: Any
    control: TrainerControl

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
        if control.budget_seconds is not None:
            _check_whole_steps(options)
        if options.max_steps < 0 and control.budget_seconds is not None:
            options.max_steps = UNBOUNDED_STEPS
        super().__init__(args=args, train_dataset=train_dataset, counter=meter, **kwargs)
        self.meter = meter
        self.run_control = control
        control.wants_save = self.save_is_overdue
        self._evaluated: tuple[int, dict[str, float]] | None = None
        if control.budget_seconds is not None:
            self.bar.count_seconds(control)
        for callback in (control, meter):
            self.add_callback(callback)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. Signals ask to stop until the last checkpoint is written, too."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.run_control.leave_signals()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.control.should_training_stop:  # said when training began: the run was at its end
            super()._run_epoch(*args, **kwargs)

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *args: Any, **more: Any
    ) -> None:
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **more)
        if self.run_control.must_save(self.state.global_step):  # --save_strategy best saves by the score alone
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See the Trainer; the last step's evaluation is not repeated for the final figures."""
        repeats = not args and not kwargs and not self.args.load_best_model_at_end
        if repeats and self._evaluated is not None and self._evaluated[0] == self.state.global_step:
            return dict(self._evaluated[1])
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        self._evaluated = (self.state.global_step, dict(metrics))
        return metrics

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """The schedule over steps, or over the budget of hours where there is one."""
        if self.run_control.budget_seconds is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = budget_schedule(
            self.args, self.optimizer if optimizer is None else optimizer, lambda: self.run_control.progress
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def diverged(self, figure: str, value: float) -> Diverged:
        """The error of a run whose loss is no number any more."""
        return Diverged(
            f"the run diverged: its {figure} is {value}; start again in another --output_dir with a lower "
            f"--learning_rate (now {self.args.learning_rate:g}) or a longer warm-up (--warmup_steps)"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the meter's figures to a training step's line, for the log file and for every `--report_to`."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise self.diverged(f"loss at step {self.state.global_step:,}", logs["loss"])
            figures = self.meter.read()
            logs.update({name: value for name, value in figures.items() if value is not None})
            logs["trained_seconds"] = round(self.run_control.clock.seconds, 3)
        # The run's log file keeps the lines: a checkpoint with all of them would grow with the run.
        self.state.log_history.clear()
        super().log(logs, start_time)


def _check_whole_steps(options: Any) -> None:
    """A share of the steps, as the Trainer takes numbers below 1, has no meaning where the steps are not known."""
    for name in ("logging", "eval", "save"):
        steps = getattr(options, f"{name}_steps")
        if steps is not None and 0 < steps < 1:
            raise UserError(
                f"--{name}_steps: {steps:g} is a share of the steps, which a run of --max_hours does not know before; "
                "give a whole number of steps"
            )
