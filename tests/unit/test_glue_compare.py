"""Reports of several models: paired differences over the same examples, differing protocols; the `report` command."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glue_eval.compare import write_comparison
from glue_eval.development import Development
from glue_eval.differences import differences, joined, make_sides
from glue_eval.protocol import NOT_RUN
from glue_eval.recorded import read_recorded
from glue_eval.report_command import report_command
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.tasks import TASKS
from nlp_adan.errors import UserError
from tests.unit.glue_runs import protocol_of, run_of, write_sweep

SOME = [TASKS[name] for name in ("MRPC", "STS-B", "RTE")]


def sweep(folder: Path, **changes: Any) -> Path:
    """A sweep of some tasks with a model named like its folder."""
    keep = {
        name: changes.pop(name) for name in ("num_dev", "skill", "failed", "collapsed", "optimizer") if name in changes
    }
    write_sweep(folder, protocol_of(changes.pop("tasks", SOME), **{"model": f"runs/{folder.name}", **changes}), **keep)
    return folder


def compared(folder: Path, *reports: Path) -> dict[str, Any]:
    """Write the comparison and return its report.json."""
    write_comparison(folder, reports)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A weak model, a strong one, and one that did the tasks otherwise."""
    base = tmp_path_factory.mktemp("three")
    weak = sweep(base / "weak", skill=0.5, num_dev=400)
    strong = sweep(base / "strong", skill=0.8, num_dev=400, collapsed=[("RTE", 2)])
    other = sweep(base / "other", skill=0.5, num_dev=400, tasks=SOME[:1], recipe="small-adamw", group_by_length=True,
                  optimizer="adamw_torch")  # fmt: skip
    return base / "out", compared(base / "out", weak, strong, other)


def test_each_report_is_compared_with_the_first(three: tuple[Path, dict[str, Any]]) -> None:
    folder, values = three
    assert list(values["differences"]) == ["strong", "other"]
    found = {(each["task"], each["score"]): each for each in values["differences"]["strong"]}
    reports = {report["label"]: report["scores"] for report in values["reports"]}
    for (task, name), each in found.items():
        if name is None:
            continue
        means = [np.mean(reports[label][task][name]["values"]) for label in ("strong", "weak")]
        assert each["value"] == pytest.approx(means[0] - means[1])
        assert each["interval"]["low"] < each["value"] < each["interval"]["high"]
    assert found["MRPC", "accuracy"]["shows"] == "higher" and found["MRPC", "accuracy"]["seeds"] == "all higher"
    assert found["RTE", "accuracy"]["seeds"] == "overlap"  # one run collapsed, which is below all
    assert found["mean over the 3 tasks run", None]["shows"] == "higher"
    assert {each["shows"] for each in values["differences"]["other"]} == {"no difference shown"}
    assert "strong against weak: higher on " in values["summary"]
    assert values["summary"].endswith("mean over the 1 task run " + values["summary"].rpartition("task run ")[2])
    for name in ("report.md", "report.html", "table.tex", "differences_1.svg", "differences_2.svg"):
        assert (folder / name).is_file()


def test_how_to_read_it_is_told_once(three: tuple[Path, dict[str, Any]]) -> None:
    text = (three[0] / "report.md").read_text()
    assert text.count("a paired bootstrap") == 1
    assert text.index("a paired bootstrap") < text.index(" against ", text.index("## Scores"))
    assert "| Optimizer " in text and "| optimizer " not in text
    assert re.search(
        r"\| command +\| python -m glue_eval report \S+/weak \S+/strong \S+/other --output_dir \S+/out", text
    )


def test_the_interval_is_that_of_both_scored_on_the_same_examples(tmp_path: Path) -> None:
    """A slow twin draws examples one by one; both widths follow from the same law, so that 10 % is four deviations."""
    reports = [sweep(tmp_path / name, tasks=[TASKS["MRPC"]], num_dev=150, seeds=(1, 2)) for name in ("a", "b")]
    first, other = make_sides([read_recorded(path) for path in reports])
    found = {each.score: each for each in differences(first, other)}
    kept = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for report in reports
        for path in sorted(report.glob("MRPC/*/predictions/dev.jsonl"))
    ]
    labels = np.array([int(example["label"]) for example in kept[0]])
    runs = np.array([[int(example["prediction"]) for example in run] for run in kept])
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        places = random.integers(0, len(labels), len(labels))
        accuracies = (runs[:, places] == labels[places]).mean(axis=1)
        drawn.append(accuracies[2:].mean() - accuracies[:2].mean())
    resamples = found["accuracy"].resamples
    assert resamples is not None
    assert np.std(resamples) == pytest.approx(np.std(drawn), rel=0.1)
    assert np.mean(resamples) == pytest.approx(found["accuracy"].value, abs=0.005)


