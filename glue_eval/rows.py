"""The rows of one file of a task, with every mistake told: by an exception, or to whoever collects them.

GLUE's TSV files are not CSV: a quotation mark is a character like any other, a row is a line, a column ends at a tab.
(With the default quoting of Python's csv module, 98 rows of MRPC's training file go.) A byte-order mark and CRLF line
ends are accepted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from glue_eval.problems import OnProblem, Problem, raise_problem, shorten
from glue_eval.tasks import TASKS, SplitFile, Task
from glue_eval.text_files import not_lines, undecodable
from nlp_adan.errors import UserError, nearest

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_LINES = ".jsonl"


class BadLabel(Exception):
    """A cell of the label column that is none of the task's labels; `remedy` says what it may be."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


def label_parser(task: Task) -> Callable[[str], int | float]:
    """What makes a label's text a class number (its place in `Task.labels`), or a score; it raises `BadLabel`."""
    if task.labels is None:
        return lambda cell: _parse_score(cell, task)
    labels = task.labels
    numbers = {label: number for number, label in enumerate(labels)}

    def parse_class(cell: str) -> int:
        number = numbers.get(cell)
        if number is None:
            text = f"label {shorten(cell)!r} is not one of {task.name}'s{nearest(cell, labels)}"
            raise BadLabel(text, f"use {', '.join(labels)}")
        return number

    return parse_class


def _parse_score(cell: str, task: Task) -> float:
    low, high = task.score_range or (float("-inf"), float("inf"))
    try:
        score = float(cell)
    except ValueError:
        text = f"score {shorten(cell)!r} is not a number from {low:g} to {high:g}"
        raise BadLabel(text, "mend the line or take the original file") from None
    if not low <= score <= high:
        raise BadLabel(f"score {cell} is outside {task.name}'s range", f"use {low:g} to {high:g}")
    return score


