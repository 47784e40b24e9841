"""Reading GLUE files: what is accepted, and every refusal with file, line and remedy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from glue_eval.data import read_split, split_paths
from glue_eval.rows import read_header
from glue_eval.tasks import TASKS, TRAINABLE_TASKS, SplitFile
from nlp_adan.errors import UserError

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def row_of(split: SplitFile, label: str, number: int) -> str:
    """One row of the split's layout, whose cells are named after their columns."""
    cells = [
        label if name == split.label_column else str(number) if name == split.id_column else f"{name} {number}"
        for name in split.columns
    ]
    return "\t".join(cells)


def write_file(folder: Path, task_name: str, split_name: str, rows: list[str], end: str = "\n") -> Path:
    """Write rows under the split's header; returns the file's path."""
    split = TASKS[task_name].split(split_name)
    path = folder / task_name / split.file
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ["\t".join(split.columns)] if split.has_header else []
    path.write_bytes("".join(line + end for line in header + rows).encode())
    return path


@pytest.mark.parametrize(
    ("task_name", "split_name"), [(task.name, split.name) for task in TASKS.values() for split in task.splits]
)
def test_every_layout_is_read(tmp_path: Path, task_name: str, split_name: str) -> None:
    task = TASKS[task_name]
    layout = task.split(split_name)
    labels = list(task.labels) if task.labels else ["0.000", "2.5", "5.0"]
    write_file(tmp_path, task_name, split_name, [row_of(layout, label, i) for i, label in enumerate(labels)])
    split = read_split(tmp_path, task, split_name)
    texts = [tuple(f"{name} {number}" for name in layout.text_columns) for number in range(len(labels))]
    assert [tuple(text for text in pair if text is not None) for pair in split.texts] == texts
    assert split.ids == [str(number) for number in range(len(labels))]
    expected: list[int] | list[float] = [0.0, 2.5, 5.0] if task.is_regression else list(range(len(labels)))
    assert split.labels == (None if layout.label_column is None else expected)
    assert len(split) == len(labels)


def test_quotation_marks_byte_order_marks_and_crlf_change_nothing(tmp_path: Path) -> None:
    rows = ['1\t1\t2\t"An open quotation\tA second one', '0\t3\t4\tclosed here"\tA next line sign \u2028 inside']
    path = write_file(tmp_path, "MRPC", "train", rows, end="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    split = read_split(tmp_path, TASKS["MRPC"], "train")
    assert split.texts == [('"An open quotation', "A second one"), ('closed here"', "A next line sign \u2028 inside")]
    assert split.labels == [1, 0]


def test_short_rows_of_qqp_are_left_out_and_counted(tmp_path: Path) -> None:
    layout = TASKS["QQP"].split("train")
    write_file(tmp_path, "QQP", "train", [row_of(layout, "1", 0), "5\t6", row_of(layout, "0", 2)])
    split = read_split(tmp_path, TASKS["QQP"], "train")
    assert (split.labels, split.ids, split.num_skipped) == ([1, 0], ["0", "2"], 1)


@pytest.mark.parametrize(
    ("task_name", "second_row", "expected"),
    [
        ("RTE", "1\tA premise\tA hypothesis\tentailmnt", r"train\.tsv:3: label 'entailmnt'.*did you mean 'entailment'"),
        ("RTE", "1\tA premise\tentailment", r"train\.tsv:3: 3 columns instead of 4 \(index \| sentence1"),
        ("RTE", "1\tA\tpremise\tand more\tentailment", r"train\.tsv:3: 5 columns instead of 4"),
        ("RTE", "", r"train\.tsv:3: 1 columns instead of 4"),
        (
            "STS-B",
            "1\tg\tf\ty\to\ts\ts\tone\ttwo\t7.0",
            r"train\.tsv:3: score 7\.0 is outside STS-B's range: use 0 to 5",
        ),
        ("STS-B", "1\tg\tf\ty\to\ts\ts\tone\ttwo\tnan", r"train\.tsv:3: score nan is outside"),
        ("STS-B", "1\tg\tf\ty\to\ts\ts\tone\ttwo\thigh", r"train\.tsv:3: score 'high' is not a number from 0 to 5"),
        ("CoLA", "gj04\t2\t\tThe third label.", r"train\.tsv:2: label '2' is not one of CoLA's.*use 0, 1"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, task_name: str, second_row: str, expected: str) -> None:
    task = TASKS[task_name]
    good = row_of(task.split("train"), "1.0" if task.is_regression else task.labels[0] if task.labels else "", 0)
    write_file(tmp_path, task_name, "train", [good, second_row, good])
    with pytest.raises(UserError, match=expected):
        read_split(tmp_path, task, "train")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (gzip.compress, r"dev\.tsv: a gzip file instead of UTF-8 text: unpack it"),
        (lambda data: data.decode().encode("utf-16"), r"dev\.tsv: UTF-16 instead .*iconv -f UTF-16 -t UTF-8"),
        (lambda data: data.decode().encode("utf-16-le"), r"dev\.tsv:1: a NUL byte: if the file is UTF-16"),
        (lambda data: data.replace(b"film", b"fi\0m"), r"dev\.tsv:2: a NUL byte"),
        (lambda data: data.replace(b"\n", b"\r"), r"dev\.tsv:1: lines end with CR alone.*tr '\\r' '\\n'"),
    ],
)
def test_what_is_no_text_in_lines_is_named(tmp_path: Path, change: Callable[[bytes], bytes], expected: str) -> None:
    path = write_file(tmp_path, "SST-2", "dev", ["a fine film\t1", "another\t1"])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=expected):
        read_split(tmp_path, TASKS["SST-2"], "dev")
    if ":2:" not in expected:
        with pytest.raises(UserError, match=expected):
            read_header(path)  # of a task of one's own