def test_a_report_does_not_differ_from_itself(tmp_path: Path) -> None:
    report = sweep(tmp_path / "a")
    sides = make_sides([read_recorded(report), read_recorded(report)])
    assert len({side.label for side in sides}) == 2
    for each in differences(*sides):
        assert each.value == 0 and each.interval is not None and each.interval.contains_zero
        assert each.shows == "no difference shown" and each.interval.high == pytest.approx(0)


def test_a_collapsed_run_is_a_loss_whatever_it_scores(tmp_path: Path) -> None:
    """Always the commonest label can beat a run that has learnt something."""
    task = TASKS["RTE"]

    def seeds(*collapsed: tuple[tuple[str, int], ...]) -> str:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        reports = [
            sweep(folder / name, tasks=[task], seeds=(1, 2), num_dev=50, skill=skill, collapsed=each)
            for name, skill, each in zip("ab", (0.6, 0.0), collapsed, strict=True)
        ]
        first, other = make_sides([read_recorded(path) for path in reports])
        return differences(first, other)[0].seeds

    one, both = (("RTE", 1),), (("RTE", 1), ("RTE", 2))
    assert seeds((), ()) == "all lower" == seeds((), both)
    assert seeds(both, ()) == "all higher" and seeds(one, ()) == "overlap" == seeds(both, one) == seeds(both, both)


def test_examples_are_matched_by_id_and_label() -> None:
    def development(ids: str, labels: list[int], predictions: list[list[int]]) -> Development:
        return Development(tuple(ids), np.array(labels), np.array(predictions))

    first = development("abc", [0, 1, 1], [[0, 0, 1], [1, 1, 1]])
    both, reason = joined(first, development("cab", [1, 0, 1], [[7, 8, 9]]))
    assert both is not None and reason == "" and both.predictions.tolist() == [[0, 0, 1], [1, 1, 1], [8, 9, 7]]
    assert joined(first, development("abd", [0, 1, 1], [[0, 0, 0]]))[1] == (
        "not the same development examples (2 ids are in one only)"
    )
    assert "1 labels differ" in joined(first, development("cab", [0, 0, 1], [[7, 8, 9]]))[1]
    twice = development("aab", [0, 1, 1], [[0, 0, 0]])
    assert joined(twice, twice)[0] is not None
    assert "ids occur twice" in joined(twice, development("aba", [0, 1, 1], [[0, 0, 0]]))[1]


def test_what_cannot_be_paired_is_not_compared(tmp_path: Path) -> None:
    reports = [sweep(tmp_path / "a"), sweep(tmp_path / "b")]
    for path in reports[1].glob("MRPC/seed-2-*/predictions/dev.jsonl"):
        path.unlink()
    for path in reports[1].glob("RTE/*/predictions/dev.jsonl"):
        path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    values = compared(tmp_path / "out", *reports)
    found = {(each["task"], each["score"]): each for each in values["differences"]["b"]}
    assert found["MRPC", "f1"]["shows"] == "not compared" and found["MRPC", "f1"]["reason"] == "b left no predictions"
    assert found["RTE", "accuracy"]["reason"] == "not the same development examples (1 ids are in one only)"
    assert found["STS-B", "pearson"]["interval"] is not None
    assert found["mean over the 3 tasks run", None]["interval"] is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert "not compared: b left no predictions" in text and "not compared on 3 of 5 scores" in values["summary"]


def test_tasks_of_one_name_that_are_defined_otherwise_are_not_compared(tmp_path: Path) -> None:
    own = dataclasses.replace(TASKS["RTE"], name="mine", definition=Path("mine.yaml"))
    moved, changed = (dataclasses.replace(own, definition=Path("b.yaml"), labels=labels)
                      for labels in (own.labels, ("no", "yes")))  # fmt: skip
    reports = [sweep(tmp_path / name, tasks=[task]) for name, task in (("a", own), ("b", moved), ("c", changed))]
    values = compared(tmp_path / "out", *reports)["differences"]
    assert values["b"][0]["interval"] is not None
    assert values["c"][0]["reason"] == "the tasks are defined differently"


