"""`python -m glue_eval ... --dry_run`: what a sweep would do, and how long about; writes nothing.

Except for what the runs will find in the cache: an optimizer's kernel, compiled once, and sample or hub tasks.

The time is an estimate: of each task, some steps are trained and some examples predicted with the model itself, on
examples of the task's own lengths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glue_eval.classifier import MNLI_STARTED, load_classifier, load_config, load_tokenizer, usable_length
from glue_eval.data import Split, read_split
from glue_eval.examples import Examples, Padding, TrainingExamples, tokenize
from glue_eval.finetune import FinetuneSpec, parse_options
from glue_eval.finetune_engine import FinetuneEngine
from glue_eval.keys import is_glues
from glue_eval.options import TaskSettings
from glue_eval.planning import Plan, Workload
from nlp_adan.pretraining.quantities import duration
from nlp_adan.training.environment import JOBS, share_cpu_cores
from nlp_adan.training.grouped_order import GroupedOrder

TIMED_STEPS = 4  # after as many to warm up; together they see each of their examples once
PREDICTED_EXAMPLES = 128
START_SECONDS = 1.0  # of a run, from the fork to its first step


@dataclasses.dataclass(frozen=True)
class Timing:
    """Means of a short trial: seconds of an optimizer step, seconds of predicting an example, tokens of an example."""

    step_seconds: float
    example_seconds: float
    length: float

    def run_seconds(self, workload: Workload) -> float:
        """An estimate of a whole run."""
        return START_SECONDS + workload.steps * self.step_seconds + workload.num_predicted * self.example_seconds


def dry_run(plan: Plan, jobs: int, speaks: bool) -> None:
    """Print the plan; every rank takes part in the trials, the first one speaks."""
    timings = []
    with trial_surroundings(min(jobs, len(plan.runs))):
        for settings, spec in zip(plan.settings, plan.specs, strict=True):
            timings.append(time_task(settings, spec))
    if speaks:
        print("\n".join(plan_lines(plan, timings, jobs)), flush=True)


@contextlib.contextmanager
def trial_surroundings(jobs: int) -> Iterator[None]:
    """A run's share of the cores."""
    before, num_threads = dict(os.environ), torch.get_num_threads()
    os.environ[JOBS] = str(jobs)
    share_cpu_cores()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(num_threads)


