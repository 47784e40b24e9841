"""`python -m glue_eval submit`: from a sweep's folder to the leaderboard's zip and the record beside it."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import pytest

from glue_eval import submission
from glue_eval.report_command import report_command
from glue_eval.submission import submission_note, zip_bytes
from glue_eval.submission_check import LAYOUT
from glue_eval.submission_parts import CONSTANTS
from glue_eval.submit_command import submit_command
from glue_eval.tasks import TASKS, SplitFile
from nlp_adan.errors import UserError
from tests.unit.glue_sweep import SweepFolder, draw


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def rows_of(text: str) -> list[str]:
    """The predictions of one file, whose every other byte is as the leaderboard wants it."""
    lines = text.split("\n")
    assert lines[0] == "index\tprediction" and lines[-1] == ""
    assert [line.split("\t")[0] for line in lines[1:-1]] == [str(row) for row in range(len(lines) - 2)]
    return [line.split("\t")[1] for line in lines[1:-1]]


@pytest.fixture(autouse=True)
def short_qqp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a percent of QQP's 390,965 rows: what is looked at here does not depend on them."""
    task, split = LAYOUT["QQP.tsv"]
    monkeypatch.setitem(LAYOUT, "QQP.tsv", (task, dataclasses.replace(split, num_examples=391)))


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    """CoLA with two seeds, STS-B, and WNLI, which did not predict its test file."""
    made = SweepFolder(tmp_path / "out")
    made.add("CoLA", 1, 0.25)
    made.add("CoLA", 2, 0.75)
    made.add("STS-B", 1)
    made.add("WNLI", 1, splits={})
    return made


