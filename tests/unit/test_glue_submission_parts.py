"""What a submission holds: whose run each file is of, and predictions as the leaderboard writes them."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glue_eval.data import read_split
from glue_eval.results import RunResult
from glue_eval.submission import zip_bytes
from glue_eval.submission_check import LAYOUT
from glue_eval.submission_parts import CONSTANTS, choose_run, leaderboard_rows, read_sweep
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError
from tests.unit.glue_sweep import SweepFolder, draw, write_predictions

PROJECT = Path(__file__).resolve().parents[2]
REAL_DATA = PROJECT.parent / "shared" / "data" / "glue"


RESULT_WITHOUT_SCORE = json.dumps(
    RunResult("CoLA", 2, {"accuracy": 0.5}, False, 1, 1, 1, 1e-3, "adan", 8, predictions=["test"]).to_json()
)


def test_mnli_fills_three_files_and_its_ax_predictions_are_its_own_runs(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path)
    splits = {"test_matched": 9796, "test_mismatched": 9847, "AX": 1104}
    made.add("MNLI", 1, 0.9, splits=splits)
    made.add("MNLI", 2, 0.1, splits=splits)
    parts = made.parts()
    for name, count in (("MNLI-m.tsv", 9796), ("MNLI-mm.tsv", 9847), ("AX.tsv", 1104)):
        choice = parts[name].choice
        assert choice is not None and choice.result.seed == 1
        assert list(parts[name].predictions) == draw(TASKS["MNLI"], count, seed=1)
    parts = made.parts(seed=2)
    assert list(parts["AX.tsv"].predictions) == draw(TASKS["MNLI"], 1104, seed=2)


def test_mnli_without_the_diagnostic_file(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path)
    made.add("MNLI", 1)
    part = made.parts()["AX.tsv"]
    assert part.choice is None and part.reason == "the run of seed 1 did not predict AX/diagnostic.tsv"


def test_choice_of_the_run(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path)
    scores = {1: math.nan, 2: 0.25, 3: 0.5, 4: 0.5}
    for seed, score in scores.items():
        made.add("WNLI", seed, score)
    made.plan("WNLI", 5)
    made.add("WNLI", 6, 0.9, collapsed=True, diverged="its loss at step 3: nan")
    chosen = choose_run(read_sweep(made.folder), TASKS["WNLI"])
    assert not isinstance(chosen, str)
    assert (chosen.result.seed, chosen.score, chosen.num_finished, chosen.num_runs) == (3, 0.5, 5, 6)
    other = choose_run(read_sweep(made.folder), TASKS["WNLI"], seed=1)
    assert not isinstance(other, str) and other.result.seed == 1
    with pytest.raises(UserError, match="WNLI has no result with seed 5; it has 1, 2, 3, 4, 6"):
        choose_run(read_sweep(made.folder), TASKS["WNLI"], seed=5)


def test_choice_is_by_the_mean_of_a_tasks_metrics(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path)
    made.add("MRPC", 1, scores={"accuracy": 0.9, "f1": 0.7})
    made.add("MRPC", 2, scores={"accuracy": 0.7, "f1": 0.8})  # better by F1 alone
    chosen = choose_run(read_sweep(made.folder), TASKS["MRPC"])
    assert not isinstance(chosen, str) and chosen.result.seed == 1 and chosen.score == pytest.approx(0.8)


def test_what_has_no_run_says_why(tmp_path: Path) -> None:
    own_rte = dataclasses.replace(TASKS["RTE"], max_length=7)
    made = SweepFolder(tmp_path, tasks=[TASKS["WNLI"], TASKS["CoLA"], own_rte])
    made.add("WNLI", 1)
    made.plan("CoLA", 1)
    made.plan("CoLA", 2)
    made.add("RTE", 1)
    parts = made.parts()
    assert parts["CoLA.tsv"].reason == "none of its runs (2) has a result"
    assert parts["RTE.tsv"].reason == "not run"  # one's own task of that name is not GLUE's
    assert parts["QQP.tsv"].reason == "not run"


COLA, STSB = "CoLA/seed-2-0a1b/predictions/test.jsonl", "STS-B/seed-1-0a1b/predictions/test.jsonl"
DAMAGES: list[tuple[str, str, str]] = [
    ("plan.json", "{", "plan.json: not JSON"),
    ("plan.json", '{"protocol": {}, "runs": []}', "plan.json: not a plan"),
    ("CoLA/seed-2-0a1b/result.json", "[1]", "result.json: not a JSON object"),
    ("CoLA/seed-2-0a1b/result.json", RESULT_WITHOUT_SCORE, r"not the result of a run \(no score 'matthews'"),
    (COLA, '{"id": "0", "prediction": "1"}\n{"id"', r"test.jsonl:2: not a prediction"),
    (COLA, '{"id": "0", "prediction": "2"}\n', r"test.jsonl:1: prediction '2' is not one of CoLA's labels 0, 1"),
    (COLA, '{"id": "0", "prediction": 1}\n', r"test.jsonl:1: prediction 1 is not one of CoLA's labels 0, 1"),
    (COLA, '{"id": "7", "prediction": "1"}\n', r"test.jsonl:1: the example's number is '7' instead of 0"),
    (STSB, '{"id": "0", "prediction": null}\n', r"test.jsonl:1: prediction None is not a number"),
    (STSB, '{"id": "0", "prediction": NaN}\n', r"test.jsonl:1: prediction nan is not a number"),
    (STSB, '{"id": "0", "prediction": true}\n', r"test.jsonl:1: prediction True is not a number"),
]


@pytest.mark.parametrize(("name", "text", "message"), DAMAGES)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    sweep = SweepFolder(tmp_path)
    sweep.add("CoLA", 2)
    sweep.add("STS-B", 1)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        sweep.parts()


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs the published GLUE files")
@pytest.mark.parametrize("name", ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"])
def test_constants_are_what_their_source_says(name: str) -> None:
    split = read_split(REAL_DATA, TASKS[name], "train", allow_partial=True)
    assert split.labels is not None
    number, *rest = re.findall(r"\d+", CONSTANTS[name].source)
    if TASKS[name].labels is None:
        assert int(number) == len(split.labels)
        assert CONSTANTS[name].prediction == f"{sum(split.labels) / len(split.labels):.3f}"
    else:
        counts = [split.labels.count(place) for place in range(len(TASKS[name].labels or ()))]
        assert (max(counts), sum(counts)) == (int(number), int(rest[0]))
        assert CONSTANTS[name].prediction == (TASKS[name].labels or ())[counts.index(max(counts))]


def test_the_guide_shows_the_constants_and_the_format() -> None:
    guide = (PROJECT / "docs" / "glue_submission.md").read_text(encoding="utf-8").replace(",", "")
    for name, constant in CONSTANTS.items():
        shown = "MNLI AX" if name in ("MNLI", "AX") else name
        row = next(line for line in guide.splitlines() if line.startswith(f"| {shown} | `{constant.prediction}` | "))
        numbers = re.findall(r"[0-9]+", CONSTANTS["MNLI"].source if name == "AX" else constant.source)
        assert re.findall(r"[0-9]+", row.split("|")[3]) == numbers
    for name, (_, split) in LAYOUT.items():
        assert f"| `{name}` | {split.num_examples} | " in guide


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**400), 10**400)


def small(task: Task, count: int) -> SplitFile:
    return dataclasses.replace(task.test_splits[0], num_examples=count)


@settings(max_examples=100, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=20))
@example([-0.0, -0.0004, 4.9996, 5.0004, 1e308, -(10**400)])
def test_scores_are_clipped_and_rounded(tmp_path_factory: pytest.TempPathFactory, scores: list[float]) -> None:
    task, path = TASKS["STS-B"], tmp_path_factory.getbasetemp() / "scores.jsonl"
    write_predictions(path, scores)
    written = leaderboard_rows(path, task, small(task, len(scores)))
    assert all(re.fullmatch(r"[0-5]\.[0-9]{3}", text) for text in written)
    for text, score in zip(written, scores, strict=True):
        assert abs(float(text) - max(0, min(5, score))) <= 0.0005 + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([task for task in TASKS.values() if task.labels]), st.data())
def test_labels_come_back_from_the_zip(
    tmp_path_factory: pytest.TempPathFactory, task: Task, data: st.DataObject
) -> None:
    labels = data.draw(st.lists(st.sampled_from(task.labels or ()), min_size=1, max_size=30))
    path = tmp_path_factory.getbasetemp() / "labels.jsonl"
    write_predictions(path, labels)
    written = leaderboard_rows(path, task, small(task, len(labels)))
    with zipfile.ZipFile(io.BytesIO(zip_bytes({"X.tsv": written}))) as archive:
        lines = archive.read("X.tsv").decode().split("\n")
    assert lines == ["index\tprediction", *(f"{row}\t{label}" for row, label in enumerate(labels)), ""]
