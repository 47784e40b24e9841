"""What several runs predicted for the same development examples, as arrays; files as in `glue_eval/results.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glue_eval.metrics import score
from glue_eval.predictions import read_predictions
from glue_eval.recorded import read_result
from glue_eval.results import PREDICTIONS, RunResult
from glue_eval.tasks import SplitFile, Task
from nlp_adan.errors import UserError
from nlp_adan.runs.run import RESULT

SCORE_TOLERANCE = 1e-4  # scores of regression tasks were computed in float32


@dataclass(frozen=True)
class Development:
    """Predictions of several runs for one labelled file; N examples, M runs.

    ids: N strings. labels: (N,) and predictions: (M, N), class numbers as int64, or scores as float64.
    """

    ids: tuple[str, ...]
    labels: NDArray[Any]
    predictions: NDArray[Any]


def find_run_folder(folder: Path, result: RunResult) -> Path | None:
    """The folder of a run in the folder of its report, `TASK/seed-SEED-...`, known by the key in its result.json.

    Raises:
        UserError: A result of that task and seed is damaged.
    """
    for path in sorted((folder / result.task).glob(f"seed-{result.seed}*/{RESULT}")):
        found = read_result(path)
        if (found.seed, found.key) == (result.seed, result.key):
            return path.parent
    return None


def read_development(task: Task, split: str, folders: Sequence[Path]) -> Development | None:
    """What several runs of a task predicted for one of its development files; None where one has no such file.

    Args:
        folders: those of the runs, at least one.

    Raises:
        UserError: A file is damaged, or two runs predicted other examples. Names file, line and remedy.
    """
    paths = [folder / PREDICTIONS / f"{split}.jsonl" for folder in folders]
    if not all(path.is_file() for path in paths):
        return None
    found = [_columns(task, path) for path in paths]
    ids, labels, _ = found[0]
    for path, (other_ids, other_labels, _) in zip(paths, found, strict=True):
        if other_ids != ids or other_labels != labels:
            raise UserError(
                f"{path}: not the examples or not the labels of {paths[0]}: remove one run's folder and repeat it"
            )
    numbers = np.float64 if task.is_regression else np.int64
    predictions = np.array([run for _, _, run in found], dtype=numbers)
    return Development(tuple(ids), np.array(labels, dtype=numbers), predictions)


def check_scores(
    task: Task, split: SplitFile, runs: Sequence[RunResult], folders: Sequence[Path], kept: Development
) -> None:
    """See that the scores of results are those of the predictions beside them.

    runs, folders: in the order of the rows of `kept.predictions`.

    Raises:
        UserError: One is not: an interval would not belong to the score that it stands beside.
    """
    for run, folder, predictions in zip(runs, folders, kept.predictions, strict=True):
        for metric, found in score(task, predictions, kept.labels).values.items():
            name = task.score_name(split, metric)
            recorded = run.scores.get(name, found)
            if abs(found - (recorded if math.isfinite(recorded) else 0.0)) > SCORE_TOLERANCE:
                raise UserError(
                    f"{folder / RESULT}: {name} {recorded:.4f}, but {PREDICTIONS}/{split.name}.jsonl scores "
                    f"{found:.4f}: one of the files was changed; remove the run's folder and repeat it"
                )


def _columns(task: Task, path: Path) -> tuple[list[str], list[float], list[float]]:
    """Ids, labels and predictions of one run, in file order."""
    examples = read_predictions(path)
    for line, example in enumerate(examples, 1):
        try:
            example["prediction"] = _number(task, example["prediction"])
            example["label"] = _number(task, example["label"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{line}: not an answer to {task.name} ({type(error).__name__}: {error}): "
                f"remove the run's folder {path.parent.parent} and repeat it"
            ) from error
    ids, labels, predictions = ([example[name] for example in examples] for name in ("id", "label", "prediction"))
    return [str(number) for number in ids], labels, predictions


def _number(task: Task, value: Any) -> float:
    """A class's number, or a score; null, which was no number, is NaN."""
    if task.labels is not None:
        return task.labels.index(value)
    return float("nan") if value is None else float(value)