def test_command_writes_the_eleven_files_that_the_check_takes(
    sweep: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    submit_command([str(sweep.folder)])
    shown = capsys.readouterr().out
    files = contents(sweep.folder / "submission.zip")
    counts = {name: split.num_examples for name, (_, split) in LAYOUT.items()}
    assert {name: len(rows_of(text)) for name, text in files.items()} == counts
    assert list(files) == list(LAYOUT)
    assert rows_of(files["CoLA.tsv"]) == draw(TASKS["CoLA"], 1063, seed=2)
    drawn = draw(TASKS["STS-B"], 1379, seed=1)
    assert rows_of(files["STS-B.tsv"]) == [f"{min(5.0, max(0.0, score)):.3f}" for score in drawn]
    assert set(rows_of(files["STS-B.tsv"])) > {"0.000", "5.000"}
    for name in set(LAYOUT) - {"CoLA.tsv", "STS-B.tsv"}:
        assert set(rows_of(files[name])) == {CONSTANTS[LAYOUT[name][0].name].prediction}
    assert "CoLA seed 2" in shown and "75.0" in shown and "constant 0" in shown and "not run" in shown

    submit_command(["--check", str(sweep.folder / "submission.zip")])
    assert "submission.zip: good" in capsys.readouterr().out


def test_record_tells_what_each_file_is_made_of(sweep: SweepFolder) -> None:
    submit_command([str(sweep.folder)])
    record = json.loads((sweep.folder / "submission.json").read_text(encoding="utf-8"))
    assert record["zip"] == "submission.zip" and record["chosen_by"] == "the best development score"
    files = record["files"]
    assert list(files) == list(LAYOUT)
    assert {name for name, entry in files.items() if entry["source"] == "run"} == {"CoLA.tsv", "STS-B.tsv"}
    assert (files["CoLA.tsv"]["seed"], files["CoLA.tsv"]["dev_score"], files["CoLA.tsv"]["num_runs"]) == (2, 0.75, 2)
    assert (sweep.folder / files["CoLA.tsv"]["folder"] / "result.json").is_file()
    assert files["WNLI.tsv"]["reason"] == "the run of seed 1 did not predict WNLI/test.tsv"
    assert files["QQP.tsv"]["reason"] == "not run" and files["AX.tsv"]["reason"] == "MNLI not run"
    assert files["QQP.tsv"]["prediction"] == "0"


def test_note_for_the_report_and_when_it_is_not_of_these_runs(sweep: SweepFolder) -> None:
    assert submission_note(sweep.folder) is None
    submit_command([str(sweep.folder)])
    note = submission_note(sweep.folder)
    assert note is not None
    assert "2 of 11 files are predictions" in note and "CoLA 2, STS-B 1" in note
    assert "RTE.tsv (entailment; not run)" in note and "CoLA.tsv" not in note
    report_command([str(sweep.folder)])
    assert json.loads((sweep.folder / "report.json").read_text())["submission"] == note
    assert note in (sweep.folder / "report.md").read_text() and note in (sweep.folder / "report.html").read_text()
    plan = sweep.folder / "plan.json"
    kept = plan.read_text(encoding="utf-8")
    plan.write_text(kept.replace("CoLA/seed-2-0a1b", "CoLA/seed-2-9f9f"), encoding="utf-8")
    assert submission_note(sweep.folder) is None  # of runs that are no longer the plan's
    plan.write_text(kept, encoding="utf-8")
    (sweep.folder / "submission.zip").write_bytes(b"something else")
    assert submission_note(sweep.folder) is None


def test_cautions_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made = SweepFolder(tmp_path)
    made.add("WNLI", 1, collapsed=True, partial=["WNLI/train.SAMPLE9.tsv"], num_train=9)
    made.plan("WNLI", 2)
    made.add("CoLA", 1, score=-1e-9)
    submit_command([str(tmp_path), "--seed", "1"])
    shown = capsys.readouterr().out
    assert re.search(r"CoLA seed 1 +│ +0\.0 │", shown)
    assert "1 of 2 runs have a result; collapsed; trained or scored on a part: WNLI/train.SAMPLE9.tsv, 9 of" in shown
    record = json.loads((tmp_path / "submission.json").read_text())
    assert record["chosen_by"] == "seed 1"
    assert record["files"]["WNLI.tsv"]["partial"] == ["WNLI/train.SAMPLE9.tsv", "9 of 635 training examples"]


def test_output_elsewhere_and_equal_bytes_at_any_time(sweep: SweepFolder, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "mine.zip", tmp_path / "b" / "other.zip"
    for path in (first, second):
        submit_command([str(sweep.folder), "--output", str(path)])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["mine.json", "mine.zip"]
    assert not (sweep.folder / "submission.zip").exists()
    with zipfile.ZipFile(first) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_nothing_is_left_or_overwritten_by_a_zip_that_fails_its_check(
    sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_command([str(sweep.folder)])
    before = {path.name: path.read_bytes() for path in sweep.folder.iterdir() if path.is_file()}
    monkeypatch.setattr(submission, "zip_bytes", lambda files: zip_bytes({**files, "CoLA.tsv": ["1"]}))
    with pytest.raises(RuntimeError, match=r"CoLA.tsv: 1 rows instead of 1063"):
        submit_command([str(sweep.folder), "--seed", "1"])
    assert {path.name: path.read_bytes() for path in sweep.folder.iterdir() if path.is_file()} == before
    assert not list(sweep.folder.glob(".*"))


@pytest.mark.parametrize("output", ["submission", "report.zip", "folder.zip"])
def test_output_that_cannot_be(sweep: SweepFolder, output: str) -> None:
    (sweep.folder / "report.json").write_text("{}", encoding="utf-8")
    (sweep.folder / "folder.zip").mkdir()
    with pytest.raises(UserError, match=r"ends in \.zip|report\.json exists and is no submission's record"):
        submit_command([str(sweep.folder), "--output", str(sweep.folder / output)])
    assert (sweep.folder / "report.json").read_text(encoding="utf-8") == "{}"


def test_sample_tasks_are_refused(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path, is_sample=True)
    made.add("WNLI", 1)
    with pytest.raises(UserError, match=r"sample tasks, not GLUE.*run again with `--data GLUE`"):
        submit_command([str(tmp_path)])
    assert not (tmp_path / "submission.zip").exists()


def test_a_part_of_a_test_file_is_refused_by_name(sweep: SweepFolder) -> None:
    sweep.add("RTE", 1, splits={"test": 100})
    with pytest.raises(UserError, match=r"RTE/seed-1-0a1b/predictions/test.jsonl: 100 predictions, but RTE/test.tsv"):
        submit_command([str(sweep.folder)])
    assert not (sweep.folder / "submission.zip").exists()


def test_a_sweep_without_test_predictions_is_refused(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path)
    made.add("WNLI", 1, splits={})
    with pytest.raises(UserError, match="no run predicted a test file"):
        submit_command([str(tmp_path)])


def test_missing_files_are_named(sweep: SweepFolder, tmp_path: Path) -> None:
    (sweep.folder / "CoLA/seed-2-0a1b/predictions/test.jsonl").unlink()
    with pytest.raises(UserError, match=r"no file .*test.jsonl"):
        submit_command([str(sweep.folder)])
    with pytest.raises(UserError, match=r"no .*plan.json: name the --output_dir"):
        submit_command([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"no file .*nowhere.zip"):
        submit_command(["--check", str(tmp_path / "nowhere.zip")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a sweep's folder, or --check"),
        (["out", "--check", "a.zip"], "give a sweep's folder, or --check"),
        (["--check", "a.zip", "--seed", "1"], "--check takes no other option"),
        (["out", "--sed", "1"], "unknown option '--sed' (did you mean '--seed'?)"),
        (["out", "more"], "unknown argument 'more'"),
        (["out", "--seed", "best"], "best"),
    ],
)
def test_words_that_are_wrong(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        submit_command(words)


def glue_tests(folder: Path, name: str, first: int = 0, count: int | None = None) -> SplitFile:
    """Write a task's test file with its real header and numbers."""
    split = TASKS[name].test_splits[0]
    path = folder / name / split.file
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + (split.num_examples if count is None else count))
    rows = ["\t".join([str(number), *["x"] * (len(split.columns) - 1)]) for number in numbers]
    path.write_text("\n".join(["\t".join(split.columns), *rows]) + "\n", encoding="utf-8")
    return split


def test_data_compares_the_test_files(tmp_path: Path, sweep: SweepFolder) -> None:
    data = tmp_path / "glue"
    words = [str(sweep.folder), "--data", str(data)]
    glue_tests(data, "CoLA")
    with pytest.raises(UserError, match="STS-B"):  # predicted, but not there
        submit_command(words)
    glue_tests(data, "STS-B", count=1378)
    with pytest.raises(UserError, match=r"STS-B/test.tsv: 1378 examples, the leaderboard's file has 1379"):
        submit_command(words)
    glue_tests(data, "STS-B", first=1)
    with pytest.raises(UserError, match=r"STS-B/test.tsv:2: example '1' is not number 0"):
        submit_command(words)
    assert not (sweep.folder / "submission.zip").exists()
    glue_tests(data, "STS-B")
    submit_command(words)
    assert (sweep.folder / "submission.zip").exists()
    (data / "README.txt").write_text("sample tasks, not GLUE\n", encoding="utf-8")
    with pytest.raises(UserError, match="sample tasks, not GLUE"):
        submit_command(words)
