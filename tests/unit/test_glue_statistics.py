"""The bootstrap: equal to scoring each resample by itself, as wide as theory says, the same every time, and quick."""

from __future__ import annotations

import math
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glue_eval.metrics import METRICS
from glue_eval.statistics import NUM_RESAMPLES, Interval, _weights, interval, resampled_scores
from glue_eval.tasks import TASKS, Task

CASES = [(TASKS[name], metric) for name in ("MRPC", "CoLA", "MNLI", "STS-B") for metric in TASKS[name].metrics]
THREE_WAY_MATTHEWS = (TASKS["AX"], "matthews")


def draw(task: Task, num_runs: int, num_examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (runs, examples) and labels (examples,), half of them right; scores with many ties."""
    random = np.random.default_rng(seed)
    shape = (num_runs, num_examples)
    if task.labels is None:
        scores = random.integers(0, 11, num_examples) / 2
        return scores + random.integers(-2, 3, shape) / 2, scores
    labels = random.integers(0, len(task.labels), num_examples)
    return np.where(random.random(shape) < 0.5, labels, random.integers(0, len(task.labels), shape)), labels


@settings(max_examples=12, deadline=None)
@given(case=st.sampled_from([*CASES, THREE_WAY_MATTHEWS]), num_examples=st.integers(2, 40), seed=st.integers(0, 99))
def test_equals_the_metric_of_each_resample_drawn_out(case: tuple[Task, str], num_examples: int, seed: int) -> None:
    """The slow twin repeats every example as often as the resample has it, and calls scikit-learn or SciPy."""
    task, metric = case
    predictions, labels = draw(task, 2, num_examples, seed)
    found = resampled_scores(task, metric, "dev", predictions, labels, num_resamples=10)
    kinds, counts = np.unique(np.vstack([labels, predictions]).T, axis=0, return_counts=True)
    (weights,) = _weights(np.random.default_rng(zlib.crc32(f"{task.name}/dev".encode())), counts, 10)
    assert found.shape == (10, 2)
    assert (weights.sum(axis=1) == num_examples).all()
    for row, drawn in zip(found, weights, strict=True):
        examples = np.repeat(kinds, drawn, axis=0)
        kind = float if task.is_regression else int
        expected = [METRICS[metric](examples[:, run].astype(kind), examples[:, 0].astype(kind)) for run in (1, 2)]
        assert row == pytest.approx(expected, abs=1e-9)  # measured: 4e-16


def test_intervals_of_accuracy_are_as_wide_as_the_binomial_says() -> None:
    """1.96 sqrt(p (1 - p) / n): the facts of the development files, RTE +-5.2 at 73 %, MRPC +-3.4 at 86 %."""
    for name, num_examples, share, expected in (("RTE", 277, 0.733, 5.2), ("MRPC", 408, 0.86, 3.4)):
        labels = np.arange(num_examples) % 2
        predictions = np.where(np.arange(num_examples) < share * num_examples, labels, 1 - labels)
        found = interval(resampled_scores(TASKS[name], "accuracy", "dev", predictions[None], labels)[:, 0])
        assert 50 * (found.high - found.low) == pytest.approx(expected, rel=0.1)
        assert found.low < (predictions == labels).mean() < found.high


def test_the_same_every_time_and_for_each_task_its_own() -> None:
    predictions, labels = draw(TASKS["RTE"], 1, 60, 0)
    once, again, other, split = (
        resampled_scores(TASKS[name], "accuracy", split, predictions, labels)
        for name, split in (("RTE", "dev"), ("RTE", "dev"), ("QNLI", "dev"), ("RTE", "dev_matched"))
    )
    assert (once == again).all() and not (once == other).all() and not (once == split).all()


def test_all_runs_are_scored_on_the_same_examples() -> None:
    predictions, labels = draw(TASKS["CoLA"], 1, 80, 1)
    values = resampled_scores(TASKS["CoLA"], "matthews", "dev", np.vstack([predictions, predictions]), labels)
    assert (values[:, 0] == values[:, 1]).all()
    assert values[:, 0].std() > 0.05


@pytest.mark.filterwarnings("error")
def test_constant_and_broken_predictions_score_0_on_every_resample() -> None:
    labels = np.linspace(0, 5, 30)
    for predictions in (np.full(30, 0.1 + 0.2), np.where(labels > 4, math.nan, labels)):
        for metric in ("pearson", "spearman"):
            assert (resampled_scores(TASKS["STS-B"], metric, "dev", predictions[None], labels) == 0).all()
    classes = (labels > 2).astype(int)
    for metric, name in (("matthews", "CoLA"), ("f1", "MRPC")):
        assert (resampled_scores(TASKS[name], metric, "dev", np.zeros((1, 30), dtype=int), classes) == 0).all()


def test_the_interval_holds_the_middle_95_per_cent() -> None:
    found = interval(np.arange(1001.0))
    assert (found.low, found.high) == (pytest.approx(25), pytest.approx(975))
    assert Interval(-0.1, 0.0).contains_zero and not Interval(0.01, 0.2).contains_zero


def test_qqp_with_five_seeds_takes_seconds_at_most() -> None:
    """Measured: 0.11 s of one core's time."""
    predictions, labels = draw(TASKS["QQP"], 5, 40_430, 2)
    seconds = []
    for _ in range(3):
        began = time.process_time()
        assert resampled_scores(TASKS["QQP"], "f1", "dev", predictions, labels).shape == (NUM_RESAMPLES, 5)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 3
