"""check-data: whole files pass, and each trap that was planted in a small copy is found, with its line and remedy."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glue_eval.check_command import check_command
from glue_eval.data_checks import COMPLETE, MISSING, PARTIAL, TOO_LONG, UNREADABLE, check_data, check_files
from glue_eval.file_scan import KEPT_PROBLEMS, unquoted
from glue_eval.sample_tasks import write_sample_tasks
from glue_eval.table_files import Example, table_text
from glue_eval.task_file import read_task_file
from glue_eval.tasks import TASKS, TRAINABLE_TASKS
from nlp_adan.errors import UserError
from tests.tiny_glue import write_diagnostics

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "glue"
COMPLETE_TASKS = ("CoLA", "SST-2", "MRPC", "STS-B", "RTE", "WNLI", "AX")

Rows = list[list[str]]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample tasks, written once for this file: whole files in GLUE's layout, small ones."""
    path = tmp_path_factory.mktemp("sample") / "glue"
    write_sample_tasks(path)
    return path


@pytest.fixture
def copy(sample: Path, tmp_path: Path) -> Path:
    """A copy of the sample tasks to plant something in."""
    return Path(shutil.copytree(sample, tmp_path / "glue"))


def read_rows(path: Path) -> Rows:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Rows) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def change(path: Path, function: Callable[[int, list[str]], list[str]], first_row: int = 1) -> None:
    """Put every data row through `function(number from 0, cells)`."""
    rows = read_rows(path)
    write_rows(path, rows[:first_row] + [function(number, row) for number, row in enumerate(rows[first_row:])])


def write_examples(folder: Path, name: str, split: str, examples: list[Example]) -> Path:
    """A file of a task made of these examples, not marked as a sample's."""
    layout = TASKS[name].split(split)
    path = folder / name / layout.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table_text(layout, examples, source="test"), encoding="utf-8")
    return path


def through_csv(path: Path, quoting: int = csv.QUOTE_MINIMAL) -> None:
    """Rewrite a file as a program does that takes it for CSV with tabs."""
    read = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")), delimiter="\t"))
    written = io.StringIO()
    csv.writer(written, delimiter="\t", lineterminator="\n", quoting=quoting).writerows(read)  # type: ignore[arg-type]
    path.write_text(written.getvalue(), encoding="utf-8")


def errors_of(folder: Path, *names: str, allow_partial: bool = False) -> list[str]:
    problems = check_data(folder, [TASKS[name] for name in names], allow_partial)
    return [str(problem).removeprefix(f"{folder}/") for problem in problems if problem.is_error]


def notes_of(folder: Path, *names: str, allow_partial: bool = False) -> list[str]:
    problems = check_data(folder, [TASKS[name] for name in names], allow_partial)
    return [str(problem).removeprefix(f"{folder}/") for problem in problems if not problem.is_error]


