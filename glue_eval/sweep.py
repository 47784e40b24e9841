"""All tasks with all seeds, one run after the other in one process, each run's result kept as soon as it is there."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glue_eval.data import read_split
from glue_eval.finetune import finetune, usable_length
from glue_eval.results import RunResult
from glue_eval.tasks import Task
from nlp_adan.training.engine import EngineOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run to do: `options()` makes the hyperparameters, with the run's own folder in `output_dir`."""

    task: Task
    seed: int
    folder: Path
    options: Callable[[], EngineOptions]


def check_data(data: Path, tasks: list[Task]) -> None:
    """Read every file that the runs will read, so that a bad one is told before the first of them starts."""
    for task in tasks:
        for split in ("train", *(dev.name for dev in task.dev_splits)):
            read_split(data, task, split)


def run_plans(
    plans: list[Plan], model: str, data: Path, tokenizer: Any, max_length: int | None, speak: bool
) -> Iterator[RunResult]:
    """The result of each plan, in order: the one kept from an interrupted call, or that of a run done now."""
    began, num_done = time.monotonic(), 0
    for number, plan in enumerate(plans, 1):
        kept = plan.folder / "result.json"
        if kept.is_file():
            yield RunResult.from_json(json.loads(kept.read_text(encoding="utf-8")))
            continue
        length = usable_length(plan.task, tokenizer, max_length)
        options = plan.options()
        result = finetune(model, plan.task, data, options, tokenizer, length)
        num_done += 1
        if options.process_index == 0:
            result.save(kept)
        if speak:
            scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
            left = (time.monotonic() - began) / num_done * (len(plans) - number)
            more = f"; about {left:.0f} s left" if number < len(plans) else ""
            print(f"[{number}/{len(plans)}] {plan.task.name} seed {plan.seed}: {scores} ({result.seconds:.0f} s{more})",
                  flush=True)  # fmt: skip
        yield result
