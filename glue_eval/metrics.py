"""The metrics of GLUE on NumPy arrays, by scikit-learn and SciPy.

Every value is a fraction: accuracy and F1 lie in [0, 1], the correlations in [-1, 1]. Nothing here multiplies by 100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn import metrics as sklearn_metrics

from glue_eval.tasks import Task

Array = NDArray[Any]

# A regression model whose predictions spread over less than this share of the score range has learnt only the mean.
COLLAPSED_SPREAD = 0.01


@dataclass(frozen=True)
class Scores:
    """Metric values by name, as fractions, and whether the predictions say nothing.

    `collapsed`: every prediction is the same class; for regression, they spread over less than 1 % of the score range
    or are not finite. Such values pass for results (MRPC 0.684 accuracy, 0.812 F1) and have to be marked.
    """

    values: dict[str, float]
    collapsed: bool


def accuracy(predictions: Array, labels: Array) -> float:
    """Share of equal class numbers; both (num_examples,) int."""
    return float(sklearn_metrics.accuracy_score(labels, predictions))


def f1(predictions: Array, labels: Array) -> float:
    """F1 of class 1; both (num_examples,) int. 0.0 where neither predictions nor labels hold a 1."""
    return float(sklearn_metrics.f1_score(labels, predictions, pos_label=1, zero_division=0.0))


def matthews(predictions: Array, labels: Array) -> float:
    """Matthews correlation, of any number of classes; both (num_examples,) int. 0.0 where either is constant."""
    if (predictions == predictions[0]).all() or (labels == labels[0]).all():
        return 0.0  # scikit-learn's value too, but it may warn
    return float(sklearn_metrics.matthews_corrcoef(labels, predictions))


def pearson(predictions: Array, labels: Array) -> float:
    """Pearson correlation; both (num_examples,) float. 0.0, not NaN, where either is constant or not finite."""
    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: Array, labels: Array) -> float:
    """Spearman rank correlation; both (num_examples,) float. 0.0, not NaN, where either is constant or not finite."""
    return _correlation(stats.spearmanr, predictions, labels)


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
"""The metric functions by the names that `glue_eval.tasks` uses."""


def score(task: Task, predictions: ArrayLike, labels: ArrayLike) -> Scores:
    """Score the predictions of one split.

    Args:
        task: Says which metrics to compute.
        predictions: (num_examples,) class numbers, or scores for a regression task.
        labels: (num_examples,) of the same kind.

    Returns:
        The task's metrics by name, as fractions, and the mark of collapsed predictions.

    Raises:
        ValueError: The arrays are empty, differ in length or have more than one axis.
    """
    kind = np.float64 if task.is_regression else np.int64
    predicted = np.asarray(predictions, dtype=kind)
    expected = np.asarray(labels, dtype=kind)
    if predicted.ndim != 1 or predicted.shape != expected.shape or not len(predicted):
        raise ValueError(f"{task.name}: predictions {predicted.shape} and labels {expected.shape} do not match")
    values = {name: METRICS[name](predicted, expected) for name in task.metrics}
    return Scores(values, _is_collapsed(task, predicted))


def majority_baseline(task: Task, labels: ArrayLike) -> dict[str, float]:
    """What always answering the commonest of `labels` scores on them, by metric; a constant score for regression.

    `labels`: (num_examples,) class numbers or scores of the split that the runs are scored on.
    """
    expected = np.asarray(labels)
    if task.is_regression:
        return score(task, np.full(len(expected), expected.mean()), expected).values
    commonest = np.bincount(expected.astype(np.int64)).argmax()
    return score(task, np.full(len(expected), commonest), expected).values


def main_score(task: Task, values: Mapping[str, float]) -> float:
    """One number for a task, by the leaderboard's convention: the mean over its metrics, and over MNLI's two files.

    Args:
        task: The task.
        values: By `Task.score_names`, in any one unit; the metrics' own names will do for a task with one dev file.

    Raises:
        KeyError: A score of the task is missing.
    """
    return sum(values[name] for name in task.score_names) / len(task.score_names)


def _correlation(function: Callable[[Array, Array], object], predictions: Array, labels: Array) -> float:
    # Below two distinct values a correlation is not defined: SciPy warns and returns NaN, which breaks every average.
    if len(predictions) < 2 or not (np.isfinite(predictions).all() and np.isfinite(labels).all()):
        return 0.0
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    value = float(function(predictions, labels).statistic)  # type: ignore[attr-defined]
    return value if np.isfinite(value) else 0.0


def _is_collapsed(task: Task, predictions: Array) -> bool:
    if not task.is_regression:
        return bool((predictions == predictions[0]).all())
    if not np.isfinite(predictions).all():
        return True
    low, high = task.score_range or (0.0, 1.0)
    return float(np.ptp(predictions)) < COLLAPSED_SPREAD * (high - low)
