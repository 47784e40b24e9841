"""Metrics against scikit-learn, SciPy and hand-computed values, also as a local module of `evaluate`."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import evaluate
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

import glue_eval.metrics
from glue_eval.glue_scores.glue_scores import task_of
from glue_eval.metrics import main_score, majority_baseline, score
from glue_eval.results import RunResult
from glue_eval.tasks import TASKS

SEEDS = range(20)
MODULE = Path(glue_eval.metrics.__file__).parent / "glue_scores"


@pytest.mark.parametrize("seed", SEEDS)
def test_classification_equals_scikit_learn_on_random_draws(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, 2, size=(2, 50))
    assert score(TASKS["CoLA"], predictions, labels).values == {
        "matthews": pytest.approx(sklearn_metrics.matthews_corrcoef(labels, predictions), abs=0)
    }
    assert score(TASKS["MRPC"], predictions, labels).values == {
        "accuracy": pytest.approx(sklearn_metrics.accuracy_score(labels, predictions), abs=0),
        "f1": pytest.approx(sklearn_metrics.f1_score(labels, predictions), abs=0),
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_regression_equals_scipy_on_random_draws(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.uniform(0, 5, size=40)
    predictions = labels + random.normal(0, 2, size=40)
    assert score(TASKS["STS-B"], predictions, labels).values == {
        "pearson": pytest.approx(stats.pearsonr(labels, predictions).statistic, rel=1e-12),
        "spearman": pytest.approx(stats.spearmanr(labels, predictions).statistic, rel=1e-12),
    }


def test_values_computed_by_hand() -> None:
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
    labels = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    predictions = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    values = score(TASKS["QQP"], predictions, labels).values
    assert values["accuracy"] == pytest.approx(7 / 10)
    assert values["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    expected = (3 * 4 - 1 * 2) / math.sqrt((3 + 1) * (3 + 2) * (4 + 1) * (4 + 2))
    assert score(TASKS["CoLA"], predictions, labels).values["matthews"] == pytest.approx(expected)
    values = score(TASKS["STS-B"], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 8.0]).values
    assert values["spearman"] == pytest.approx(1.0)
    # Deviations -1.5 -0.5 0.5 1.5 and -2.5 -1.5 -0.5 4.5: covariance 11, squares 5 and 29.
    assert values["pearson"] == pytest.approx(11 / math.sqrt(5 * 29))


@pytest.mark.filterwarnings("error")
def test_constant_predictions_are_zero_or_the_majority_and_flagged() -> None:
    labels = [1, 1, 1, 0]
    mrpc = score(TASKS["MRPC"], [1, 1, 1, 1], labels)
    assert mrpc.collapsed
    assert mrpc.values == {"accuracy": 0.75, "f1": pytest.approx(6 / 7)}
    assert score(TASKS["MRPC"], [0, 0, 0, 0], labels).values["f1"] == 0.0
    for answers, truth in (([1, 1, 1, 1], labels), ([1, 1, 1, 1], [1, 1, 1, 1]), (labels, [0, 0, 0, 0])):
        assert score(TASKS["CoLA"], answers, truth).values == {"matthews": 0.0}
    assert not score(TASKS["CoLA"], [1, 1, 1, 0], labels).collapsed
    scores = [0.0, 1.0, 4.0, 5.0]
    for predictions in ([2.5] * 4, [math.nan, 1.0, 2.0, 3.0], [math.inf, 1.0, 2.0, 3.0]):
        constant = score(TASKS["STS-B"], predictions, scores)
        assert (constant.collapsed, constant.values) == (True, {"pearson": 0.0, "spearman": 0.0})


def test_regression_that_barely_moves_is_flagged_but_scored() -> None:
    barely = score(TASKS["STS-B"], [2.50, 2.51, 2.52, 2.54], [0.0, 1.0, 4.0, 5.0])
    assert barely.collapsed
    assert barely.values["spearman"] == pytest.approx(1.0)
    assert not score(TASKS["STS-B"], [2.4, 2.5, 2.5, 2.6], [0.0, 1.0, 4.0, 5.0]).collapsed


def test_arrays_that_do_not_match_are_refused() -> None:
    for predictions, labels in (([1], [1, 0]), ([], []), ([[1]], [[1]])):
        with pytest.raises(ValueError, match="do not match"):
            score(TASKS["RTE"], predictions, labels)


def test_majority_baseline_answers_the_commonest_label() -> None:
    assert majority_baseline(TASKS["MRPC"], [1, 1, 0]) == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}
    assert majority_baseline(TASKS["CoLA"], [1, 1, 0]) == {"matthews": 0.0}
    assert majority_baseline(TASKS["MNLI"], [0, 2, 2, 1]) == {"accuracy": 0.5}
    assert majority_baseline(TASKS["STS-B"], [0.0, 5.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_scores_of_several_dev_files_keep_apart() -> None:
    task = TASKS["MNLI"]
    assert task.name_scores("dev_mismatched", {"accuracy": 0.5}) == {"accuracy_mismatched": 0.5}
    assert TASKS["MRPC"].name_scores("dev", {"accuracy": 0.5, "f1": 0.6}) == {"accuracy": 0.5, "f1": 0.6}


def test_the_main_score_is_the_mean_over_a_tasks_scores() -> None:
    assert main_score(TASKS["MRPC"], {"accuracy": 0.8, "f1": 0.9}) == pytest.approx(0.85)
    assert main_score(TASKS["MNLI"], {"accuracy_matched": 0.8, "accuracy_mismatched": 0.6}) == pytest.approx(0.7)
    with pytest.raises(KeyError, match="f1"):
        main_score(TASKS["MRPC"], {"accuracy": 0.8})


Load = Callable[[str], Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """`evaluate.load` of our module, where no connection can be made and the user's own cache is left alone."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield lambda config: evaluate.load(str(MODULE), config, cache_dir=str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        del sys.modules[name]


CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
NUMBERS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=40)
ONCE_LOADED = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the metric keeps nothing between two calls


def test_the_module_of_evaluate_equals_scikit_learn_offline(load: Load) -> None:
    cola, mrpc = load("cola"), load("mrpc")

    @ONCE_LOADED
    @given(pairs=CLASSES)
    def check(pairs: list[tuple[int, int]]) -> None:
        labels, predictions = (list(column) for column in zip(*pairs, strict=True))
        found = mrpc.compute(predictions=predictions, references=labels)
        assert found["accuracy"] == sklearn_metrics.accuracy_score(labels, predictions)
        assert found["f1"] == sklearn_metrics.f1_score(labels, predictions, zero_division=0.0)
        assert found["collapsed"] == (len(set(predictions)) == 1)
        matthews = cola.compute(predictions=predictions, references=labels)["matthews"]
        expected = (
            sklearn_metrics.matthews_corrcoef(np.array(labels), np.array(predictions)) if len(set(labels)) > 1 else 0
        )
        assert matthews == expected

    check()


def test_the_module_of_evaluate_equals_scipy_offline(load: Load) -> None:
    stsb = load("stsb")

    @ONCE_LOADED
    @given(pairs=NUMBERS)
    def check(pairs: list[tuple[int, int]]) -> None:
        labels, predictions = ([value / 10 for value in column] for column in zip(*pairs, strict=True))
        found = stsb.compute(predictions=predictions, references=labels)
        assert found["collapsed"] == (max(predictions) - min(predictions) < 0.05)
        if len(set(labels)) == 1 or len(set(predictions)) == 1:
            assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
        else:
            assert found["pearson"] == pytest.approx(stats.pearsonr(labels, predictions).statistic, abs=1e-12)
            assert found["spearman"] == pytest.approx(stats.spearmanr(labels, predictions).statistic, abs=1e-12)

    check()
    broken = stsb.compute(predictions=[math.nan, 1.0, 2.0], references=[0.0, 1.0, 2.0])
    assert broken == {"pearson": 0.0, "spearman": 0.0, "collapsed": True}


def test_the_module_of_evaluate_takes_the_hubs_names_and_glues() -> None:
    names = {"cola": "CoLA", "sst2": "SST-2", "SST-2": "SST-2", "stsb": "STS-B", "mnli_mismatched": "MNLI", "ax": "AX"}
    assert {name: task_of(name).name for name in names} == names
    with pytest.raises(ValueError, match=r"no task 'QNLY' \(did you mean 'QNLI'\?\)"):
        task_of("QNLY")


def test_run_results_survive_json() -> None:
    result = RunResult("RTE", 3, {"accuracy": 0.5}, True, 10, 5, 7, 1e-4, "adan", 16, train_loss=math.nan)
    kept = result.to_json()
    assert kept["train_loss"] is None
    assert RunResult.from_json(kept).to_json() == kept
    assert RunResult.from_json(kept).scores == result.scores
    with pytest.raises(ValueError, match=r"unknown members.*accuracy"):
        RunResult.from_json({**kept, "accuracy": 1})
    del kept["seed"]
    with pytest.raises(ValueError, match=r"missing members.*seed"):
        RunResult.from_json(kept)
