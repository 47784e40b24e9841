"""Is a zip what the GLUE leaderboard takes? The files are read anew; only the table of tasks is shared with the writer.

The leaderboard wants eleven files at the top of the zip, each with the header `index<TAB>prediction` and a row for each
example of the test file, numbered from 0 in its order. Labels are the strings of the training file, scores numbers.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from glue_eval.problems import Problem, shorten
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError, nearest

HEADER = "index\tprediction"
LAYOUT: dict[str, tuple[Task, SplitFile]] = {
    split.submission_file: (task, split)
    for task in TASKS.values()
    for split in task.test_splits
    if split.submission_file is not None
}
"""By the name of each file of a submission the task and the test file whose examples it answers."""

REMEDY = "make it with `python -m glue_eval submit OUT`"
MAX_SHOWN = 10  # problems of one kind in one file; more are counted
MAX_BYTES = 1 << 26  # of one file, unpacked: the largest, QQP.tsv, has 3.5 MB
_TAKEN_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_INDEX = re.compile("[0-9]{1,9}")
_SCORE = re.compile(r"[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class FileCheck:
    """One of the expected files as it was found: rows under the header, and in a few words what is predicted."""

    name: str
    num_rows: int
    predictions: str


@dataclass(frozen=True)
class ZipCheck:
    """All problems of a zip, each with the path of the file inside of it (`submission.zip/RTE.tsv`).

    `files`: those that could be read, in the order of `LAYOUT`.
    """

    problems: tuple[Problem, ...]
    files: tuple[FileCheck, ...]


def check_zip(path: Path) -> ZipCheck:
    """Check a submission as a whole and in every row.

    Raises:
        UserError: There is no such file, or it cannot be read. What is wrong inside of it is told in `problems`.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: give a submission's zip, or {REMEDY}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _check_archive(path, archive)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): mend its permissions or path") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        return ZipCheck((Problem(path, None, f"not a zip file, or a damaged one ({error})", REMEDY),), ())


def _check_archive(path: Path, archive: zipfile.ZipFile) -> ZipCheck:
    problems: list[Problem] = []
    entries: dict[str, zipfile.ZipInfo] = {}
    misplaced: set[str] = set()
    for entry in archive.infolist():
        name = entry.orig_filename
        if name in entries:
            problems.append(Problem(path / name, None, "is in the zip twice", "leave one of them"))
        elif name in LAYOUT:
            entries[name] = entry
        else:
            problems.append(_misnamed(path, name))
            misplaced.add(PurePosixPath(name.replace("\\", "/")).name)
    files: list[FileCheck] = []
    for name, (task, split) in LAYOUT.items():
        place = path / name
        if name not in entries:
            if name not in misplaced:
                problems.append(
                    Problem(place, None, "is missing", f"all of the {len(LAYOUT)} files are needed; {REMEDY}")
                )
            continue
        data = _read_entry(archive, entries[name], place, problems)
        if data is not None:
            rows = _Rows(place, task, split)
            rows.check(data)
            problems += rows.all_problems()
            files.append(FileCheck(name, rows.num_rows, rows.summary()))
    return ZipCheck(tuple(problems), tuple(files))


