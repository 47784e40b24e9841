"""How much a score owes to the development examples: the bootstrap over them, while the runs stay as they are.

A resample draws as many examples as there are, with replacement, the same ones for every run. Two examples that have
the same label and the same predictions are interchangeable, so that only the numbers of each kind are drawn (a
multinomial), and class metrics follow from confusion counts: the 40,430 examples of QQP cost no more than RTE's 277.

Shape legend: N examples, K kinds of them, R resamples, M runs, C classes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glue_eval.tasks import Task

Array = NDArray[Any]

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
CHUNK_CELLS = 1 << 22  # of a resample-by-kind array: 32 MiB


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of a score's values over resamples, as fractions."""

    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether 0 lies between the ends, or is one of them."""
        return self.low <= 0.0 <= self.high

    def to_json(self) -> dict[str, float]:
        """A JSON object with `low` and `high`."""
        return {"low": self.low, "high": self.high}


def interval(values: Array) -> Interval:
    """The percentile interval of values over resamples; values: (R,) float64."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def resampled_scores(
    task: Task, metric: str, split: str, predictions: Array, labels: Array, num_resamples: int = NUM_RESAMPLES
) -> Array:
    """A metric of every run on every resample of a split's examples.

    Args:
        task: what the predictions are of; `metric` is one of its metrics.
        split: the name of the development file. With the task's name it determines the resamples.
        predictions: (M, N) class numbers or scores.
        labels: (N,) class numbers or scores.

    Returns:
        (R, M) float64; 0 where the metric is not defined, as in `glue_eval.metrics`.
    """
    random = np.random.default_rng(zlib.crc32(f"{task.name}/{split}".encode()))
    kinds_KM, counts_K = np.unique(np.vstack([labels, predictions]).T, axis=0, return_counts=True)
    function = _correlation if task.is_regression else _class_metric
    chunks = [
        function(task, metric, weights_RK, kinds_KM[:, 1:], kinds_KM[:, 0])
        for weights_RK in _weights(random, counts_K, num_resamples)
    ]
    return np.concatenate(chunks)


def _weights(random: np.random.Generator, counts_K: Array, num_resamples: int) -> Iterator[Array]:
    """How often each kind of example is in each resample: (R, K) int64, some resamples at a time."""
    num_examples = int(counts_K.sum())
    at_once = max(1, CHUNK_CELLS // len(counts_K))
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        yield random.multinomial(num_examples, counts_K / num_examples, size=size)


def _class_metric(task: Task, metric: str, weights_RK: Array, predictions_KM: Array, labels_K: Array) -> Array:
    assert task.labels is not None
    num_classes, num_kinds = len(task.labels), len(labels_K)
    function = CLASS_METRICS[metric]
    columns = []
    for predictions_K in predictions_KM.T:
        cells = (labels_K * num_classes + predictions_K).astype(np.int64)
        places = np.zeros((num_kinds, num_classes**2))
        places[np.arange(num_kinds), cells] = 1.0
        columns.append(function((weights_RK @ places).reshape(-1, num_classes, num_classes)))
    return np.stack(columns, axis=1)


def _accuracy(confusion_RCC: Array) -> Array:
    """Confusion counts: axis 1 is the label, axis 2 the prediction."""
    return confusion_RCC.trace(axis1=1, axis2=2) / confusion_RCC.sum(axis=(1, 2))


def _f1(confusion_RCC: Array) -> Array:
    """2 TP / (2 TP + FP + FN) of class 1."""
    true_positives = confusion_RCC[:, 1, 1]
    return _ratio(2 * true_positives, confusion_RCC[:, 1].sum(axis=1) + confusion_RCC[:, :, 1].sum(axis=1))


def _matthews(confusion_RCC: Array) -> Array:
    """Gorodkin 2004: with t and p the counts of each class as label and as prediction, c those that agree, n all,
    (c n - t.p) / sqrt((n^2 - p.p) (n^2 - t.t)).
    """
    labels_RC, predictions_RC = confusion_RCC.sum(axis=2), confusion_RCC.sum(axis=1)
    num_examples = labels_RC.sum(axis=1)
    covariance = confusion_RCC.trace(axis1=1, axis2=2) * num_examples - (labels_RC * predictions_RC).sum(axis=1)
    spreads = [num_examples**2 - (counts**2).sum(axis=1) for counts in (predictions_RC, labels_RC)]
    return _ratio(covariance, np.sqrt(spreads[0] * spreads[1]))


CLASS_METRICS: dict[str, Callable[[Array], Array]] = {"accuracy": _accuracy, "f1": _f1, "matthews": _matthews}


def _correlation(task: Task, metric: str, weights_RK: Array, predictions_KM: Array, labels_K: Array) -> Array:
    """Pearson's correlation of the values, or for Spearman's that of their ranks within each resample."""
    values = _centered_ranks if metric == "spearman" else _centered
    weights = weights_RK.astype(np.float64)
    labels_RK = values(weights, labels_K)
    spread_of_labels = _moment(weights, labels_RK, labels_RK)
    columns = []
    for predictions_K in predictions_KM.T:
        if not np.isfinite(predictions_K).all():
            columns.append(np.zeros(len(weights)))
            continue
        found_RK = values(weights, predictions_K)
        spread = _moment(weights, found_RK, found_RK)
        covariance = _moment(weights, found_RK, labels_RK)
        columns.append(_ratio(covariance, np.sqrt(spread * spread_of_labels)))
    return np.stack(columns, axis=1)


def _moment(weights_RK: Array, first: Array, second: Array) -> Array:
    """The weighted sum of products; each of first and second: (R, K), centered."""
    return np.einsum("rk,rk,rk->r", weights_RK, first, second)


def _centered(weights_RK: Array, values_K: Array) -> Array:
    """The values less their weighted mean, (R, K); 0, without rounding errors, where a resample has one value only."""
    moved_K = values_K - values_K[0]
    centered_RK = moved_K - (weights_RK @ moved_K / weights_RK.sum(axis=1))[:, None]
    centered_RK[np.abs(centered_RK) < 1e-12 * np.abs(moved_K).max()] = 0.0
    return centered_RK


def _centered_ranks(weights_RK: Array, values_K: Array) -> Array:
    """Ranks within the resample, ties sharing their mean, less the mean rank, (R, K); G distinct values.

    A value that w examples have and b examples are below has the rank b + (w + 1) / 2; the mean rank is (n + 1) / 2.
    """
    order_K = np.argsort(values_K, kind="stable")
    sorted_K = values_K[order_K]
    is_new_K = np.concatenate([[True], sorted_K[1:] != sorted_K[:-1]])
    sizes_RG = np.add.reduceat(weights_RK[:, order_K], np.flatnonzero(is_new_K), axis=1)
    ranks_RG = sizes_RG.cumsum(axis=1) - sizes_RG / 2 - sizes_RG.sum(axis=1, keepdims=True) / 2
    ranks_RK = np.empty_like(weights_RK)
    ranks_RK[:, order_K] = ranks_RG[:, is_new_K.cumsum() - 1]
    return ranks_RK


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Elementwise division, 0 where the denominator is 0."""
    found: Array = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
    return found
