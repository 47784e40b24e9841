"""One run of a race, in a process of its own: a pretraining run, of which the losses and the times are kept."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlp_adan.pretraining.flow import Pretraining, conduct
from nlp_adan.race.results import Point, RunResult, Settings
from nlp_adan.runs.run import RESULT, Advance
from nlp_adan.storage import write_json
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.pretraining import Diverged
from nlp_adan.training.run_folder import RunFolder

RUN = "run"  # in the folder of a run of the race: the pretraining run's own
KEPT = (".jsonl", ".json", ".yaml")  # of that, when it has ended: logs, figures, settings


def open_door(door: str) -> Callable[[Sequence[str]], Pretraining[Any]]:
    """The function `MODULE:NAME`, which makes a pretraining run of its options."""
    module, _, name = door.partition(":")
    function: Callable[[Sequence[str]], Pretraining[Any]] = getattr(importlib.import_module(module), name)
    return function


def race_run(
    folder: Path, advance: Advance, *, door: str, words: list[str], entrant: str, settings: Settings, keep_model: bool
) -> None:
    """Train, and write result.json. Goes on where an earlier attempt was interrupted.

    door: `open_door`. words: the options but for the folder and what concerns resuming.
    """
    quiet_libraries()
    run = RunFolder(folder / RUN)
    family = open_door(door)([*words, "--output_dir", str(run.path), "--resume", "auto", "--disable_tqdm", "true"])
    family.watchers.append(_Watch(advance, family.options.budget.max_hours))
    family.is_described = False  # the race's report is
    diverged = ""
    try:
        conduct(family)
    except Diverged as error:
        diverged = str(error)
    engine = family.options.engine
    result = result_of(
        run,
        loss_name=family.loss_name,
        entrant=entrant,
        settings=settings,
        seed=engine.seed,
        command=tuple(words),
        batch_size=engine.num_sequences_per_step,
        diverged=diverged,
    )
    if not keep_model:
        _remove_models(run.path)
    write_json(folder / RESULT, result.to_json())


def result_of(run: RunFolder, *, loss_name: str, batch_size: int, diverged: str, **known: Any) -> RunResult:
    """What a run's logs say, as far as it came."""
    log, evaluations = run.read("log.jsonl"), run.read("eval.jsonl")
    final = json.loads((run.path / run.last_file).read_text(encoding="utf-8")) if run.finished else {}
    steps = int(final["step"] if final else max((line["step"] for line in log), default=0))
    times = step_times(log, steps)
    losses = {int(line["step"]): line[loss_name] for line in evaluations if loss_name in line}  # repeated: resumed
    curve = tuple(Point(step, round(seconds_at(times, step), 3), _number(loss)) for step, loss in losses.items())
    tokens = int(final.get("trained_tokens", 0))
    last = curve[-1].loss if curve else _number(final.get(loss_name))
    return RunResult(
        batch_size=batch_size,
        steps=steps,
        tokens=tokens,
        loss=math.inf if diverged else last,
        curve=curve,
        step_seconds=statistics.median(line["step_seconds"] for line in log) if log else math.nan,
        seconds=round(seconds_at(times, steps), 3),
        state_bytes=int(final.get("optimizer_state_bytes", 0)),
        diverged=diverged,
        **known,
    )


def step_times(log: Sequence[dict[str, Any]], num_steps: int) -> list[tuple[int, int, float]]:
    """(step before, last step, seconds a step) of each log line: training alone, no evaluations and checkpoints.

    Steps after the last line, where a budget of hours ended, take the median of the others' time.
    """
    steps = [0, *(int(line["step"]) for line in log)]
    times = [
        (before, step, float(line["step_seconds"]))
        for (before, step), line in zip(itertools.pairwise(steps), log, strict=True)
    ]
    if times and steps[-1] < num_steps:
        times.append((steps[-1], num_steps, statistics.median(seconds for _, _, seconds in times)))
    return times


def seconds_at(times: Sequence[tuple[int, int, float]], step: int) -> float:
    """The training time of the first `step` steps; what lies between two log lines is shared evenly."""
    return sum(seconds * max(0, min(step, end) - begin) for begin, end, seconds in times)


def _number(value: Any) -> float:
    """A loss of a log; one that was no number is null there."""
    return math.inf if value is None or not math.isfinite(value) else float(value)


def _remove_models(run: Path) -> None:
    """Leave the logs and the figures, not the weights."""
    with contextlib.suppress(OSError):
        for path in run.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix not in KEPT:
                path.unlink(missing_ok=True)


class _Watch(TrainerCallback):
    """Tells how far the training is: in steps, or in seconds where hours are its budget."""

    def __init__(self, advance: Advance, max_hours: float | None) -> None:
        self.advance = advance
        self.max_seconds = None if max_hours is None else 3600 * max_hours
        self.began = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.max_seconds is None:
            self.advance(state.global_step, state.max_steps)
        else:
            self.advance(time.monotonic() - self.began, self.max_seconds)