def test_a_file_that_is_not_utf8_is_named_with_line_and_byte(tmp_path: Path) -> None:
    path = write_file(tmp_path, "SST-2", "dev", ["a fine film\t1", "a caf\u00e9 film\t1"])
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9"))
    with pytest.raises(UserError, match=r"dev\.tsv:3: not UTF-8, byte 0xe9 at offset 34.*iconv"):
        read_split(tmp_path, TASKS["SST-2"], "dev")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(UserError, match=r"dev\.tsv:3: not UTF-8, byte 0xe9 at offset 37"):
        read_split(tmp_path, TASKS["SST-2"], "dev")


def test_a_wrong_header_is_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path, "QNLI", "dev", ["0\tq\ts\tentailment"])
    path.write_text("0\tq\ts\tentailment\n")
    with pytest.raises(UserError, match=r"dev\.tsv:1: the header is not QNLI's: expected index \| question"):
        read_split(tmp_path, TASKS["QNLI"], "dev")


@pytest.mark.parametrize("content", ["", "index\tsentence1\tsentence2\tlabel\n\n\n"])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: str) -> None:
    write_file(tmp_path, "RTE", "dev", []).write_text(content)
    with pytest.raises(UserError, match=r"dev\.tsv: no examples: take the original dev\.tsv"):
        read_split(tmp_path, TASKS["RTE"], "dev")


def test_missing_folders_and_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere: give the GLUE folder"):
        read_split(tmp_path / "nowhere", TASKS["RTE"], "train")
    with pytest.raises(UserError, match=r"no folder 'RTE'.*it has no folder named like a GLUE task"):
        read_split(tmp_path, TASKS["RTE"], "train")
    write_file(tmp_path, "CoLA", "train", ["gj04\t1\t\tA sentence."])
    with pytest.raises(UserError, match=r"no folder 'RTE'.*it has CoLA\)"):
        read_split(tmp_path, TASKS["RTE"], "train")
    with pytest.raises(UserError, match=r"no file .*dev\.tsv: add the whole dev\.tsv of CoLA"):
        read_split(tmp_path, TASKS["CoLA"], "dev")
    (tmp_path / "CoLA" / "dev.SAMPLE9.tsv").write_text("")
    with pytest.raises(UserError, match=r"partial files such as dev\.SAMPLE9\.tsv are not taken"):
        read_split(tmp_path, TASKS["CoLA"], "dev")