def _misnamed(path: Path, name: str) -> Problem:
    """An entry that is none of the files."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or parts[0].endswith(":"):
        found = ("leads out of the folder where the zip is unpacked", "do not unpack this zip; make it anew")
    elif not parts[-1]:
        found = ("is a folder", "put only files into the zip: `zip submission.zip *.tsv`")
    elif len(parts) > 1:
        found = ("is in a folder", "put the files at the zip's top: `zip -j submission.zip FOLDER/*.tsv`")
    else:
        found = (f"is no file of a submission{nearest(name, LAYOUT)}", f"only these belong there: {', '.join(LAYOUT)}")
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return Problem(Path(f"{path}/{shown}"), None, *found)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path, problems: list[Problem]) -> bytes | None:
    """The bytes of one file; None, and a problem more, where they cannot be had."""
    found = None
    if stat.S_ISLNK(entry.external_attr >> 16):
        found = ("is a link", "put the file itself into the zip")
    elif entry.flag_bits & 1:
        found = ("is encrypted", "make the zip without a password")
    elif entry.compress_type not in _TAKEN_COMPRESSIONS:
        found = (f"is packed by method {entry.compress_type}, not by deflate", "make the zip with `zip`")
    elif entry.file_size > MAX_BYTES:
        found = (f"has {entry.file_size} bytes unpacked, more than any submission", REMEDY)
    else:
        try:
            with archive.open(entry) as file:
                return file.read(MAX_BYTES)  # whatever length the zip claims
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            found = (f"is damaged ({error})", REMEDY)
    problems.append(Problem(place, None, *found))
    return None


@dataclass
class _Rows:
    """The rows of one file, and what is wrong with them, by kind: a kind that fills the file is shown a few times."""

    place: Path
    task: Task
    split: SplitFile
    num_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    more: Counter[str] = field(default_factory=Counter)
    last_line: dict[str, int | None] = field(default_factory=dict)

    def add(self, kind: str, line: int | None, text: str, remedy: str) -> None:
        found = self.problems.setdefault(kind, [])
        if len(found) < MAX_SHOWN:
            found.append(Problem(self.place, line, text, remedy))
        else:
            self.more[kind] += 1
            self.last_line[kind] = line

    def all_problems(self) -> list[Problem]:
        shown: list[Problem] = []
        for kind, found in self.problems.items():
            shown += found
            if self.more[kind]:
                text = f"the last of {self.more[kind]} more lines with a bad {kind}"
                shown.append(Problem(self.place, self.last_line[kind], text, found[-1].remedy))
        return shown

    def summary(self) -> str:
        """`0: 323, 1: 740`, or the range of the scores."""
        if self.task.is_regression:
            if not self.scores:
                return "none"
            return f"{min(self.scores):.3f} to {max(self.scores):.3f}, {len(set(self.scores))} different"
        counts = {label: self.counts[label] for label in self.task.labels or ()}
        return ", ".join(f"{label}: {count}" for label, count in counts.items() if count) or "none"

    def check(self, data: bytes) -> None:
        """Check every line of the file."""
        if data.startswith(b"\xef\xbb\xbf"):
            self.add("start", 1, "begins with a byte-order mark", "save it as UTF-8 without one")
            data = data[3:]
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self.add("encoding", line, f"byte 0x{data[error.start]:02x} is not UTF-8", "save it as UTF-8")
            return
        lines = text.removesuffix("\n").split("\n")
        if "\r" in text:
            crlf = [number for number, line in enumerate(lines, start=1) if line.endswith("\r")] or [1]
            self.add("line end", crlf[0], f"Windows or Mac line ends on {len(crlf)} lines", "end lines by `\\n` alone")
            lines = [line.removesuffix("\r") for line in lines]
        if lines[0] != HEADER:
            header = "index<TAB>prediction"
            self.add("header", 1, f"the header is {shorten(lines[0])!r}", f"the first line has to be {header}")
        first = 0 if _INDEX.fullmatch(lines[0].partition("\t")[0]) else 1  # a row in the header's place counts as a row
        self._check_rows(lines[first:], first + 1)

    def _check_rows(self, lines: list[str], first_line: int) -> None:
        self.num_rows = len(lines)
        expected = 0
        labels = self.task.labels
        for number, line in enumerate(lines, start=first_line):
            index, tab, prediction = line.partition("\t")
            if not tab or "\t" in prediction:
                columns = line.count("\t") + 1
                self.add("row", number, f"{columns} columns: {shorten(line)!r}", "a row is index, tab, prediction")
                expected += 1
                continue
            if index != str(expected):
                remedy = f"rows are numbered from 0 to {self.split.num_examples - 1} in the order of {self.split.file}"
                self.add("index", number, f"index {shorten(index)!r} instead of {expected}", remedy)
                # One missing row is one problem, not one for every row after it.
                expected = int(index) if _INDEX.fullmatch(index) else expected
            expected += 1
            if labels is None:
                self._check_score(prediction, number)
            elif prediction in labels:
                self.counts[prediction] += 1
            else:
                self._tell_label(prediction, labels, number)
        if self.num_rows != self.split.num_examples:
            text = f"{self.num_rows} rows instead of {self.split.num_examples}"
            self.add("count", None, text, f"predict the whole {self.task.name}/{self.split.file}; {REMEDY}")

    def _tell_label(self, text: str, labels: tuple[str, ...], line: int) -> None:
        # The nearest one is looked for only where it is shown: 390,965 times would take minutes.
        hint = "" if len(self.problems.get("label", ())) == MAX_SHOWN else nearest(text[:100], labels)
        wrong = f"label {shorten(text)!r} is not one of {self.task.name}'s{hint}"
        self.add("label", line, wrong, f"use {', '.join(labels)}")

    def _check_score(self, text: str, line: int) -> None:
        low, high = self.task.score_range or (float("-inf"), float("inf"))
        remedy = f"write a number from {low:g} to {high:g}, such as {low:.3f}"
        if not _SCORE.fullmatch(text):
            self.add("score", line, f"score {shorten(text)!r} is not a decimal number", remedy)
            return
        self.scores.append(float(text))
        if not low <= self.scores[-1] <= high:
            self.add("score", line, f"score {shorten(text)} is outside {self.task.name}'s range", remedy)
