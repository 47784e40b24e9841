"""A sweep's folder as `python -m glue_eval` leaves it, without the training: plan, results and predictions."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glue_eval.protocol import Protocol
from glue_eval.results import RunResult
from glue_eval.submission_parts import Part, make_parts, read_sweep
from glue_eval.tasks import TASKS, Task


def write_predictions(path: Path, predictions: Sequence[Any], first: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = ({"id": str(first + row), "prediction": value, "logits": [0.0]} for row, value in enumerate(predictions))
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def draw(task: Task, count: int, seed: int) -> list[Any]:
    """Predictions of a model: labels, or scores that leave the range at both ends."""
    numbers = random.Random(seed)
    if task.labels is None:
        return [numbers.uniform(-1, 6) for _ in range(count)]
    return numbers.choices(task.labels, k=count)


class SweepFolder:
    """A sweep's folder as the command leaves it, with runs whose dev scores and predictions are given."""

    def __init__(self, folder: Path, *, is_sample: bool = False, tasks: Sequence[Task] | None = None) -> None:
        self.folder = folder
        self.runs: list[dict[str, Any]] = []
        chosen = tuple(task for task in TASKS.values() if task.is_trainable) if tasks is None else tuple(tasks)
        data = "sample" if is_sample else "glue"
        self.protocol = Protocol("model", data, chosen, "adan", seeds=(1, 2), is_sample=is_sample)

    def plan(self, name: str, seed: int) -> Path:
        """A run without a result."""
        folder = f"{name}/seed-{seed}-0a1b"
        self.runs.append({"task": name, "seed": seed, "folder": folder})
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = {"protocol": self.protocol.to_json(), "runs": self.runs}
        (self.folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        return self.folder / folder

    def add(
        self, name: str, seed: int, score: float = 0.5, splits: Mapping[str, int] | None = None, **changes: Any
    ) -> Path:
        """A finished run with that score everywhere; it predicted the splits given with so many examples."""
        task = TASKS[name]
        if splits is None:
            splits = {split.name: split.num_examples for split in task.test_splits}
        folder = self.plan(name, seed)
        for split, count in splits.items():
            write_predictions(folder / "predictions" / f"{split}.jsonl", draw(task, count, seed))
        counts = (task.split("train").num_examples, sum(split.num_examples for split in task.dev_splits))
        result = RunResult(
            name, seed, dict.fromkeys(task.score_names, score), False, *counts, 1, 1e-3, "adan", 8,
            predictions=list(splits),
        )  # fmt: skip
        dataclasses.replace(result, **changes).save(folder / "result.json")
        return folder

    def parts(self, seed: int | None = None) -> dict[str, Part]:
        return {part.name: part for part in make_parts(read_sweep(self.folder), seed)}