class Rows:
    """The data rows of one file as (line number from 1, cells in the order of `layout.columns`), one iteration.

    A row that is not the layout's is told to `on_problem` and left out. Behind a wrong header only the lines are
    counted. While and after it is iterated: `num_rows` counts data lines, bad ones too; `num_skipped` the short rows
    that this task's readers leave out; `is_whole` is false where undecodable bytes ended the reading.
    """

    def __init__(self, path: Path, task: Task, layout: SplitFile, on_problem: OnProblem = raise_problem) -> None:
        self.path, self.task, self.layout, self.on_problem = path, task, layout, on_problem
        self.num_rows = 0
        self.num_skipped = 0
        self.has_byte_order_mark = False
        self.has_crlf = False
        self.header_is_right = True
        self.is_whole = True
        self.last_line = 0

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        if self.path.suffix == JSON_LINES:
            yield from self._json_rows()
        else:
            yield from self._table_rows()
        if not self.num_rows and self.is_whole:
            whole = "add examples" if self.task.definition else f"take the original {self.layout.file}"
            self._tell(None, "no examples", f"{whole} of {self.task.name}")

    def _tell(self, line: int | None, text: str, remedy: str) -> None:
        self.on_problem(Problem(self.path, line, text, remedy))

    def _table_rows(self) -> Iterator[tuple[int, list[str]]]:
        layout, width = self.layout, len(self.layout.columns)
        lines = self._lines()
        if layout.has_header:
            self._check_header(next(lines, (1, ""))[1])
        for line, text in lines:
            cells = text.split("\t")
            if len(cells) < width and self.task.skip_short_rows:
                self.num_skipped += 1
                continue
            self.num_rows += 1
            if self.num_rows == 1 and not layout.has_header:
                self._check_no_header(line, cells)
            if not self.header_is_right:
                continue
            if len(cells) == width:
                yield line, cells
            else:
                columns = " | ".join(layout.columns)
                remedy = "columns end at tabs, mend the line or take the original file"
                self._tell(line, f"{len(cells)} columns instead of {width} ({columns})", remedy)

    def _json_rows(self) -> Iterator[tuple[int, list[str]]]:
        label_column = self.layout.label_column
        for line, text in self._lines():
            self.num_rows += 1
            try:
                members = json.loads(text)
            except ValueError as error:
                self._tell(line, f"not JSON ({str(error)[:80]})", 'put one object on each line: {"text": "..."}')
                continue
            if not isinstance(members, dict):
                self._tell(line, f"a JSON {type(members).__name__} instead of an object", "put one object on each line")
                continue
            cells = []
            for name in self.layout.columns:
                value = members.get(name)
                if name == label_column and isinstance(value, (bool, int, float)):
                    value = json.dumps(value)
                if not isinstance(value, str):
                    there = f"has no member {name!r}{nearest(name, members)}" if name not in members else (
                        f"member {name!r} is {shorten(json.dumps(value))}, not text"
                    )  # fmt: skip
                    self._tell(line, there, "mend the line")
                    break
                cells.append(value)
            else:
                yield line, cells

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Numbered lines without their ends; empty ones at the end of the file are none."""
        num_empty = 0
        try:
            with open(self.path, "rb") as start:
                self.has_byte_order_mark = start.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK
            # Only "\n" ends a line: other ways would also break at U+2028 or U+0085 inside a sentence.
            with open(self.path, encoding="utf-8-sig", newline="\n") as file:
                for number, line in enumerate(file, start=1):
                    text = line.removesuffix("\n")
                    if text.endswith("\r"):
                        text, self.has_crlf = text[:-1], True
                    if trouble := not_lines(self.path, number, text):
                        self.is_whole = False
                        self.on_problem(trouble)
                        return
                    if not text:
                        num_empty += 1
                        continue
                    for back in range(num_empty, 0, -1):
                        yield number - back, ""
                    num_empty = 0
                    self.last_line = number
                    yield number, text
        except UnicodeDecodeError:
            self.is_whole = False
            self.on_problem(undecodable(self.path))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}): mend its permissions or path") from error

    def _check_header(self, line: str) -> None:
        found = tuple(line.split("\t"))
        expected = self.layout.columns
        if found == expected:
            return
        self.header_is_right = False
        if not line:
            return  # told as a file without examples
        text = f"the header is not {self.task.name}'s"
        hint, remedy = "", f"take the original {self.layout.file}"
        if self.layout.label_column is None and self.task.definition is None and carries_label(found):
            text, remedy = "a test file that carries labels", "take the unlabelled file, so that no label is ever used"
        elif sorted(found) == sorted(expected):
            hint = " (the same columns in another order)"
        elif owner := whose_header(found):
            hint = f" (this file is {owner})"
        elif len(found) == len(expected) and self._is_example(found):
            hint, remedy = " (line 1 is an example)", "put the header above it, or take the original file"
        shown = f"expected {' | '.join(expected)}, found {' | '.join(shorten(cell) for cell in found)}"
        self._tell(1, f"{text}: {shown}{hint}", remedy)

    def _check_no_header(self, line: int, cells: list[str]) -> None:
        owner = whose_header(tuple(cells))
        if owner and not _is_cola(tuple(cells)):
            self.header_is_right = False
            text = f"a header, but {self.task.name}'s {self.layout.file} has none; this file is {owner}"
            self._tell(line, text, "take the original file")

    def _is_example(self, cells: tuple[str, ...]) -> bool:
        index = self.layout.label_index
        if index is None:
            return cells[0] == "0"
        try:
            label_parser(self.task)(cells[index])
        except BadLabel:
            return False
        return True


def carries_label(header: tuple[str, ...]) -> bool:
    """Whether a file's first line names a column of labels of GLUE, or is an example of CoLA's labelled files."""
    names = {split.label_column for task in TASKS.values() for split in task.splits}
    return bool(names.intersection(header)) or _is_cola(header)


def whose_header(header: tuple[str, ...]) -> str:
    """`STS-B's train.tsv or dev.tsv` for the files of GLUE that begin with this line; empty for no file of GLUE."""
    if _is_cola(header):
        return "CoLA's train.tsv or dev.tsv"
    files: dict[str, list[str]] = {}
    for task in TASKS.values():
        for split in task.splits:
            if split.has_header and split.columns == header:
                files.setdefault(task.name, []).append(split.file)
    return ", ".join(f"{name}'s {' or '.join(found)}" for name, found in files.items())


def _is_cola(cells: tuple[str, ...]) -> bool:
    """CoLA's labelled files have no header: a source, the label, the author's mark, a sentence."""
    return len(cells) == 4 and cells[1] in ("0", "1") and set(cells[2]) <= set("*?")


def read_header(path: Path) -> tuple[str, ...]:
    """The cells of a TSV file's first line; empty for an empty file.

    Raises:
        UserError: The file is not UTF-8, or no text in lines.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            line = file.readline().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UserError(str(undecodable(path))) from None
    if trouble := not_lines(path, 1, line):
        raise_problem(trouble)
    return tuple(line.split("\t")) if line else ()