class _StepClock(TrainerCallback):
    """The times at which steps ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.times.append(time.monotonic())


def time_task(settings: TaskSettings, spec: FinetuneSpec) -> Timing:
    """Train some steps and predict some examples as a run on the task would."""
    task = settings.task
    with tempfile.TemporaryDirectory() as folder:
        words = [*settings.words, "--max_steps", str(2 * TIMED_STEPS), "--report_to", "none"]
        options = parse_options(words, Path(folder), seed=1)
        tokenizer = load_tokenizer(spec.model)
        max_length = usable_length(task, tokenizer, spec.max_length, load_config(spec.model))
        samples = options.num_sequences_per_step
        train = _examples(_read(settings, spec, "train", TIMED_STEPS * samples), tokenizer, max_length, Path(folder))
        dev_split = _read(settings, spec, task.dev_splits[0].name, PREDICTED_EXAMPLES)
        dev = _examples(dev_split, tokenizer, max_length, Path(folder))
        steps_in_group = TIMED_STEPS if spec.group_by_length else 1
        clock = _StepClock()
        engine = FinetuneEngine(
            task=task,
            model=load_classifier(
                spec.model, task, spec.dropout, spec.mnli_model if is_glues(task, *MNLI_STARTED) else None
            ),
            args=options,
            train_dataset=TrainingExamples(train, GroupedOrder(train.tokens.lengths, 1, samples, steps_in_group)),
            dev=[(dev_split, dev)],
            steps=frozenset({2 * TIMED_STEPS}),
            keeps_best=False,
            callbacks=[clock],
        )
        engine.train()
        engine.logits_of(dev)
        began = time.monotonic()
        engine.logits_of(dev)
        example_seconds = (time.monotonic() - began) / len(dev)
    step_seconds = statistics.fmean(np.diff(clock.times[TIMED_STEPS - 1 :]))
    return Timing(step_seconds, example_seconds, float(train.tokens.lengths.mean()))


def _read(settings: TaskSettings, spec: FinetuneSpec, split: str, most: int) -> Split:
    return read_split(spec.data, settings.task, split, allow_partial=spec.allow_partial, max_examples=most)


def _examples(split: Split, tokenizer: Any, max_length: int, cache: Path) -> Examples:
    labels = np.asarray(split.labels, dtype=np.float32 if split.task.is_regression else np.int64)
    return Examples(tokenize(split, tokenizer, max_length, cache), labels, Padding.of(tokenizer), max_length)


def makespan(seconds: Sequence[float], jobs: int) -> float:
    """How long runs of these lengths take, `jobs` at a time, the longest first."""
    ends = [0.0] * jobs
    for length in sorted(seconds, reverse=True):
        heapq.heappush(ends, heapq.heappop(ends) + length)
    return max(ends)


def plan_lines(plan: Plan, timings: Sequence[Timing], jobs: int) -> list[str]:
    """The plan as text."""
    rows = [("task", "runs", "to do", "examples", "epochs", "steps", "batch", "tokens an example", "a run, about")]
    options: list[tuple[str, ...]] = [
        ("task", "optimizer", "options", "rate", "schedule", "warm-up", "decay", "clip", "dropout", "length")
    ]
    waiting: list[float] = []
    for settings, workload, timing in zip(plan.settings, plan.workloads, timings, strict=True):
        runs = [run for run in plan.runs if run.arguments["task"] == settings.task]
        to_do = [run for run in runs if not run.is_done]
        seconds = timing.run_seconds(workload)
        waiting += [seconds] * len(to_do)
        epochs = workload.steps * workload.batch_size / workload.num_train
        rows.append((
            settings.task.name, str(len(runs)), str(len(to_do)), f"{workload.num_train:,}", f"{epochs:.3g}",
            f"{workload.steps:,}", str(workload.batch_size), f"{timing.length:.0f}", duration(seconds),
        ))  # fmt: skip
        options.append((settings.task.name, *_hyperparameters(settings)))
    start = "the pretrained model"
    if plan.protocol.mnli_model:
        start += f"; {', '.join(MNLI_STARTED)}: {plan.protocol.mnli_model}"
    recipe = plan.protocol.recipe + (f", over it {plan.protocol.config}" if plan.protocol.config else "")
    protocol = plan.protocol
    return [
        *_table(rows, right=range(1, len(rows[0]))),
        "",
        *_table(options, right=()),
        "",
        f"recipe {recipe}; from {start}; reported is the checkpoint of the {protocol.checkpoint} "
        f"{'step' if protocol.checkpoint == 'last' else 'development score'}; batches "
        f"{'grouped by length' if protocol.group_by_length else 'in random order'}",
        f"{len(waiting)} of {len(plan.runs)} runs to do, {jobs} at a time: about "
        f"{duration(makespan(waiting, jobs))}. An estimate, from {TIMED_STEPS} steps of each task timed now; "
        f"nothing was written",
    ]


def _hyperparameters(settings: TaskSettings) -> tuple[str, ...]:
    engine, glue = settings.engine, settings.glue
    warm_up = f"{100 * engine.warmup_steps:g} %" if engine.warmup_steps < 1 else f"{engine.warmup_steps:,.0f} steps"
    return (
        str(getattr(engine.optim, "value", engine.optim)),
        engine.optim_args or "-",
        f"{engine.learning_rate:g}",
        str(engine.lr_scheduler_type.value),
        warm_up,
        f"{engine.weight_decay:g}",
        f"{engine.max_grad_norm:g}",
        "the model's" if glue.dropout is None else f"{glue.dropout:g}",
        str(glue.max_length or settings.task.max_length),
    )


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