def test_the_largest_part_stands_in_for_a_missing_file(tmp_path: Path) -> None:
    task = TASKS["RTE"]
    layout = task.split("train")
    rows = [row_of(layout, "entailment", number) for number in range(5)]
    for name, count in (("train.SAMPLE3.a.tsv", 3), ("train.SAMPLE2.b.tsv", 2), ("train_other.tsv", 5)):
        write_file(tmp_path, "RTE", "train", rows[:count]).rename(tmp_path / "RTE" / name)
    write_file(tmp_path, "RTE", "dev", rows[:1])
    assert split_paths(tmp_path, task) == {"dev": tmp_path / "RTE" / "dev.tsv"}
    assert split_paths(tmp_path, task, allow_partial=True)["train"] == tmp_path / "RTE" / "train.SAMPLE3.a.tsv"
    split = read_split(tmp_path, task, "train", allow_partial=True)
    assert (len(split), split.partial, split.path.name) == (3, "train.SAMPLE3.a.tsv", "train.SAMPLE3.a.tsv")
    assert read_split(tmp_path, task, "dev", allow_partial=True).partial is None
    with pytest.raises(
        UserError, match=r"partial files such as train\.SAMPLE3\.a\.tsv are not taken .*`--allow_partial`"
    ):
        read_split(tmp_path, task, "train")
    write_file(tmp_path, "RTE", "train", rows)
    whole = read_split(tmp_path, task, "train", allow_partial=True)
    assert (len(whole), whole.partial) == (5, None)


def test_the_first_examples_only(tmp_path: Path) -> None:
    """The rows behind them are not looked at: the fourth one is bad."""
    layout = TASKS["QQP"].split("train")
    rows = [row_of(layout, "1", 0), "short", row_of(layout, "0", 2), row_of(layout, "1", 3), row_of(layout, "2", 4)]
    write_file(tmp_path, "QQP", "train", rows)
    split = read_split(tmp_path, TASKS["QQP"], "train", max_examples=3)
    assert (split.ids, split.labels, split.num_skipped) == (["0", "2", "3"], [1, 0, 1], 1)
    with pytest.raises(UserError, match=r"train\.tsv:6: label '2'"):
        read_split(tmp_path, TASKS["QQP"], "train", max_examples=4)


def test_the_diagnostic_file_is_found_under_both_names_of_its_folder(tmp_path: Path) -> None:
    path = write_file(tmp_path, "AX", "test", ["0\ta\tb"])
    assert split_paths(tmp_path, TASKS["AX"]) == {"test": path}
    path.parent.rename(tmp_path / "diagnostic")
    assert split_paths(tmp_path, TASKS["AX"]) == {"test": tmp_path / "diagnostic" / "diagnostic.tsv"}
    assert len(read_split(tmp_path, TASKS["AX"], "test")) == 1


@pytest.mark.skipif(not (REAL_DATA / "glue_tiny").is_dir(), reason="needs the original files of glue_tiny")
@pytest.mark.parametrize("task", TRAINABLE_TASKS, ids=lambda task: task.name)
def test_original_layouts_are_read(task: object) -> None:
    known = TASKS[task.name]  # type: ignore[attr-defined]
    for split in known.splits:
        assert len(read_split(REAL_DATA / "glue_tiny", known, split.name)) >= 1


@pytest.mark.skipif(not (REAL_DATA / "glue").is_dir(), reason="needs GLUE's original files")
@pytest.mark.parametrize("name", ["CoLA", "MRPC", "STS-B", "RTE", "WNLI", "AX"])
def test_published_counts_are_read(name: str) -> None:
    for split in TASKS[name].splits:
        assert len(read_split(REAL_DATA / "glue", TASKS[name], split.name)) == split.num_examples
