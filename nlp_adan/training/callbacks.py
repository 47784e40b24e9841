"""What a run tells while it goes: its log file and its progress bar."""

from __future__ import annotations

import time
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.progress import progress
from nlp_adan.storage import finite
from nlp_adan.training.run_folder import RunFolder


class RunLog(TrainerCallback):
    """Writes log.jsonl (a line a logging step: the Trainer's figures and the meter's) and eval.jsonl."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        plain = finite({name: value.item() if hasattr(value, "item") else value for name, value in logs.items()})
        if "loss" in logs:
            line = {"step": state.global_step, **plain, "seconds": round(time.monotonic() - self.began, 3)}
            self.folder.append("log.jsonl", line)
        elif any(name.startswith("eval_") for name in logs):
            self.folder.append("eval.jsonl", {"step": state.global_step, **plain})


class Progress(Protocol):
    """How far a run is whose end is a time."""

    @property
    def progress(self) -> float:
        """The share that is done."""
        ...

    budget_seconds: float | None


class Bar(TrainerCallback):
    """One bar over the training, with its figures, in place of the Trainer's bar and its prints."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Any = None
        self.evaluation_bar: Any = None
        self._budget: Progress | None = None

    def count_seconds(self, budget: Progress) -> None:
        """Count the seconds of a budget instead of steps."""
        self._budget = budget

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.disable_tqdm:
            return
        if self._budget is None or self._budget.budget_seconds is None:
            unit, total = "step", state.max_steps
        else:
            unit, total = "s", round(self._budget.budget_seconds)
        self.bar = progress(description=self.description, unit=unit, total=total, initial=self._done(state))

    def _done(self, state: TrainerState) -> int:
        if self._budget is None or self._budget.budget_seconds is None:
            return state.global_step
        return round(self._budget.budget_seconds * min(1.0, self._budget.progress))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.disable_tqdm:
            return
        if self.evaluation_bar is None:
            total = len(kwargs["eval_dataloader"])
            self.evaluation_bar = progress(description="evaluation", unit="batch", total=total, leave=False)
        self.evaluation_bar.update()
        if self.evaluation_bar.n >= self.evaluation_bar.total:
            self.evaluation_bar.close()
            self.evaluation_bar = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(self._done(state) - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix(_shown(logs, None if self._budget is None else state.global_step), refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _shown(logs: dict[str, Any], step: int | None) -> dict[str, str]:
    """The figures of a log line, short enough for a bar."""
    shown = {} if step is None else {"step": f"{step:,}"}
    shown["loss"] = f"{float(logs['loss']):.3f}"
    if "learning_rate" in logs:
        shown["lr"] = f"{float(logs['learning_rate']):.1e}"
    if "tokens_per_second" in logs:
        shown["tokens/s"] = f"{logs['tokens_per_second']:,.0f}"
    if "mfu" in logs:
        shown["MFU"] = f"{logs['mfu']:.1%}"
    elif "flops_per_second" in logs:
        shown["GFLOP/s"] = f"{logs['flops_per_second'] / 1e9:,.1f}"
    if "data_wait" in logs:
        shown["data wait"] = f"{logs['data_wait']:.1%}"
    return shown