def test_whole_files_pass(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = check_files(sample, TRAINABLE_TASKS)
    assert {check.state for check in checks} == {COMPLETE}
    assert [problem for check in checks for problem in check.problems] == []
    check_command(["--data", str(sample)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "file", "rows", "expected", "state", "errors"]
    assert lines[1].split() == ["CoLA", "train.tsv", "1,600", "1,600", "complete"]
    assert len(lines) == 1 + sum(len(task.splits) for task in TRAINABLE_TASKS)


def test_files_of_two_tasks_exchanged(copy: Path) -> None:
    for name, other in (("QQP", "STS-B"), ("SST-2", "CoLA")):
        shutil.move(copy / name / "train.tsv", copy / "train.tsv")
        shutil.move(copy / other / "train.tsv", copy / name / "train.tsv")
        shutil.move(copy / "train.tsv", copy / other / "train.tsv")
    assert [error.partition(": expected")[0] for error in errors_of(copy, "QQP", "STS-B")] == [
        "QQP/train.tsv:1: the header is not QQP's",
        "STS-B/train.tsv:1: the header is not STS-B's",
    ]
    qqp, stsb = errors_of(copy, "QQP", "STS-B")
    assert qqp.endswith("(this file is STS-B's train.tsv or dev.tsv): take the original train.tsv")
    assert stsb.endswith("(this file is QQP's train.tsv or dev.tsv): take the original train.tsv")
    cola, sst2 = errors_of(copy, "CoLA", "SST-2")
    assert cola.startswith("CoLA/train.tsv:1: a header, but CoLA's train.tsv has none; this file is SST-2's train.tsv")
    assert "(this file is CoLA's train.tsv or dev.tsv)" in sst2


def test_columns_in_another_order_and_no_header(copy: Path) -> None:
    change(copy / "RTE" / "train.tsv", lambda number, row: [row[0], row[2], row[1], row[3]], first_row=0)
    write_rows(copy / "RTE" / "dev.tsv", read_rows(copy / "RTE" / "dev.tsv")[1:])
    train, dev = errors_of(copy, "RTE")
    assert train.startswith("RTE/train.tsv:1: the header is not RTE's") and "in another order" in train
    assert dev.startswith("RTE/dev.tsv:1: the header is not RTE's") and "(line 1 is an example): put the header" in dev


@pytest.mark.parametrize(("name", "dev", "test"), [("SST-2", "dev.tsv", "test.tsv"), ("CoLA", "dev.tsv", "test.tsv"),
                                                   ("MNLI", "dev_matched.tsv", "test_matched.tsv")])  # fmt: skip
def test_a_test_file_with_labels(copy: Path, name: str, dev: str, test: str) -> None:
    shutil.copy(copy / name / dev, copy / name / test)
    (error,) = errors_of(copy, name)
    assert error.startswith(f"{name}/{test}:1: a test file that carries labels: expected index |")
    assert error.endswith("take the unlabelled file, so that no label is ever used")


def test_all_bad_rows_of_all_files_are_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy / "RTE" / "train.tsv", lambda n, row: [*row[:3], "entailmnt"] if n % 20 == 7 else row)
    change(copy / "RTE" / "dev.tsv", lambda n, row: row[:3] if n == 1 else row)
    change(copy / "STS-B" / "dev.tsv", lambda n, row: [*row[:9], "7.0"] if n == 3 else row)
    errors = errors_of(copy, "RTE", "STS-B")
    assert len(errors) == KEPT_PROBLEMS + 2
    assert errors[0].startswith("RTE/train.tsv:9: label 'entailmnt' is not one of RTE's (did you mean 'entailment'?)")
    assert errors[1].startswith("RTE/train.tsv:29: label 'entailmnt'")
    assert errors[-2].startswith("RTE/dev.tsv:3: 3 columns instead of 4 (index | sentence1")
    assert errors[-1] == "STS-B/dev.tsv:5: score 7.0 is outside STS-B's range: use 0 to 5"
    with pytest.raises(UserError, match=r"^62 errors in 3 of 6 files"):
        check_command(["--data", str(copy), "--tasks", "RTE,STS-B"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:7]] == ["60", "1", "complete", "complete", "1", "complete"]
    assert [line.partition(": ")[0] for line in lines[7:]] == ["error"] * 8
    assert lines[12] == f"error: {copy}/RTE/train.tsv: 55 more"


def test_written_by_a_csv_writer(tmp_path: Path) -> None:
    texts = [
        'He said "no" to it',
        '"Open, it goes on',
        "A plain one",
        'and closed here"',
        'It was "so" and "so"',
        "End",
    ]
    examples = [Example(f"{text} {n}", f"Other {n}", str(n % 2)) for n in range(20) for text in texts]
    path = write_examples(tmp_path, "MRPC", "train", examples)
    write_examples(tmp_path, "MRPC", "dev", [Example("a", "b", "0"), Example("c", "d", "1")])
    assert errors_of(tmp_path, "MRPC", allow_partial=True) == []
    through_csv(path)
    (error,) = errors_of(tmp_path, "MRPC", allow_partial=True)
    assert "MRPC/train.tsv: written by a CSV writer: 40 texts stand in quotation marks, those inside doubled" in error
    assert error.endswith("(Python: csv.QUOTE_NONE)")
    path = write_examples(tmp_path, "MRPC", "train", [example for example in examples if '"' not in example.first])
    through_csv(path, csv.QUOTE_ALL)
    assert "the header is not MRPC's" in errors_of(tmp_path, "MRPC", allow_partial=True)[0]
    change(path, lambda number, row: [cell.strip('"') for cell in row] if number == 0 else row, first_row=0)
    change(path, lambda number, row: [cell.strip('"') if place < 3 else cell for place, cell in enumerate(row)])
    (error,) = errors_of(tmp_path, "MRPC", allow_partial=True)
    assert "written by a CSV writer: 80 of 80 texts stand in quotation marks" in error


def test_qqp_is_quoted_as_published(tmp_path: Path) -> None:
    examples = [Example(f'"Is ""{n}"" a number?"', "Is it?", str(int(n % 3 == 0))) for n in range(30)]
    path = write_examples(tmp_path, "QQP", "train", examples)
    write_examples(tmp_path, "QQP", "dev", [Example("a", "b", "0"), Example("c", "d", "1")])
    assert errors_of(tmp_path, "QQP", allow_partial=True) == []
    rows = read_rows(path)
    written = io.StringIO()
    csv.writer(written, delimiter="\t", lineterminator="\n").writerows(rows)
    path.write_text(written.getvalue())
    (error,) = errors_of(tmp_path, "QQP", allow_partial=True)
    assert "written by a CSV writer: 30 texts stand in quotation marks, those inside once more" in error


def test_what_a_csv_writer_makes_is_told_from_what_people_write() -> None:
    for text in ('say "so"', '"so" it is', "plain \u201cquoted\u201d"):
        written = io.StringIO()
        csv.writer(written, lineterminator="").writerow([text])
        assert unquoted(written.getvalue()) == (text if '"' in text else None)
    assert [unquoted(text) for text in ('"all of it"', '"a" and "b"', '"', '""', '"open', '"a""b')] == [None] * 6


def whole_wnli_dev(folder: Path, num_ones: int, quotes: str = '"') -> None:
    """WNLI's development file with its 71 rows; those published have 31 ones and two quotation marks."""
    examples = [Example(f"A premise {n}", f"One {n}", str(int(n < num_ones))) for n in range(71)]
    examples[5] = Example(f"A {quotes}premise{quotes}", "One", examples[5].label)
    write_examples(folder, "WNLI", "dev", examples)
    write_examples(folder, "WNLI", "train", [Example(f"Premise {n}", "One", str(n % 2)) for n in range(40)])


def test_labels_exchanged_and_quotation_marks_lost(tmp_path: Path) -> None:
    whole_wnli_dev(tmp_path, num_ones=31)
    assert errors_of(tmp_path, "WNLI", allow_partial=True) == []
    whole_wnli_dev(tmp_path, num_ones=40)
    assert errors_of(tmp_path, "WNLI", allow_partial=True) == [
        "WNLI/dev.tsv: labels were exchanged: 31 0, 40 1, published are 40, 31: take the original file"
    ]
    whole_wnli_dev(tmp_path, num_ones=30)
    assert "labels were changed: 41 0, 30 1" in errors_of(tmp_path, "WNLI", allow_partial=True)[0]
    whole_wnli_dev(tmp_path, num_ones=31, quotes="")
    (error,) = errors_of(tmp_path, "WNLI", allow_partial=True)
    assert "WNLI/dev.tsv: 0 quotation marks instead of 2: a CSV reader has taken them" in error


def test_rows_eaten_by_a_csv_reader(tmp_path: Path) -> None:
    """A mark that opens a text and is not closed takes the tabs and line ends up to the next one into one cell."""
    whole_wnli_dev(tmp_path, num_ones=31)
    path = tmp_path / "WNLI" / "dev.tsv"
    change(path, lambda n, row: [row[0], f'"{row[1]}', *row[2:]] if n in (10, 14) else row)
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")), delimiter="\t"))
    write_rows(path, [[" ".join(cell.split()) for cell in row] for row in rows])
    error = errors_of(tmp_path, "WNLI")[-1]
    assert error.startswith("WNLI/dev.tsv: rows: 67 instead of 71 (a CSV reader eats rows"), error


@pytest.mark.parametrize(("share_of_ones", "is_found"), [(0.37, False), (0.5, False), (0.63, True)])
def test_labels_exchanged_in_a_part(tmp_path: Path, share_of_ones: float, is_found: bool) -> None:
    examples = [Example(f"Question {n}?", "Another?", str(int(n < 1000 * share_of_ones))) for n in range(1000)]
    write_examples(tmp_path, "QQP", "train", examples).rename(tmp_path / "QQP" / "train.SAMPLE.tsv")
    write_examples(tmp_path, "QQP", "dev", [Example("a", "b", "0"), Example("c", "d", "1")])
    errors = errors_of(tmp_path, "QQP", allow_partial=True)
    expected = (
        "QQP/train.SAMPLE.tsv: labels were exchanged: 370 0, 630 1, but most of QQP's are 0: take the original file"
    )
    assert errors == ([expected] if is_found else [])


def test_one_annotators_label_instead_of_the_gold_label(copy: Path) -> None:
    path = copy / "MNLI" / "dev_matched.tsv"
    labels = TASKS["MNLI"].labels or ()

    def disagree(number: int, row: list[str]) -> list[str]:
        other = labels[(labels.index(row[15]) + 1) % 3] if number % 4 == 0 else row[15]
        return [*row[:11], other, *row[12:]]

    change(path, disagree)
    assert errors_of(copy, "MNLI") == []
    change(path, lambda number, row: [*row[:15], row[11]])
    (error,) = errors_of(copy, "MNLI")
    assert error.startswith("MNLI/dev_matched.tsv:2: the gold label of 60 of 240 rows has no majority of label1-5: ")
    change(path, lambda number, row: [*row[:11], row[11]], first_row=0)
    (error,) = errors_of(copy, "MNLI")
    assert error.startswith("MNLI/dev_matched.tsv:1: the header is not MNLI's")


@pytest.mark.parametrize(("name", "expected"), [("RTE", "sentence1 is shorter than sentence2"),
                                                ("QNLI", "sentence is shorter than question")])  # fmt: skip
def test_texts_exchanged_under_their_header(copy: Path, name: str, expected: str) -> None:
    change(copy / name / "train.tsv", lambda number, row: [row[0], row[2], row[1], row[3]])
    (error,) = errors_of(copy, name)
    assert error == f"{name}/train.tsv: {expected} on average: the columns were exchanged: take the original file"


def test_numbers_in_the_place_of_texts(copy: Path) -> None:
    """QQP with its columns qid1 and question1 exchanged, under the right header."""
    change(copy / "QQP" / "train.tsv", lambda number, row: [row[0], row[3], row[2], row[1], *row[4:]])
    (error,) = errors_of(copy, "QQP")
    assert error.startswith("QQP/train.tsv: 1,200 of 1,200 texts of question1 are numbers: the columns were exchanged")


def test_texts_that_were_encoded_twice(copy: Path) -> None:
    path = copy / "SST-2" / "dev.tsv"
    change(path, lambda number, row: [f"{row[0]} caf\u00e9", row[1]] if number < 9 else row)
    assert errors_of(copy, "SST-2") == []
    path.write_bytes(path.read_bytes().decode("utf-8").encode("utf-8").decode("cp1252").encode("utf-8"))
    (error,) = errors_of(copy, "SST-2")
    assert error.startswith("SST-2/dev.tsv: encoded twice: 9 of 9 texts with accents look like")


def test_a_test_file_in_another_order(copy: Path) -> None:
    """Shuffled, its numbers with it: only told of a whole file, for a part's numbers are the whole one's."""
    path = copy / "RTE" / "test.tsv"
    header, *rows = read_rows(path)
    write_rows(path, [header, *rows[:3], *rows[:2:-1]])
    (error,) = errors_of(copy, "RTE")
    assert error.startswith("RTE/test.tsv:5: row 3 is numbered '79': a test file is numbered from 0 on: take the orig")
    write_rows(path, [header, *([str(number), *row[1:]] for number, row in enumerate(rows[::-1]))])
    assert errors_of(copy, "RTE") == []  # numbered anew: nobody can see that
    write_rows(path, [header, *rows[5:]])
    (error,) = errors_of(copy, "RTE")
    assert error.startswith("RTE/test.tsv: rows: 75 instead of 80")


def test_examples_in_two_splits(copy: Path) -> None:
    dev, test = (read_rows(copy / "MRPC" / file) for file in ("dev.tsv", "test.tsv"))
    change(copy / "MRPC" / "train.tsv", lambda number, row: [row[0], *dev[2][1:]] if number == 9 else row)
    change(copy / "MRPC" / "dev.tsv", lambda number, row: [row[0], *test[5][1:]] if number == 0 else row)
    errors = errors_of(copy, "MRPC")
    assert [error.partition("; the published")[0] for error in errors] == [
        "MRPC/dev.tsv:3: examples in common with train.tsv: 1, this one is its line 11",
        "MRPC/test.tsv:6: examples in common with dev.tsv: 1, this one is its line 2",
    ]
    assert all("leave them out of one file" in error for error in errors)


def test_labels_that_teach_nothing(copy: Path) -> None:
    change(copy / "SST-2" / "train.tsv", lambda number, row: [row[0], "1"])
    change(copy / "MNLI" / "train.tsv", lambda n, row: [*row[:11], "entailment" if row[11] == "neutral" else row[11]])
    change(copy / "STS-B" / "dev.tsv", lambda number, row: [*row[:9], "2.5"])
    sst2, mnli, stsb = errors_of(copy, "SST-2", "MNLI", "STS-B")
    assert sst2.startswith("SST-2/train.tsv: all 1,200 labels are the same (0 0, 1,200 1): take another file")
    assert mnli.startswith("MNLI/train.tsv: no example is labelled neutral (800 entailment, 0 neutral, 400 contrad")
    assert stsb == "STS-B/dev.tsv: every score is 2.5: take the original file"


def test_scores_divided_by_five(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        examples = [Example(f"{split} {n}", "Another", f"{n / 60:.3f}") for n in range(60)]
        write_examples(tmp_path, "STS-B", split, examples)
    errors = errors_of(tmp_path, "STS-B", allow_partial=True)
    assert [error.partition(": ")[2] for error in errors] == [
        "scores from 0 to 0.983: they were divided by 5: take the original file"
    ] * 2


def test_counts_and_states(copy: Path) -> None:
    (copy / "README.txt").unlink()  # the published counts apply
    rows = read_rows(copy / "RTE" / "train.tsv")
    write_rows(copy / "RTE" / "train.tsv", rows[:278])
    write_rows(
        copy / "RTE" / "dev.tsv",
        [rows[0], *([str(n), f"A longer text {n}", "x", "entailment"] for n in range(277)), rows[1]],
    )
    (copy / "RTE" / "test.tsv").write_bytes(b"index\tsentence1\tsentence2\n0\tcaf\xe9\tb\n")
    (copy / "WNLI" / "dev.tsv").unlink()
    (copy / "WNLI" / "test.tsv").unlink()
    checks = check_files(copy, [TASKS["RTE"], TASKS["WNLI"]])
    assert [check.state for check in checks] == [PARTIAL, TOO_LONG, UNREADABLE, TOO_LONG, MISSING, MISSING]
    assert [check.num_rows for check in checks] == [277, 278, None, 1000, None, None]
    errors = errors_of(copy, "RTE", "WNLI")
    assert errors[0].startswith(
        "RTE/train.tsv: rows: 277 instead of 2,490, as many as RTE's dev.tsv has: take the orig"
    )
    assert errors[1] == "RTE/dev.tsv: rows: 278 instead of 277: take the original file"
    assert "RTE/test.tsv:2: not UTF-8, byte 0xe9 at offset 31" in " ".join(errors)
    assert errors[-1] == "WNLI/dev.tsv: missing: add it, or leave the task out"
    assert notes_of(copy, "WNLI")[-1] == "WNLI/test.tsv: missing: only a submission needs it"


def test_a_part_is_an_error_unless_it_is_allowed(copy: Path) -> None:
    (copy / "README.txt").unlink()
    folder = copy / "QNLI"
    rows = read_rows(folder / "train.tsv")
    write_rows(folder / "train.SAMPLE9.tsv", rows[:10])
    write_rows(folder / "dev.SAMPLE9.tsv", rows[:10])
    errors = errors_of(copy, "QNLI")
    assert "QNLI/train.tsv: rows: 1,200 instead of 104,743: take the original file, or `--allow_partial`" in errors[0]
    (folder / "train.tsv").rename(folder / "train.SAMPLE1200.rebuilt.tsv")
    (folder / "test.tsv").unlink()
    (folder / "dev.tsv").rename(folder / "dev.SAMPLE240.tsv")
    assert errors_of(copy, "QNLI") == [
        "QNLI/train.SAMPLE1200.rebuilt.tsv: a part that stands in for train.tsv, 1,200 of 104,743 rows: "
        "add the whole file, or `--allow_partial`",
        "QNLI/dev.SAMPLE240.tsv: a part that stands in for dev.tsv, 240 of 5,463 rows: "
        "add the whole file, or `--allow_partial`",
    ]
    assert errors_of(copy, "QNLI", allow_partial=True) == []
    assert "scores of parts are not those of the task" in notes_of(copy, "QNLI", allow_partial=True)[0]
    states = [check.state for check in check_files(copy, [TASKS["QNLI"]], allow_partial=True)]
    assert states == [PARTIAL, PARTIAL, MISSING]


def test_byte_order_marks_and_crlf_are_notes(copy: Path) -> None:
    path = copy / "MRPC" / "dev.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert errors_of(copy, "MRPC") == []
    assert notes_of(copy, "MRPC") == [
        "MRPC/dev.tsv:1: begins with a byte-order mark: nothing to do, it is left out",
        "MRPC/dev.tsv: lines end with CRLF: nothing to do, they are read alike",
    ]


def test_missing_folders(copy: Path) -> None:
    shutil.rmtree(copy / "WNLI")
    (error,) = errors_of(copy, "WNLI", "RTE")
    assert error.startswith("WNLI: no folder 'WNLI' in ") and "add" in error
    with pytest.raises(UserError, match=r"no folder .*nowhere: give the GLUE folder"):
        check_data(copy / "nowhere", [TASKS["RTE"]])


def test_ones_own_task_is_checked(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "".join(f"text {n}\tno\n" for n in range(9)))
    (tmp_path / "dev.tsv").write_text("text\tlabel\ntext 3\tyes\nanother\tno\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntrain: train.tsv\ndev: dev.tsv\ntext: text\nlabel: label\nlabels: [no, yes]\n"
    )
    checks = check_files(tmp_path / "nowhere", [read_task_file(tmp_path / "mine.yaml")])
    assert [(check.state, check.num_rows, check.num_expected) for check in checks] == [
        (COMPLETE, 9, 0),
        (COMPLETE, 2, 0),
    ]
    errors = [str(problem) for check in checks for problem in check.problems if problem.is_error]
    assert errors[0].startswith(f"{tmp_path}/train.tsv: all 9 labels are the same (9 no, 0 yes)")
    assert errors[1].startswith(f"{tmp_path}/dev.tsv:2: examples in common with train.tsv: 1, this one is its line 5: ")


def test_the_diagnostic_file_is_checked_where_it_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_examples(copy, "AX", "test", [Example("a", "b")])
    (copy / "AX").rename(copy / "diagnostic")  # as download_glue_data.py names it
    with pytest.raises(UserError, match="1 error in 1 of 30 files"):
        check_command(["--data", str(copy)])
    assert f"error: {copy}/diagnostic/diagnostic.tsv: rows: 1 instead of 1,104" in capsys.readouterr().out
    check_command(["--data", str(copy), "--tasks", "AX", "--allow_partial"])


def test_the_labels_of_the_diagnostic_file_are_checked_where_they_are(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run on MNLI would read them: against their layout, and row by row against diagnostic.tsv."""
    write_examples(copy, "AX", "test", [Example(f"a{number}", f"b{number}") for number in range(60)])
    path = write_diagnostics(copy)
    words = ["--data", str(copy), "--tasks", "AX", "--allow_partial"]
    good = path.read_text()
    check_command(words)
    assert re.search(r"AX +diagnostic-full\.tsv +60 +1,104 +partial\n", capsys.readouterr().out)
    lines = good.splitlines(keepends=True)
    doctored = [
        (good.replace("Hypothesis", "hypothesis"), ":1: the header is not AX's"),
        (
            good.replace("\tneutral\n", "\tneutrl\n", 1),
            ":3: label 'neutrl' is not one of AX's (did you mean",
        ),
        (good.replace("\tneutral\n", "\n", 1), ":3: 7 columns instead of 8"),
        ("".join(lines[:-1]), ":60: the file ends after 59 examples, diagnostic.tsv has 60"),
        (good.replace("\ta7\t", "\ta17\t"), ":9: Premise 'a17' is not that of diagnostic.tsv:9, 'a7'"),
        (re.sub("neutral|contradiction", "entailment", good), ": all 60 labels are the same"),
        ("", ": no examples"),
    ]
    for text, told in doctored:
        path.write_text(text)
        with pytest.raises(UserError, match="1 error in 1 of 2 files"):
            check_command(words)
        assert f"error: {path}{told}" in capsys.readouterr().out
    path.write_text(good)
    (copy / "AX" / "diagnostic.tsv").unlink()
    assert errors_of(copy, "AX", allow_partial=True) == ["AX/diagnostic.tsv: missing: add it, or leave the task out"]


def test_a_misspelled_option_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown option '--allow_partail' \(did you mean '--allow_partial'"):
        check_command(["--allow_partail"])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs GLUE's original files")
def test_published_files_pass_and_parts_are_told() -> None:
    checks = check_files(REAL_DATA, [TASKS[name] for name in COMPLETE_TASKS])
    assert {check.state for check in checks} == {COMPLETE}
    assert [str(problem) for check in checks for problem in check.problems if problem.is_error] == []
    parts = check_files(REAL_DATA, [TASKS["MNLI"], TASKS["QNLI"]])
    assert [check.state for check in parts] == [
        PARTIAL,
        PARTIAL,
        PARTIAL,
        MISSING,
        MISSING,
        PARTIAL,
        COMPLETE,
        COMPLETE,
    ]
    assert errors_of(REAL_DATA, "MNLI", "QNLI", allow_partial=True) == []
    assert len(errors_of(REAL_DATA, "MNLI", "QNLI")) == 4


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="needs GLUE's original files")
@pytest.mark.parametrize(("name", "file", "num_eaten"), [("MRPC", "train.tsv", 98), ("QNLI", "dev.tsv", 196)])
def test_published_files_through_csv_are_found(tmp_path: Path, name: str, file: str, num_eaten: int) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for path in (REAL_DATA / name).glob("*.tsv"):
        shutil.copyfile(path, folder / path.name)
    path = folder / file
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), delimiter="\t"))
    assert len(read_rows(path)) - len(rows) == num_eaten
    write_rows(path, [[" ".join(cell.split()) for cell in row] for row in rows])
    errors = " ".join(errors_of(tmp_path, name, allow_partial=name == "QNLI"))
    assert "quotation marks" in errors or "columns instead of" in errors
