"""What a run tells while it goes: its log file and its progress bar."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.progress import progress
from nlp_adan.storage import finite
from nlp_adan.training.run_folder import RunFolder


class RunLog(TrainerCallback):
    """Writes log.jsonl and eval.jsonl. Units: learning_rate per step, seconds of this process since training began."""

    def __init__(self, folder: RunFolder, tokens_per_step: int) -> None:
        self.folder = folder
        self.tokens_per_step = tokens_per_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = self.last_time = self.last_step_end = time.monotonic()
        self.last_step = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.last_step_end = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.last_time += time.monotonic() - self.last_step_end  # an evaluation's time is not training time

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
            now, steps = time.monotonic(), state.global_step - self.last_step
            line = {"step": state.global_step, "epoch": plain.get("epoch"), "loss": plain["loss"]}
            line["grad_norm"] = plain.get("grad_norm")
            line["learning_rate"] = plain.get("learning_rate")
            line["tokens_per_second"] = round(steps * self.tokens_per_step / max(now - self.last_time, 1e-9), 1)
            line["seconds"] = round(now - self.began, 3)
            self.folder.append("log.jsonl", line)
            self.last_time, self.last_step = now, state.global_step
        elif any(name.startswith("eval_") for name in logs):
            self.folder.append("eval.jsonl", {"step": state.global_step, **plain})


class EpochOfDataset(TrainerCallback):
    """Tells the training data which epoch begins.

    accelerate's loader does so only while it does not wrap the batch sampler: not on several ranks, nor in an epoch
    that a run is resumed in.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.dataset.set_epoch(int((state.epoch or 0.0) + 1e-9))  # the sum of its fractions may fall short of a whole


class Bar(TrainerCallback):
    """One bar over the training steps, with loss and learning rate, in place of the Trainer's bar and its prints."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Any = None
        self.evaluation_bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.disable_tqdm:
            self.bar = progress(
                description=self.description, unit="step", total=state.max_steps, initial=state.global_step
            )

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
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            shown = {"loss": f"{float(logs['loss']):.3f}"}
            if "learning_rate" in logs:
                shown["lr"] = f"{float(logs['learning_rate']):.1e}"
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
