"""Folders of fine-tuning runs that never ran: results, predictions and plan as a sweep leaves them, drawn at random."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glue_eval.metrics import majority_baseline, score
from glue_eval.protocol import Protocol
from glue_eval.results import PREDICTIONS, CurvePoint, RunResult
from glue_eval.tasks import TASKS, TRAINABLE_TASKS, SplitFile, Task

DEFAULT_SKILL = 0.8  # the share of examples whose label a run knows; it guesses the others
ENVIRONMENT = {"date": "2024-01-02T03:04:05+00:00", "command": "python -m glue_eval --jobs 2", "jobs": 2}


def run_of(
    task: str, seed: int, scores: dict[str, float] | float, collapsed: bool = False, **changes: Any
) -> RunResult:
    """A finished run on all examples; every score's baseline is 0.5, a correlation's 0. One number is every score's."""
    correlations = ("matthews", "pearson", "spearman")
    values = scores if isinstance(scores, dict) else dict.fromkeys(TASKS[task].score_names, scores)
    counts = {split.name: split.num_examples for split in TASKS[task].splits} if task in TASKS else {}
    fields: dict[str, Any] = {
        "task": task,
        "seed": seed,
        "scores": values,
        "collapsed": collapsed,
        "num_train": counts.get("train", 100),
        "num_dev": sum(count for name, count in counts.items() if name.startswith("dev")) or 50,
        "steps": 30,
        "timing": {"seconds": 1.5},
        "learning_rate": 2e-3,
        "optimizer": "adan",
        "batch_size": 32,
        "epochs": 10.0,
        "max_length": 128,
        "baseline": {name: 0.0 if name in correlations else 0.5 for name in values},
        "settings": {"weight_decay": 0.02},
    }
    return RunResult(**{**fields, **changes})


def protocol_of(tasks: Sequence[Task] = TRAINABLE_TASKS, **changes: Any) -> Protocol:
    """A protocol with fixed surroundings."""
    fields: dict[str, Any] = {
        "model": "runs/tiny",
        "data": "data/glue",
        "tasks": tuple(tasks),
        "recipe": "small-adan",
        "seeds": (1, 2, 3),
        "environment": ENVIRONMENT,
    }
    return Protocol(**{**fields, **changes})


def write_sweep(
    folder: Path,
    protocol: Protocol,
    *,
    num_dev: int = 200,
    skill: Mapping[str, float] | float = DEFAULT_SKILL,
    failed: Mapping[tuple[str, int], str] | None = None,
    collapsed: Sequence[tuple[str, int]] = (),
    seconds: float = 60.0,
    **changes: Any,
) -> list[RunResult]:
    """Write the folder of a sweep: plan.json, and for each run its result and predictions; returns the results.

    The examples and labels of a task are the same in every sweep; predictions follow from protocol, task and seed.

    Args:
        num_dev: examples predicted of each development file; the results tell of whole files.
        skill: for all tasks, or by name.
        failed: (task, seed) of runs that leave failed.json with that error, or nothing where it is empty.
        collapsed: (task, seed) of runs that always give the first answer.
        seconds: the timing of each run.
        changes: fields of every result.
    """
    runs, results = [], []
    for task in protocol.tasks:
        level = skill if isinstance(skill, float) else skill.get(task.name, DEFAULT_SKILL)
        for seed in protocol.seeds:
            path = folder / task.name / f"seed-{seed}-{zlib.crc32(protocol.recipe.encode()):08x}"
            runs.append({"task": task.name, "seed": seed, "folder": str(path.relative_to(folder))})
            path.mkdir(parents=True)
            if failed and (task.name, seed) in failed:
                if error := failed[task.name, seed]:
                    (path / "failed.json").write_text(json.dumps({"error": error, "attempts": 1}))
                continue
            result = _write_run(path, task, seed, protocol, num_dev, level, (task.name, seed) in collapsed)
            result = dataclasses.replace(result, timing={"seconds": seconds, "tokens_per_second": 9e4 / seconds,
                                                         "peak_memory_bytes": 3e8}, **changes)  # fmt: skip
            result.save(path / "result.json")
            results.append(result)
    (folder / "plan.json").write_text(json.dumps({"protocol": protocol.to_json(), "runs": runs}))
    return results


def _write_run(
    folder: Path, task: Task, seed: int, protocol: Protocol, num_dev: int, skill: float, collapsed: bool
) -> RunResult:
    scores: dict[str, float] = {}
    baseline: dict[str, float] = {}
    random = np.random.default_rng(zlib.crc32(f"{protocol.model}/{protocol.recipe}/{task.name}/{seed}".encode()))
    (folder / PREDICTIONS).mkdir()
    for split in task.dev_splits:
        labels = _labels(task, split, num_dev)
        guesses = random.permutation(labels)
        predictions = np.where(random.random(num_dev) < skill + random.uniform(-0.05, 0.05), labels, guesses)
        if collapsed:
            predictions = np.full_like(labels, labels[0])
        scores |= task.name_scores(split.name, score(task, predictions, labels).values)
        baseline |= task.name_scores(split.name, majority_baseline(task, labels))
        lines = [
            json.dumps({"id": str(number), "label": _name(task, label), "prediction": _name(task, found), "logits": []})
            for number, (label, found) in enumerate(zip(labels, predictions, strict=True))
        ]
        (folder / PREDICTIONS / f"{split.name}.jsonl").write_text("\n".join(lines) + "\n")
    curve = [
        CurvePoint(10 * epoch, float(epoch), {name: value * (1 - 0.6**epoch) for name, value in scores.items()},
                   0.2 + 0.5**epoch)
        for epoch in range(1, 7)
    ]  # fmt: skip
    return run_of(task.name, seed, scores, collapsed, baseline=baseline, curve=curve, tokens=90_000, padding=9_000,
                  predictions=[split.name for split in task.dev_splits],
                  key=folder.name.rpartition("-")[2] * 8, max_length=task.max_length)  # fmt: skip


def _labels(task: Task, split: SplitFile, num_dev: int) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(f"{task.name}/{split.name}".encode()))
    if task.labels is None:
        return random.integers(0, 26, size=num_dev) / 5
    return random.choice(
        len(task.labels), size=num_dev, p=[0.6, *[0.4 / (len(task.labels) - 1)] * (len(task.labels) - 1)]
    )


def _name(task: Task, value: float) -> str | float:
    return float(value) if task.labels is None else task.labels[int(value)]