def test_differing_protocols_stand_above_the_scores(three: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, values = three
    text = " ".join((folder / "report.md").read_text().split())
    assert text.index("The runs were not done alike") < text.index("## Scores")
    rows = {row["what"]: (row["tasks"], row["values"]) for row in values["protocol_differences"]}
    assert rows["Recipe"] == ("all", ["small-adan", "small-adan", "small-adamw"])
    assert rows["Optimizer"] == ("all", ["adan", "adan", "adamw_torch"])
    assert rows["Batches"][1][2] == "examples of similar length together"
    assert "Model" not in rows and "Learning rate" not in rows
    alike = compared(tmp_path / "out", sweep(tmp_path / "a"), sweep(tmp_path / "b"))
    assert alike["protocol_differences"] == []
    assert "All runs were done alike, but for the model." in (tmp_path / "out" / "report.md").read_text()


def test_samples_are_named_in_a_comparison(tmp_path: Path) -> None:
    values = compared(tmp_path / "out", sweep(tmp_path / "a", is_sample=True), sweep(tmp_path / "b", is_sample=True))
    assert values["is_sample"] and values["summary"].startswith("Sample tasks, not GLUE.")
    for name in ("report.md", "differences_1.svg", "table.tex"):
        assert SAMPLE_NOTICE in (tmp_path / "out" / name).read_text()


def test_reports_without_a_common_task_stand_side_by_side(tmp_path: Path) -> None:
    reports = [sweep(tmp_path / name, tasks=[task]) for name, task in zip("ab", SOME[1:], strict=True)]
    values = compared(tmp_path / "out", *reports)
    assert values["summary"] == "b against a: no task in common." and values["differences"] == {"b": []}
    assert "They have no task in common." in (tmp_path / "out" / "report.md").read_text()


def test_the_command_writes_a_sweeps_report_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {("RTE", 1): "RuntimeError: out of memory", ("RTE", 2): ""}
    report_command([str(sweep(tmp_path / "a", failed=failed, tasks=SOME[2:]))])
    values = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [failure["error"] for failure in values["failures"]] == ["RuntimeError: out of memory", NOT_RUN]
    assert values["tasks"]["RTE"]["scores"]["accuracy"]["n"] == 1
    assert values["environment"]["date"] == "2024-01-02T03:04:05+00:00"  # of the runs, not of the report
    assert f"report: {tmp_path}/a/report.md" in capsys.readouterr().out


def test_the_command_compares_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [str(sweep(tmp_path / name, tasks=SOME[2:])) for name in "ab"]
    report_command([*reports, "--output_dir", str(tmp_path / "out")])
    assert "b against a: " in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()


def test_mistakes_of_the_command_are_named(tmp_path: Path) -> None:
    report = sweep(tmp_path / "a", tasks=SOME[2:], seeds=(1,))
    empty = sweep(tmp_path / "empty", tasks=SOME[2:], seeds=(1,), failed={("RTE", 1): "x"})

    def complaint(*words: Any) -> str:
        with pytest.raises(UserError) as told:
            report_command([str(word) for word in words])
        return str(told.value)

    out = ("--output_dir", tmp_path / "out")
    assert f"no {tmp_path}/none/plan.json" in complaint(tmp_path / "none")
    assert "--output_dir: say where the comparison goes" in complaint(report, empty)
    assert "goes into its own folder" in complaint(report, *out)
    assert "required: OUT; see python -m glue_eval report --help" in complaint()
    assert "--output" in complaint(report, "--output", "x")
    assert "is given twice" in complaint(report, tmp_path / "a" / ".", *out)
    assert "holds the report of one of them" in complaint(report, empty, "--output_dir", report)
    assert f"{empty}: none of its runs (1) has a result yet" in complaint(report, empty, *out)
    assert not (tmp_path / "out").exists()

    (result,) = report.glob("RTE/*/result.json")
    run_of("RTE", 1, 0.5).save(result)
    result.write_text(result.read_text().replace('"seed"', '"sead"'))
    assert f"{result}: not the result of a run" in complaint(report)
    result.write_text("{")
    assert f"{result}: not JSON" in complaint(report)
    plan = report / "plan.json"
    plan.write_text(plan.read_text().replace('"recipe"', '"recipes"'))
    assert f"{plan}: not a plan" in complaint(report)
    plan.write_text("[]")
    assert f"{plan}: not a JSON object" in complaint(report)
