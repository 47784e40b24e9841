"""One pass over one file of a task: its mistakes row by row, and the counts by which the whole is judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from glue_eval.problems import Problem
from glue_eval.rows import BadLabel, Rows, label_parser
from glue_eval.tasks import SplitFile, Task

KEPT_PROBLEMS = 20
"""Of one file; more are only counted."""

ANNOTATORS = ("label1", "label2", "label3", "label4", "label5")
MAJORITY = 3


class Problems:
    """The problems of one file, of which only the first are kept; errors that judge the whole file are all kept."""

    def __init__(self) -> None:
        self.kept: list[Problem] = []
        self.num_errors = 0

    def add(self, problem: Problem) -> None:
        """Keep a problem, or only count it where many were kept before."""
        num_kept = sum(other.is_error for other in self.kept)
        self.num_errors += problem.is_error
        if not problem.is_error or problem.line is None or num_kept < KEPT_PROBLEMS:
            self.kept.append(problem)

    @property
    def num_more(self) -> int:
        """Errors that were counted but not kept."""
        return self.num_errors - sum(problem.is_error for problem in self.kept)


@dataclass
class FileScan:
    """What was counted in one file.

    `rows.num_rows` data lines; `label_counts` by class number; `scores` (lowest, highest). Of the texts: `text_lengths`
    (characters of the first ones, of the second ones), `num_numbers` (of each that are digits only), `num_empty`,
    `num_foreign` (with characters beyond ASCII), `num_encoded_twice` (those that are UTF-8 read as Latin-1 or
    Windows-1252 once), `num_quotes` (quotation marks), `num_with_quotes` (texts with one or more), `num_quoted` (those
    that stand in quotation marks with the ones inside doubled, as a CSV writer leaves them), `num_quoted_twice` (those
    that do so still when that is undone once), `num_wrapped` (texts that begin and end with one). `first_lines`: by the
    hash of an example's texts, the line where they occur first; `first_texts`: by the hash of the first text of two,
    how often it occurs. `num_voted`: development rows of MNLI with five annotators' labels; `outvoted_lines`: where
    fewer than three of them are the gold label. `misnumbered`: of a test file the first row that is not numbered as
    they are from 0 on: its line, its number, and what it says instead.
    """

    path: Path
    task: Task
    layout: SplitFile
    rows: Rows
    problems: Problems
    num_examples: int = 0
    label_counts: Counter[int] = field(default_factory=Counter)
    scores: tuple[float, float] | None = None
    text_lengths: list[int] = field(default_factory=lambda: [0, 0])
    num_numbers: list[int] = field(default_factory=lambda: [0, 0])
    num_empty: int = 0
    num_foreign: int = 0
    num_encoded_twice: int = 0
    num_quotes: int = 0
    num_with_quotes: int = 0
    num_quoted: int = 0
    num_quoted_twice: int = 0
    num_wrapped: int = 0
    first_lines: dict[int, int] = field(default_factory=dict)
    first_texts: Counter[int] = field(default_factory=Counter)
    num_voted: int = 0
    outvoted_lines: list[int] = field(default_factory=list)
    misnumbered: tuple[int, int, str] | None = None

    def count_texts(self, line: int, texts: tuple[str, ...]) -> None:
        """Count one example's texts."""
        self.first_lines.setdefault(hash(texts), line)
        if len(texts) > 1:
            self.first_texts[hash(texts[0])] += 1
        for place, text in enumerate(texts):
            self.text_lengths[place] += len(text)
            self.num_numbers[place] += text.isdecimal()
            if not text or text.isspace():
                self.num_empty += 1
            if not text.isascii():
                self.num_foreign += 1
                self.num_encoded_twice += was_encoded_twice(text)
            if '"' in text:
                self.num_quotes += text.count('"')
                self.num_with_quotes += 1
                inside = unquoted(text)
                if inside is not None:
                    self.num_quoted += 1
                    self.num_quoted_twice += unquoted(inside) is not None
                self.num_wrapped += len(text) > 1 and text[0] == text[-1] == '"'

    def count_label(self, label: float) -> None:
        """Count one example's class number or score."""
        if self.task.is_regression:
            low, high = self.scores or (label, label)
            self.scores = (min(low, label), max(high, label))
        else:
            self.label_counts[int(label)] += 1

    def count_votes(self, line: int, votes: list[str], gold: str) -> None:
        """Compare MNLI's gold label with its annotators', where all five are given."""
        if all(vote in (self.task.labels or ()) for vote in votes):
            self.num_voted += 1
            if votes.count(gold) < MAJORITY:
                self.outvoted_lines.append(line)


def scan_file(path: Path, task: Task, layout: SplitFile) -> FileScan:
    """Read a whole file. Mistakes in rows are collected, the rows are left out of the counts of texts and labels."""
    problems = Problems()
    rows = Rows(path, task, layout, problems.add)
    scan = FileScan(path, task, layout, rows, problems)
    parse, text_indexes, label_index = label_parser(task), layout.text_indexes, layout.label_index
    number_index = layout.id_index if layout.submission_file else None
    columns = layout.columns
    votes = [columns.index(name) for name in ANNOTATORS] if set(ANNOTATORS) <= set(columns) else []
    for line, row in rows:
        scan.num_examples += 1
        scan.count_texts(line, tuple(row[index] for index in text_indexes))
        if number_index is not None and row[number_index] != str(rows.num_rows - 1):
            scan.misnumbered = scan.misnumbered or (line, rows.num_rows - 1, row[number_index])
        if label_index is None:
            continue
        try:
            scan.count_label(parse(row[label_index]))
        except BadLabel as error:
            problems.add(Problem(path, line, str(error), error.remedy))
            continue
        if votes:
            scan.count_votes(line, [row[index] for index in votes], row[label_index])
    return scan


def was_encoded_twice(text: str) -> bool:
    """Whether a text with characters beyond ASCII was UTF-8 that was read as something else: `cafÃ©`."""
    for encoding in ("cp1252", "latin-1"):
        try:
            text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False


def unquoted(text: str) -> str | None:
    """What a CSV writer quoted: `say "so"` for `"say ""so\"""`; None for a text that no CSV writer made for its quotes.

    A text in quotation marks without any inside is left: people write such.
    """
    if len(text) < 4 or text[0] != '"' or text[-1] != '"':
        return None
    inside = text[1:-1]
    if '""' not in inside or '"' in inside.replace('""', ""):
        return None
    return inside.replace('""', '"')
