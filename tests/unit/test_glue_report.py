"""The GLUE report: medians, the named average, collapsed runs, and the mark of the sample tasks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from glue_eval.report import write_glue_report
from glue_eval.results import RunResult
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.summary import average, summarize
from glue_eval.tasks import TRAINABLE_TASKS


def run_of(task: str, seed: int, scores: dict[str, float], collapsed: bool = False) -> RunResult:
    """A finished run; the baseline of every score is 0.5, of a correlation 0."""
    correlations = ("matthews", "pearson", "spearman")
    return RunResult(
        task=task,
        seed=seed,
        scores=scores,
        collapsed=collapsed,
        num_train=100,
        num_dev=50,
        steps=30,
        timing={"seconds": 1.5},
        learning_rate=2e-3,
        optimizer="adan",
        batch_size=32,
        epochs=10.0,
        max_length=128,
        baseline={name: 0.0 if name in correlations else 0.5 for name in scores},
        settings={"weight_decay": 0.02},
    )


def all_runs(value: float = 0.6) -> list[RunResult]:
    return [run_of(task.name, 1, dict.fromkeys(task.score_names, value)) for task in TRAINABLE_TASKS]


def write(folder: Path, runs: list[RunResult], is_sample: bool = False) -> dict[str, object]:
    """Write the report and return report.json."""
    write_glue_report(folder, runs, model="runs/tiny", data="data/glue", recipe="small-adan", is_sample=is_sample)
    found: dict[str, object] = json.loads((folder / "report.json").read_text())
    return found


def test_each_score_is_the_median_over_seeds() -> None:
    runs = [run_of("MRPC", seed, {"accuracy": value, "f1": 0.7}) for seed, value in ((3, 0.9), (1, 0.5), (2, 0.6))]
    (summary,) = summarize(runs)
    accuracy, f1 = summary.scores
    assert [run.seed for run in summary.runs] == [1, 2, 3]
    assert (accuracy.values, accuracy.median, accuracy.best) == ((0.5, 0.6, 0.9), 0.6, 0.9)
    # Deviations from 2/3: -1/6, -1/15, 7/30; their squares sum to 0.08667, halved and rooted 0.2082.
    assert accuracy.deviation == pytest.approx(0.2082, abs=1e-4)
    assert f1.deviation == 0.0
    assert accuracy.baseline == 0.5


def test_the_average_is_official_only_over_all_nine() -> None:
    runs = all_runs()
    runs[0] = run_of("CoLA", 1, {"matthews": 0.06})
    whole = average(summarize(runs))
    assert (whole.name, whole.value) == ("official average", pytest.approx((8 * 0.6 + 0.06) / 9))
    assert whole.baseline == pytest.approx(7 * 0.5 / 9)
    part = average(summarize(runs[:3]))
    assert part.name == "mean over the 3 tasks run"
    assert part.value == pytest.approx((0.06 + 0.6 + 0.6) / 3)
    assert average(summarize(runs[:1])).name == "mean over the 1 task run"
    assert average(summarize(runs), is_sample=True).name == "mean over the 9 tasks run"


def test_tasks_come_in_one_order_whatever_the_order_of_the_runs() -> None:
    assert [summary.task for summary in summarize(all_runs()[::-1])] == list(TRAINABLE_TASKS)


def test_runs_that_cannot_be_reported_are_refused() -> None:
    with pytest.raises(ValueError, match="no run"):
        summarize([])
    with pytest.raises(ValueError, match="MNLI with seed 4 has no accuracy_mismatched"):
        summarize([run_of("MNLI", 4, {"accuracy_matched": 0.5})])


def test_all_files_show_every_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = write(tmp_path, all_runs())
    markdown, html = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    printed = capsys.readouterr().out
    for task in TRAINABLE_TASKS:
        assert f"| {task.name} " in markdown
        assert f">{task.name}</td>" in html
        assert task.name in printed
    assert "accuracy (mismatched)" in markdown
    assert values["average"] == {
        "name": "official average",
        "value": pytest.approx(0.6),
        "baseline": pytest.approx(7 * 0.5 / 9),
    }
    assert set(values["tasks"]) == {task.name for task in TRAINABLE_TASKS}  # type: ignore[call-overload]
    assert "Official average 60.0" in str(values["summary"])
    assert "runs/tiny" in markdown
    assert "small-adan" in markdown
    assert "13.5" in markdown  # seconds of all nine
    assert "torch" in markdown
    assert RunResult.from_json(values["runs"][0]) == all_runs()[0]  # type: ignore[index]


def test_tasks_with_the_same_further_settings_share_a_row(tmp_path: Path) -> None:
    runs = all_runs()
    write(tmp_path, runs)
    assert "| weight_decay 0.02 | all |" in " ".join((tmp_path / "report.md").read_text().split())
    runs[0] = dataclasses.replace(runs[0], settings={"weight_decay": 0.1})
    write(tmp_path, runs)
    assert "| weight_decay 0.1 | CoLA |" in " ".join((tmp_path / "report.md").read_text().split())


def test_samples_are_named_so_wherever_scores_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = write(tmp_path, all_runs(), is_sample=True)
    markdown = (tmp_path / "report.md").read_text()
    html = (tmp_path / "report.html").read_text()
    assert SAMPLE_NOTICE in markdown.splitlines()[0]
    assert markdown.index(f"scores are on {SAMPLE_NOTICE}") < markdown.index("| CoLA")
    assert html.index(f"scores are on {SAMPLE_NOTICE}") < html.index("<table>")
    assert SAMPLE_NOTICE in (tmp_path / "scores.svg").read_text()
    assert (values["is_sample"], values["data_kind"]) == (True, SAMPLE_NOTICE)
    assert "Sample tasks, not GLUE." in str(values["summary"])
    assert SAMPLE_NOTICE in capsys.readouterr().out


def test_real_data_are_not_called_samples(tmp_path: Path) -> None:
    assert write(tmp_path, all_runs())["is_sample"] is False
    assert SAMPLE_NOTICE not in (tmp_path / "report.md").read_text()


def test_a_copied_sample_folder_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text(SAMPLE_NOTICE + "\n")
    document = write_glue_report(tmp_path / "out", all_runs(), model="m", data=str(tmp_path), recipe="r")
    assert SAMPLE_NOTICE in document.title


def test_collapsed_runs_are_marked_and_do_not_count_as_learnt(tmp_path: Path) -> None:
    runs = [
        run_of("MRPC", 1, {"accuracy": 0.684, "f1": 0.812}, collapsed=True),
        run_of("RTE", 1, {"accuracy": 0.6}),
        run_of("WNLI", 1, {"accuracy": 0.4}),
    ]
    values = write(tmp_path, runs)
    assert "above the majority baseline on 1 of 3 tasks; collapsed runs: MRPC." in str(values["summary"])
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| MRPC")]
    assert all("collapsed" in row for row in rows[:2])
    assert values["tasks"]["MRPC"]["collapsed_seeds"] == [1]  # type: ignore[index]
    runs.append(run_of("MRPC", 2, {"accuracy": 0.7, "f1": 0.8}))
    write(tmp_path, runs)
    assert "| collapsed 1/2 |" in " ".join((tmp_path / "report.md").read_text().split())
