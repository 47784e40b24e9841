"""What a report says of a set of runs: statistics over seeds, intervals over examples, averages by name."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from glue_eval.averages import RULES
from glue_eval.development import find_run_folder, read_development
from glue_eval.protocol import Protocol, task_to_json
from glue_eval.summary import averages, summarize
from glue_eval.tasks import TASKS, TRAINABLE_TASKS, Task
from nlp_adan.errors import UserError
from tests.unit.glue_runs import protocol_of, run_of, write_sweep

OWN = dataclasses.replace(TASKS["RTE"], name="mine", labels=("yes", "no"), definition=Path("tasks/mine.yaml"))


def all_runs(value: float = 0.6) -> list:
    return [run_of(task.name, 1, value) for task in TRAINABLE_TASKS]


def test_each_score_is_the_median_over_seeds() -> None:
    runs = [run_of("MRPC", seed, {"accuracy": value, "f1": 0.7}) for seed, value in ((3, 0.9), (1, 0.5), (2, 0.6))]
    (summary,) = summarize(runs, protocol_of())
    accuracy, f1 = summary.scores
    assert [run.seed for run in summary.runs] == [1, 2, 3]
    assert (accuracy.values, accuracy.median, accuracy.best) == ((0.5, 0.6, 0.9), 0.6, 0.9)
    assert accuracy.mean == pytest.approx(2 / 3)
    # Deviations from 2/3: -1/6, -1/15, 7/30; their squares sum to 0.08667, halved and rooted 0.2082.
    assert accuracy.deviation == pytest.approx(0.2082, abs=1e-4)
    assert (f1.deviation, accuracy.baseline, accuracy.interval) == (0.0, 0.5, None)
    (single,) = summarize(runs[:1], protocol_of())
    assert single.scores[0].deviation is None


def test_a_score_that_is_no_number_is_a_collapsed_0() -> None:
    runs = [run_of("CoLA", seed, {"matthews": value}) for seed, value in ((1, math.nan), (2, 0.5), (3, 0.4))]
    (summary,) = summarize(runs, protocol_of())
    assert (summary.scores[0].values, summary.medians, summary.collapsed_seeds) == (
        (0.0, 0.5, 0.4),
        {"matthews": 0.4},
        (1,),
    )


def test_published_averages_take_whole_glue_tasks() -> None:
    runs = all_runs()
    runs[0] = run_of("CoLA", 1, {"matthews": 0.06})
    protocol = protocol_of()
    found = averages(summarize(runs, protocol))
    assert [mean.name for mean in found] == [rule.name for rule in RULES]
    assert (found[0].name, found[0].value) == ("official average", pytest.approx((8 * 0.6 + 0.06) / 9))
    assert found[0].baseline == pytest.approx(7 * 0.5 / 9)
    (part,) = averages(summarize(runs[:3], protocol))
    assert part.name == "mean over the 3 tasks run"
    assert part.value == pytest.approx((0.06 + 0.6 + 0.6) / 3)
    without_wnli = averages(summarize(runs[:-1], protocol))
    assert [mean.name for mean in without_wnli] == [*(rule.name for rule in RULES[1:]), "mean over the 8 tasks run"]
    (sample,) = averages(summarize(runs, protocol), is_sample=True)
    assert sample.name == "mean over the 9 tasks run"
    runs[2] = run_of("MRPC", 1, 0.6, partial=["train.SAMPLE.tsv"])
    partial = averages(summarize(runs, protocol))
    assert [mean.name for mean in partial] == [*(rule.name for rule in RULES[2:]), "mean over the 9 tasks run"]


def test_tasks_come_in_one_order_whatever_the_order_of_the_runs() -> None:
    protocol = protocol_of([OWN, *TRAINABLE_TASKS[::-1]])
    runs = [run_of("mine", 1, {"accuracy": 0.6}), *all_runs()[::-1]]
    assert [summary.task for summary in summarize(runs, protocol)] == [*TRAINABLE_TASKS, OWN]


def test_runs_that_cannot_be_reported_are_refused() -> None:
    with pytest.raises(ValueError, match="MNLI with seed 4 has no accuracy_mismatched"):
        summarize([run_of("MNLI", 4, {"accuracy_matched": 0.5})], protocol_of())
    with pytest.raises(ValueError, match="no task 'RTE' in this report: it has CoLA"):
        summarize([run_of("RTE", 1, 0.5)], protocol_of([TASKS["CoLA"]]))


def test_a_limit_is_told_where_no_count_is_published() -> None:
    """On one's own tasks and on the sample tasks, by the run's own settings or, of older runs, by the protocol."""
    own = [run_of("mine", 1, {"accuracy": 0.6}, num_train=50, settings={"max_train_examples": 50})]
    (summary,) = summarize(own, protocol_of([OWN]))
    assert summary.partial == ("50 training examples at most",)
    unlimited = [dataclasses.replace(own[0], settings={"max_train_examples": None})]
    assert summarize(unlimited, protocol_of([OWN]))[0].partial == ()
    sample = protocol_of([TASKS["RTE"]], is_sample=True, max_train_examples=50)
    (summary,) = summarize([run_of("RTE", 1, 0.6, num_train=50), run_of("RTE", 2, 0.6, num_train=50)], sample)
    assert summary.partial == ("50 training examples at most",)
    assert summarize([run_of("RTE", 1, 0.6, num_train=40)], sample)[0].partial == ()


def test_intervals_come_from_the_predictions_and_hold_the_median(tmp_path: Path) -> None:
    protocol = protocol_of([TASKS["MRPC"], TASKS["MNLI"], TASKS["STS-B"]])
    results = write_sweep(tmp_path, protocol)
    summaries = summarize(results, protocol, folder=tmp_path)
    for summary in summaries:
        for score in summary.scores:
            assert score.interval is not None
            assert score.interval.low < score.median < score.interval.high
            assert score.num_examples == 200  # of one file, MNLI's two apart
            assert score.resamples is not None and abs(np.mean(score.resamples) - score.median) < 0.02
    (mean,) = averages(summaries)
    assert mean.interval is not None and mean.interval.low < mean.value < mean.interval.high
    widths = [score.interval.high - score.interval.low for found in summaries for score in found.scores]  # type: ignore[union-attr]
    assert mean.interval.high - mean.interval.low < max(widths)  # independent examples of three tasks

    (tmp_path / "MRPC" / find_run_folder(tmp_path, results[1]).name / "predictions" / "dev.jsonl").unlink()  # type: ignore[union-attr]
    again = summarize(results, protocol, folder=tmp_path)
    assert [bool(summary.resamples) for summary in again] == [False, True, True]
    assert averages(again)[0].interval is None


def test_a_runs_folder_is_known_by_its_key(tmp_path: Path) -> None:
    protocol = protocol_of([TASKS["RTE"]], seeds=(1, 10))
    first, tenth = write_sweep(tmp_path, protocol)
    found = find_run_folder(tmp_path, first)
    assert found is not None and found.name.startswith("seed-1-")
    assert find_run_folder(tmp_path, tenth) != found
    assert find_run_folder(tmp_path, dataclasses.replace(first, key="another")) is None


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    protocol = protocol_of([TASKS["RTE"]], seeds=(1, 2))
    folders = [find_run_folder(tmp_path, run) for run in write_sweep(tmp_path, protocol, num_dev=5)]
    paths = [folder / "predictions" / "dev.jsonl" for folder in folders if folder is not None]
    lines = paths[1].read_text().splitlines()

    def complaint(*changed: str) -> str:
        paths[1].write_text("\n".join(changed))
        with pytest.raises(UserError) as told:
            read_development(TASKS["RTE"], "dev", [path.parent.parent for path in paths])
        return str(told.value)

    assert f"{paths[1]}:3: " in complaint(*lines[:2], lines[2].replace("entailment", "perhaps"))
    assert f"{paths[1]}:1: " in complaint(lines[0][:9])
    other = {**json.loads(lines[0]), "id": "999"}
    assert f"{paths[1]}: not the examples" in complaint(json.dumps(other), *lines[1:])
    assert f"{paths[1]}:1: " in complaint()


def test_a_score_that_is_not_that_of_the_predictions_is_told(tmp_path: Path) -> None:
    protocol = protocol_of([TASKS["STS-B"], TASKS["MNLI"]], seeds=(1, 2))
    results = write_sweep(tmp_path, protocol, num_dev=60)
    summarize(results, protocol, folder=tmp_path)
    for place, name in ((1, "spearman"), (3, "accuracy_mismatched")):
        scores = {**results[place].scores, name: 0.99}
        doctored = [*results[:place], dataclasses.replace(results[place], scores=scores), *results[place + 1 :]]
        with pytest.raises(
            UserError, match=rf"seed-2-.*result\.json: {name} 0\.9900, but predictions/dev.* scores 0\."
        ):
            summarize(doctored, protocol, folder=tmp_path)


def test_a_protocol_survives_json() -> None:
    protocol = protocol_of([TASKS["MNLI"], OWN], config="mine.yaml", mnli_model="runs/mnli", dropout=0.1, max_length=64,
                           checkpoint="best", group_by_length=True)  # fmt: skip
    kept = json.loads(json.dumps(protocol.to_json()))
    assert Protocol.from_json(kept) == protocol
    assert kept["tasks"][0] == "MNLI" and kept["tasks"][1]["definition"] == "tasks/mine.yaml"
    with pytest.raises(ValueError, match="surprise"):
        Protocol.from_json({**kept, "surprise": 1})
    with pytest.raises(ValueError, match="recipe"):
        Protocol.from_json({name: value for name, value in kept.items() if name != "recipe"})
    with pytest.raises(ValueError, match="NoTask"):
        Protocol.from_json({**kept, "tasks": ["NoTask"]})


def test_a_glue_task_under_changed_facts_is_not_glue() -> None:
    changed: Task = dataclasses.replace(TASKS["RTE"], labels=("entailment", "neutral"))
    assert isinstance(task_to_json(changed), dict)
    (summary,) = summarize([run_of("RTE", 1, 0.5)], protocol_of([changed]))
    assert not summary.is_glue
