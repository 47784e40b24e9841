"""When a run ends before its last step: its budget of hours is used up, or a signal or a file asks it to."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy

from nlp_adan.training.agreement import largest_over_ranks
from nlp_adan.training.budget import RunClock
from nlp_adan.training.signals import Handlers, handle_signals, restore_signals

# A launcher may hand on a signal that has come to the rank directly too; so long it counts as the same request.
SAME_REQUEST_SECONDS = 5.0
# Not every launcher hands signals on to its ranks; a file in the run's folder reaches them all.
STOP_FILE = "stop"
STOP_FILE_INTERVAL_SECONDS = 1.0
_BY_FILE = 1000  # in the place of a signal's number


class RunControl(TrainerCallback, ExportableState):
    """Ends the training at the end of a step that all ranks agree on, with a checkpoint.

    It keeps the run's clock in the checkpoints. A signal that comes once more, `SAME_REQUEST_SECONDS` later, has its
    usual effect, at once.

    Args:
        clock: of the run.
        max_hours: the budget in trained hours, or None.
        folder: of the run, where `STOP_FILE` may turn up; None: not looked for.

    `wants_save`, once set, is asked on every rank after every step: a checkpoint is saved where one says so.
    """

    def __init__(self, clock: RunClock, max_hours: float | None, folder: Path | None = None) -> None:
        self.clock = clock
        self.stop_file = None if folder is None else folder / STOP_FILE
        self._looked_at = 0.0
        self.budget_seconds = None if max_hours is None else max_hours * 3600
        self.stopped_by: str | None = None
        self.wants_save: Callable[[], bool] = lambda: False
        self._agreed_seconds = 0.0
        self._received = 0
        self._received_at = 0.0
        self._saved_step = -1
        self._previous: Handlers = {}

    @property
    def progress(self) -> float:
        """The share of the budget that was used at the end of the last step; the same on every rank."""
        return 0.0 if self.budget_seconds is None else self._agreed_seconds / self.budget_seconds

    @property
    def used_up(self) -> bool:
        """Whether the budget is used up; the same on every rank."""
        return self.budget_seconds is not None and self._agreed_seconds >= self.budget_seconds

    @property
    def asked_to_stop(self) -> bool:
        """Whether a signal has come to this rank."""
        return self._received != 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps (trainer_state.json)."""
        return {"args": {}, "attributes": {"trained_seconds": self.clock.seconds}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self._agreed_seconds = float(kept.get("trained_seconds", 0.0)) if state.global_step else 0.0
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        # A checkpoint of the run's last step: the Trainer would take one more before it looks.
        if state.global_step >= state.max_steps or self.used_up:
            control.should_training_stop = True
        # The rate that the scheduler was made with, or that a checkpoint brought, is that of the budget's share so far.
        self.clock.start(self._agreed_seconds)
        if self.stop_file is not None and state.is_world_process_zero:
            self.stop_file.unlink(missing_ok=True)  # it asked an earlier start to stop
        if threading.current_thread() is threading.main_thread():
            self._previous = handle_signals(self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received == number and now - self._received_at > SAME_REQUEST_SECONDS:
            signal.signal(number, self._previous[signal.Signals(number)])
            signal.raise_signal(number)
        if self._received != number:
            self._received, self._received_at = number, now

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._look_for_file(state)
        self._agreed_seconds, received, wanted = largest_over_ranks(
            self.clock.seconds, self._received, self.wants_save()
        )
        control.should_save |= bool(wanted)
        if received:
            self.stopped_by = (
                f"the file {self.stop_file}" if received == _BY_FILE else signal.Signals(int(received)).name
            )
        if self.used_up or state.global_step >= state.max_steps:
            self.stopped_by = None  # finished all the same
        if self.used_up or self.stopped_by is not None:
            control.should_training_stop = control.should_save = True
        if self.used_up and args.eval_strategy != IntervalStrategy.NO:
            control.should_evaluate = True  # the last weights may be the best ones

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_step = state.global_step

    def must_save(self, step: int) -> bool:
        """Whether this step ended the run early and is not saved yet."""
        return (self.used_up or self.stopped_by is not None) and self._saved_step != step

    def _look_for_file(self, state: TrainerState) -> None:
        now = time.monotonic()
        if (
            self.stop_file is None
            or not state.is_world_process_zero
            or now - self._looked_at < STOP_FILE_INTERVAL_SECONDS
        ):
            return
        self._looked_at = now
        if self.stop_file.exists():
            self._received = _BY_FILE

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.clock.pause()

    def leave_signals(self) -> None:
        """Let others answer signals again: when all is saved, for what a signal would cut off is lost."""
        restore_signals(self._previous)
        self._previous = {}
