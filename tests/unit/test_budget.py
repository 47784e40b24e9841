"""A budget in hours: the schedule, the stop, and the clock that goes on over a run's starts."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments, get_scheduler

from nlp_adan.errors import UserError
from nlp_adan.training.budget import BudgetOptions, RunClock, budget_schedule
from nlp_adan.training.control import RunControl
from nlp_adan.training.signals import exits_to_be_resumed


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def arguments(folder: Path, **options: object) -> TrainingArguments:
    return TrainingArguments(str(folder), use_cpu=True, learning_rate=1.0, **options)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_the_clock_leaves_out_pauses_and_downtime() -> None:
    time = Time()
    clock = RunClock(time)
    assert clock.seconds == 0
    clock.start()
    time.now += 10
    clock.pause()
    time.now += 100
    assert clock.seconds == 10
    clock.resume()
    clock.resume()  # twice changes nothing
    time.now += 5
    assert clock.seconds == 15
    later = RunClock(time)
    time.now += 1000
    later.start(trained_before=15)
    time.now += 1
    assert later.seconds == 16


@pytest.mark.parametrize("kind", ["linear", "cosine", "polynomial", "constant_with_warmup", "cosine_with_restarts"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_schedule_over_time_is_that_over_steps(tmp_path: Path, kind: str, warmup: float) -> None:
    """1,000 steps of equal length; the schedule over steps is transformers' own."""
    args = arguments(tmp_path, lr_scheduler_type=kind, warmup_steps=warmup)
    optimizer, expected_optimizer = sgd(), sgd()
    expected = get_scheduler(kind, expected_optimizer, num_warmup_steps=round(1000 * warmup), num_training_steps=1000)
    used = 0.0
    schedule = budget_schedule(args, optimizer, lambda: used)
    for step in range(1, 1000):
        used = step / 1000
        for each in (optimizer, expected_optimizer):
            each.step()
        schedule.step()
        expected.step()
        # A schedule with restarts jumps: on the step after, in rounding.
        if abs(step / 1000 - round(step / 1000, 1)) > 1e-9:
            assert schedule.get_last_lr()[0] == pytest.approx(expected.get_last_lr()[0], abs=1e-5)


def test_warm_up_in_steps_goes_on_top(tmp_path: Path) -> None:
    args = arguments(tmp_path, lr_scheduler_type="linear", warmup_steps=4)
    optimizer = sgd()
    schedule = budget_schedule(args, optimizer, lambda: 0.5)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(5):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_a_schedule_that_goes_by_the_loss_is_refused(tmp_path: Path) -> None:
    args = arguments(tmp_path, lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=1)
    with pytest.raises(UserError, match=r"--lr_scheduler_type: .*does not go by the time; with --max_hours choose"):
        budget_schedule(args, sgd(), lambda: 0.0)


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_budgets(hours: float) -> None:
    with pytest.raises(UserError, match=r"--max_hours: .* is out of range"):
        BudgetOptions(max_hours=hours)


def test_the_budget_ends_the_run_and_outlives_a_restart(tmp_path: Path) -> None:
    time = Time()
    args, flow = arguments(tmp_path), TrainerControl()
    first = RunControl(RunClock(time), max_hours=1.0)
    state = TrainerState(max_steps=10**9)
    first.on_train_begin(args, state, flow)
    time.now += 1800
    first.on_step_end(args, state, flow)
    assert first.progress == 0.5 and not flow.should_training_stop
    kept = first.state()
    first.on_train_end(args, state, flow)
    first.leave_signals()

    time.now += 10**6  # a night without a machine
    second = RunControl(RunClock(time), max_hours=1.0)
    state = TrainerState(global_step=100, max_steps=10**9)
    state.stateful_callbacks = {"RunControl": kept}
    second.on_train_begin(args, state, flow)
    time.now += 1790
    second.on_step_end(args, state, flow)
    assert not flow.should_training_stop
    time.now += 10
    second.on_step_end(args, state, flow)
    assert flow.should_training_stop and flow.should_save and second.stopped_by is None
    second.on_train_end(args, state, flow)
    second.leave_signals()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_run_at_the_end_of_its_step(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    args, flow, state = arguments(tmp_path), TrainerControl(), TrainerState(max_steps=10**9)
    control = RunControl(RunClock(), None)
    control.on_train_begin(args, state, flow)
    try:
        control.on_step_end(args, state, flow)
        assert not flow.should_training_stop
        signal.raise_signal(number)
        assert not flow.should_training_stop
        control.on_step_end(args, state, flow)
        assert flow.should_training_stop and flow.should_save and control.stopped_by == number.name
    finally:
        control.on_train_end(args, state, flow)
        assert signal.getsignal(number) != before  # the last checkpoint may still be written
        control.leave_signals()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("seconds_apart", [0.0, 6.0])
def test_a_signal_that_comes_again_later_is_impatience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_apart: float
) -> None:
    """Within five seconds it is one that a launcher handed on."""
    time = Time()
    monkeypatch.setattr("nlp_adan.training.control.time.monotonic", time)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us behind it
    args, flow, state = arguments(tmp_path), TrainerControl(), TrainerState(max_steps=10)
    control = RunControl(RunClock(), None)
    control.on_train_begin(args, state, flow)
    try:
        signal.raise_signal(signal.SIGINT)
        time.now += seconds_apart
        with contextlib.nullcontext() if seconds_apart < 5 else pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        control.on_train_end(args, state, flow)
        control.leave_signals()
        signal.signal(signal.SIGINT, before)


def test_outside_of_training_a_signal_says_resume_me(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as left, exits_to_be_resumed("the same command"):
        signal.raise_signal(signal.SIGUSR1)
    assert left.value.code == 75 and "stopped by SIGUSR1; go on with the same command" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize(("step", "hours", "stops"), [(9, None, False), (10, None, True), (9, 0.5, True)])
def test_a_run_at_its_end_does_not_train_on(tmp_path: Path, step: int, hours: float | None, stops: bool) -> None:
    flow, state = TrainerControl(), TrainerState(global_step=step, max_steps=10)
    kept = {"args": {}, "attributes": {"trained_seconds": 1800.5, "samples_per_step": 8}}
    state.stateful_callbacks = {"RunControl": kept}
    control = RunControl(RunClock(), hours)
    control.on_train_begin(arguments(tmp_path), state, flow)
    control.on_train_end(arguments(tmp_path), state, flow)
    control.leave_signals()
    assert flow.should_training_stop == stops


def test_a_file_ends_the_run_and_is_gone_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nlp_adan.training.control.STOP_FILE_INTERVAL_SECONDS", 0.0)
    args, flow, state = arguments(tmp_path), TrainerControl(), TrainerState(max_steps=10**9)
    control = RunControl(RunClock(), None, folder=tmp_path)
    control.on_train_begin(args, state, flow)
    try:
        control.on_step_end(args, state, flow)
        assert not flow.should_training_stop
        (tmp_path / "stop").touch()
        control.on_step_end(args, state, flow)
        assert flow.should_training_stop and control.stopped_by == f"the file {tmp_path / 'stop'}"
    finally:
        control.on_train_end(args, state, flow)
        control.leave_signals()
    again = RunControl(RunClock(), None, folder=tmp_path)
    again.on_train_begin(args, state, TrainerControl())
    again.on_train_end(args, state, flow)
    again.leave_signals()
    assert not (tmp_path / "stop").exists()
