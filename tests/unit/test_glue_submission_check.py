"""The check of a submission's zip: what the leaderboard takes, and every way of not being that, with file and line."""

from __future__ import annotations

import io
import re
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glue_eval import submission_check
from glue_eval.submission import zip_bytes
from glue_eval.submission_check import LAYOUT, MAX_SHOWN, check_zip
from glue_eval.submit_command import submit_command
from nlp_adan.errors import UserError

# Written out once more, from the leaderboard's instructions, so that the table of tasks is compared with something.
ROWS = {
    "CoLA.tsv": 1063,
    "SST-2.tsv": 1821,
    "MRPC.tsv": 1725,
    "STS-B.tsv": 1379,
    "MNLI-m.tsv": 9796,
    "MNLI-mm.tsv": 9847,
    "QNLI.tsv": 5463,
    "QQP.tsv": 390965,
    "RTE.tsv": 3000,
    "WNLI.tsv": 146,
    "AX.tsv": 1104,
}
LABELS = {
    **{name: {"0", "1"} for name in ("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "WNLI.tsv")},
    **{name: {"entailment", "not_entailment"} for name in ("QNLI.tsv", "RTE.tsv")},
    **{name: {"entailment", "neutral", "contradiction"} for name in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv")},
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a good zip, made without the writer."""
    made = {}
    for name, count in ROWS.items():
        labels = sorted(LABELS.get(name, {"0.000", "2.5", "5"}))
        made[name] = "index\tprediction\n" + "".join(f"{row}\t{labels[row % len(labels)]}\n" for row in range(count))
    return made


def write_zip(path: Path, files: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_a_whole_submission_of_the_writers_passes(tmp_path: Path) -> None:
    path = tmp_path / "made.zip"
    path.write_bytes(
        zip_bytes({name: [sorted(LABELS.get(name, {"4.750"}))[0]] * count for name, count in ROWS.items()})
    )
    found = check_zip(path)
    assert not found.problems and {file.name: file.num_rows for file in found.files} == ROWS


def test_layout_is_the_leaderboards() -> None:
    assert {name: split.num_examples for name, (_, split) in LAYOUT.items()} == ROWS
    assert {name: set(task.labels) for name, (task, _) in LAYOUT.items() if task.labels} == LABELS
    assert LAYOUT["STS-B.tsv"][0].score_range == (0.0, 5.0)


def test_good_zip_has_no_problem(good: dict[str, str], tmp_path: Path) -> None:
    found = check_zip(write_zip(tmp_path / "good.zip", good))
    assert not found.problems
    assert {file.name: file.num_rows for file in found.files} == ROWS
    shown = {file.name: file.predictions for file in found.files}
    assert shown["WNLI.tsv"] == "0: 73, 1: 73" and shown["STS-B.tsv"] == "0.000 to 5.000, 3 different"


def replaced(name: str, line: int, text: str | None) -> Callable[[dict[str, Any]], None]:
    """Replace a line (from 1), or leave it out."""

    def change(files: dict[str, Any]) -> None:
        lines = files[name].split("\n")
        lines[line - 1 : line] = [] if text is None else [text]
        files[name] = "\n".join(lines)

    return change


def renamed(name: str, other: str) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.update({other: files.pop(name)})


def made(name: str, change: Callable[[str], str | bytes]) -> Callable[[dict[str, Any]], None]:
    return lambda files: files.update({name: change(files.get(name, ""))})


DOCTORED: list[tuple[Callable[[dict[str, Any]], None], list[str]]] = [
    (
        replaced("WNLI.tsv", 12, None),
        [
            "WNLI.tsv:12: index '11' instead of 10: rows are numbered from 0 to 145",
            "WNLI.tsv: 145 rows instead of 146: predict the whole WNLI/test.tsv",
        ],
    ),
    (replaced("CoLA.tsv", 1, "id\tlabel"), ["CoLA.tsv:1: the header is 'id\\tlabel': the first line has to be index"]),
    (replaced("CoLA.tsv", 1, "index,prediction"), ["CoLA.tsv:1: the header is 'index,prediction'"]),
    (replaced("CoLA.tsv", 1, None), ["CoLA.tsv:1: the header is '0\\t0'"]),
    (
        replaced("RTE.tsv", 5, "3\tNot_entailment"),
        ["RTE.tsv:5: label 'Not_entailment' is not one of RTE's (did you mean 'not_entailment'?): use entailment,"],
    ),
    (replaced("QNLI.tsv", 5, "3\t1"), ["QNLI.tsv:5: label '1' is not one of QNLI's: use entailment, not_entailment"]),
    (replaced("AX.tsv", 5, "3\tneutral "), ["AX.tsv:5: label 'neutral ' is not one of AX's (did you mean 'neutral'?)"]),
    (
        made("WNLI.tsv", lambda text: text.replace("\n6\t0\n7\t1\n", "\n7\t1\n6\t0\n")),
        ["WNLI.tsv:8: index '7' instead of 6", "WNLI.tsv:9: index '6' instead of 8", "WNLI.tsv:10: index '8' instea"],
    ),
    (replaced("WNLI.tsv", 3, "01\t0"), ["WNLI.tsv:3: index '01' instead of 1"]),
    (replaced("WNLI.tsv", 3, "one\t0"), ["WNLI.tsv:3: index 'one' instead of 1"]),
    (replaced("WNLI.tsv", 3, "1 0"), ["WNLI.tsv:3: 1 columns: '1 0': a row is index, tab, prediction"]),
    (replaced("WNLI.tsv", 3, "1\t0\t0"), ["WNLI.tsv:3: 3 columns"]),
    (made("WNLI.tsv", lambda text: text + "146\t1\n"), ["WNLI.tsv: 147 rows instead of 146"]),
    (made("WNLI.tsv", lambda text: text + "\n"), ["WNLI.tsv:148: 1 columns: ''", "WNLI.tsv: 147 rows instead of 146"]),
    (made("WNLI.tsv", lambda text: ""), ["WNLI.tsv:1: the header is ''", "WNLI.tsv: 0 rows instead of 146"]),
    (replaced("STS-B.tsv", 4, "2\t5.2"), ["STS-B.tsv:4: score 5.2 is outside STS-B's range: write a number fr"]),
    *[
        (replaced("STS-B.tsv", 4, f"2\t{bad}"), [f"STS-B.tsv:4: score {bad!r} is not a decimal number"])
        for bad in ("-0.1", "nan", "inf", "1e0", "", " 1", "2,5", "1_0", "٣")
    ],
    (made("MRPC.tsv", lambda text: text.replace("\n", "\r\n")), ["MRPC.tsv:1: Windows or Mac line ends on 1726 lines"]),
    (
        made("MRPC.tsv", lambda text: text.replace("\n", "\r")),
        ["MRPC.tsv:1: Windows or Mac", "MRPC.tsv:1: the header is", "MRPC.tsv: 0 rows"],
    ),
    (made("MRPC.tsv", lambda text: "\ufeff" + text), ["MRPC.tsv:1: begins with a byte-order mark: save it as UTF-8"]),
    (made("MRPC.tsv", lambda text: text.encode("utf-16")), ["MRPC.tsv:1: byte 0xff is not UTF-8"]),
    (made("MRPC.tsv", lambda text: text.encode().replace(b"\n9\t", b"\n\xe9")), ["MRPC.tsv:11: byte 0xe9 is not"]),
    (made("LICENSE", lambda text: "mine"), ["LICENSE: is no file of a submission: only these belong"]),
    (
        renamed("CoLA.tsv", "cola.tsv"),
        ["cola.tsv: is no file of a submission (did you mean 'CoLA.tsv'?)", "CoLA.tsv: is missing: all of the 11"],
    ),
    (lambda files: files.pop("WNLI.tsv"), ["WNLI.tsv: is missing: all of the 11 files are needed"]),
    (renamed("RTE.tsv", "sub/RTE.tsv"), ["sub/RTE.tsv: is in a folder: put the files at the zip's top"]),
    (made("sub/", lambda text: ""), ["sub: is a folder: put only files into the zip"]),
    *[
        (made(bad, lambda text: "x"), ["leads out of the folder where the zip is unpacked"])
        for bad in ("../evil.tsv", "/etc/evil.tsv", "a/../../evil.tsv", "..\\evil.tsv", "C:\\evil.tsv")
    ],
]  # fmt: skip


@pytest.mark.parametrize(("change", "messages"), DOCTORED)
def test_doctored_zips(
    good: dict[str, str], tmp_path: Path, change: Callable[[dict[str, Any]], None], messages: list[str]
) -> None:
    # The largest file takes most of the time, and nothing here is about it.
    files: dict[str, Any] = {name: text for name, text in good.items() if name != "QQP.tsv"}
    expected = [*messages, "QQP.tsv: is missing"]
    change(files)
    found = [str(problem) for problem in check_zip(write_zip(tmp_path / "my.zip", files)).problems]
    assert len(found) == len(expected), found
    for message in expected:
        assert any(message in problem for problem in found), (message, found)
    assert all(problem.startswith(str(tmp_path / "my.zip/")) for problem in found)


def test_all_problems_are_printed_and_the_command_fails(
    good: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**good, "CoLA.tsv": good["CoLA.tsv"].replace("index", "id"), "extra.tsv": ""}
    del files["QQP.tsv"]
    path = write_zip(tmp_path / "my.zip", files)
    with pytest.raises(UserError, match=r"my.zip: 3 problems: the leaderboard would not take it; mend it, or make it"):
        submit_command(["--check", str(path)])
    shown = capsys.readouterr().out
    assert f"{path}/CoLA.tsv:1: " in shown and f"{path}/extra.tsv: " in shown and f"{path}/QQP.tsv: is missing" in shown


def test_a_mistake_on_every_line_is_shown_some_times_and_counted(good: dict[str, str], tmp_path: Path) -> None:
    files = {"QNLI.tsv": good["QNLI.tsv"].replace("\tentailment\n", "\t1\n")}
    found = [str(problem) for problem in check_zip(write_zip(tmp_path / "a.zip", files)).problems if problem.line]
    assert len(found) == MAX_SHOWN + 1
    assert f"QNLI.tsv:5464: the last of {2732 - MAX_SHOWN} more lines with a bad label" in found[-1]


def test_files_twice_links_passwords_and_other_packing(
    good: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission_check, "MAX_BYTES", 1 << 20)
    path = tmp_path / "my.zip"
    link = zipfile.ZipInfo("RTE.tsv")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("CoLA.tsv", good["CoLA.tsv"])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("CoLA.tsv", "other")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("WNLI.tsv", good["WNLI.tsv"], zipfile.ZIP_LZMA)
        archive.writestr("AX.tsv", good["AX.tsv"])
        archive.infolist()[-1].flag_bits |= 1
        archive.writestr("MRPC.tsv", b"\0" * ((1 << 20) + 1))
    problems = "\n".join(str(problem) for problem in check_zip(path).problems)
    assert "CoLA.tsv: is in the zip twice" in problems
    assert "RTE.tsv: is a link" in problems
    assert "WNLI.tsv: is packed by method 14, not by deflate" in problems
    assert "AX.tsv: is encrypted" in problems
    assert "MRPC.tsv: has 1048577 bytes unpacked" in problems


@pytest.mark.parametrize("data", [b"", b"index\tprediction\n0\t1\n", b"PK\x03\x04" + b"\0" * 60])
def test_zip_that_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none.zip"
    path.write_bytes(data)
    found = check_zip(path)
    assert len(found.problems) == 1 and "not a zip file" in str(found.problems[0])
    with pytest.raises(UserError, match=r"none.zip: 1 problem: "):
        submit_command(["--check", str(path)])


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 3))
def test_a_damaged_zip_is_never_taken_silently_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, length: int
) -> None:
    content = "index\tprediction\n" + "".join(f"{row}\t{row % 2}\n" for row in range(146))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("WNLI.tsv", content)
    data = bytearray(buffer.getvalue())
    place %= len(data)
    data[place : place + length] = bytes([value])
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    path.write_bytes(data)
    found = check_zip(path)
    if "WNLI.tsv" in {file.name for file in found.files}:
        with zipfile.ZipFile(path) as archive:
            assert archive.read("WNLI.tsv").decode() == content


ROW_TEXTS = st.sampled_from(["0\t0", "1\t1", "2\t0", "1\t2", "index\tprediction", "", "1", "1\t1\t", "1\t1\r"])


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 147), ROW_TEXTS, st.booleans()), max_size=4), st.sampled_from(["\n", "", "\r"])
)
def test_check_takes_exactly_what_the_format_allows(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, str, bool]], end: str
) -> None:
    lines = ["index\tprediction", *(f"{row}\t{row % 2}" for row in range(146))]
    for place, text, insert in edits:
        lines[place : place if insert else place + 1] = [text]
    content = "\n".join(lines) + end
    # The format in one expression per row, in the place of the check's many.
    body = "".join(rf"{row}\t[01]\n" for row in range(146))
    is_good = re.fullmatch(rf"index\tprediction\n{body}", content if content.endswith("\n") else content + "\n")
    path = write_zip(tmp_path_factory.getbasetemp() / "edited.zip", {"WNLI.tsv": content})
    problems = [problem for problem in check_zip(path).problems if problem.path.name == "WNLI.tsv"]
    assert bool(problems) == (is_good is None), (problems, lines[:5])
