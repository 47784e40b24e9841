"""Are the files of a GLUE folder, or of one's own tasks, what they should be? Every file is read to its end.

What is told: a wrong header, rows, labels and scores; counts that are not the published ones; files that went through
a CSV reader or writer, lie in another task's folder, have their labels or texts exchanged or lost; MNLI's gold label
replaced by one annotator's; test files with labels, or in another order; examples in two splits; labels that are all
the same; AX's labels where they are not those of its examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glue_eval.data import find_file, is_stand_in, missing_file, task_folder
from glue_eval.diagnostics import FULL, PLAIN, difference, layouts
from glue_eval.file_facts import (
    COMMON_PREMISES,
    COMMON_TEXTS,
    FILE_FACTS,
    LONGER_TEXT,
    MAJORITY_CLASS,
    QUOTED_TWICE_IF_REWRITTEN,
)
from glue_eval.file_scan import FileScan, scan_file
from glue_eval.problems import Problem, shorten
from glue_eval.rows import Rows
from glue_eval.sample_tasks import is_sample_folder
from glue_eval.sample_tasks.files import SAMPLES
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError

__all__ = ["COMPLETE", "MISSING", "PARTIAL", "FileCheck", "Problem", "check_data", "check_files"]

COMPLETE, PARTIAL, MISSING, TOO_LONG, UNREADABLE = "complete", "partial", "missing", "too long", "unreadable"
COMMON_SHARE = 0.05
"""Of the examples of the shorter split; more in two splits are an error where nobody counted the published ones."""
OUTVOTED_SHARE = 0.01
REWRITTEN_SHARE = 0.1
"""Of the texts with quotation marks, those quoted as a CSV writer does: in the published files none."""
WRAPPED_SHARE = 0.5
"""Of all texts, those that begin and end with a quotation mark: in the published files at most 0.021 (MRPC, QQP)."""
NUMBERS_SHARE = 0.5  # of a column's texts, those that are digits only: in the published files a few at most
MIN_ENCODED_TWICE = 4  # texts; STS-B's training file is published with one
NEARLY_ALL = 0.8
"""Of the published rows; with fewer, rows were hardly lost by chance."""
MIN_JUDGED_EXAMPLES = 50
"""Shares and means of fewer examples say little."""
ORIGINAL = "take the original file"


@dataclass(frozen=True)
class FileCheck:
    """What was found out about one file of a task.

    num_rows: data lines; None where they could not be counted. num_expected: published rows; 0 where none are
    published. state: `complete`, `partial`, `missing`, `too long` or `unreadable`, by the name and the rows. problems:
    of many of one file's rows only the first, `num_errors` counts all errors.
    """

    task: Task
    layout: SplitFile
    path: Path
    num_rows: int | None
    num_expected: int
    state: str
    problems: tuple[Problem, ...]
    num_errors: int


def check_data(folder: Path, tasks: Sequence[Task], allow_partial: bool = False) -> list[Problem]:
    """All problems and notes of the tasks' files, in the files' order; see `check_files`."""
    return [problem for check in check_files(folder, tasks, allow_partial) for problem in check.problems]


def check_files(folder: Path, tasks: Sequence[Task], allow_partial: bool = False) -> list[FileCheck]:
    """Check every file of the tasks, to its end.

    Args:
        folder: The GLUE folder; one's own tasks do not use it.
        tasks: AX may be among them.
        allow_partial: A training or development file with fewer rows than published, or a part that stands in for
            one, is a note instead of an error.

    Raises:
        UserError: There is no such folder.
    """
    if not Path(folder).is_dir() and any(task.definition is None for task in tasks):
        raise UserError(f"no folder {folder}: give the GLUE folder, the one that holds CoLA/, RTE/ and so on")
    return [check for task in tasks for check in _check_task(Path(folder), task, allow_partial)]


def _check_task(folder: Path, task: Task, allow_partial: bool) -> list[FileCheck]:
    is_sample = task.definition is None and is_sample_folder(folder)
    scans: dict[str, FileScan] = {}
    for layout in layouts(folder, task):
        path = find_file(folder, task, layout, allow_partial=True)
        if path is not None:
            scans[layout.name] = scan_file(path, task, layout)
    _judge_diagnostics(scans)
    for scan in scans.values():
        num_expected = _num_expected(task, scan.layout, is_sample)
        _judge_bytes(scan)
        if scan.rows.header_is_right and scan.rows.is_whole:
            _judge_count(scan, num_expected, allow_partial)
            _judge_quotes(scan, is_whole=not is_sample and scan.rows.num_rows == num_expected)
            _judge_labels(scan, is_published=not is_sample and task.definition is None, num_expected=num_expected)
            _judge_texts(scan)
            _judge_numbers(scan, num_expected)
    for first, second in itertools.combinations([scan for scan in scans.values() if scan.layout is not FULL], 2):
        _judge_common(first, second, is_sample)
    return [
        _file_check(scans[layout.name], _num_expected(task, layout, is_sample))
        if layout.name in scans
        else _missing_check(folder, task, layout, _num_expected(task, layout, is_sample))
        for layout in layouts(folder, task)
    ]


def _num_expected(task: Task, layout: SplitFile, is_sample: bool) -> int:
    return SAMPLES[task.name].num_examples(layout) if is_sample and task.name in SAMPLES else layout.num_examples


def _missing_check(folder: Path, task: Task, layout: SplitFile, num_expected: int) -> FileCheck:
    directory = task_folder(folder, task)
    path = directory / layout.file
    problems: tuple[Problem, ...] = ()
    if directory.is_dir():
        if layout.name.startswith("test") and task.is_trainable:
            problems = (Problem(path, None, "missing", "only a submission needs it", is_error=False),)
        else:
            problems = (Problem(path, None, "missing", "add it, or leave the task out"),)
    elif layout is task.splits[0]:
        text, remedy = missing_file(folder, task, layout)
        problems = (Problem(directory, None, text, remedy),)  # once for all of its files
    num_errors = sum(problem.is_error for problem in problems)
    return FileCheck(task, layout, path, None, num_expected, MISSING, problems, num_errors)


def _file_check(scan: FileScan, num_expected: int) -> FileCheck:
    num_rows: int | None = scan.rows.num_rows
    state = COMPLETE
    if not scan.rows.is_whole:
        num_rows, state = None, UNREADABLE
    elif is_stand_in(scan.path, scan.layout) or scan.rows.num_rows < num_expected:
        state = PARTIAL
    elif num_expected and scan.rows.num_rows > num_expected:
        state = TOO_LONG
    problems, num_errors = tuple(scan.problems.kept), scan.problems.num_errors
    return FileCheck(scan.task, scan.layout, scan.path, num_rows, num_expected, state, problems, num_errors)


def _tell(scan: FileScan, text: str, remedy: str, line: int | None = None, is_error: bool = True) -> None:
    scan.problems.add(Problem(scan.path, line, text, remedy, is_error))


def _judge_bytes(scan: FileScan) -> None:
    if scan.rows.has_byte_order_mark:
        _tell(scan, "begins with a byte-order mark", "nothing to do, it is left out", 1, is_error=False)
    if scan.rows.has_crlf:
        _tell(scan, "lines end with CRLF", "nothing to do, they are read alike", None, is_error=False)
    if scan.rows.num_skipped:
        text = f"{scan.rows.num_skipped:,} rows with columns missing"
        _tell(scan, text, "nothing to do, every reader leaves them out", None, is_error=False)
    if scan.num_empty:
        _tell(scan, f"{scan.num_empty:,} empty texts", "nothing to do, they are read as they are", None, is_error=False)
    if scan.num_encoded_twice > max(MIN_ENCODED_TWICE, scan.num_foreign / 2):
        text = f"encoded twice: {scan.num_encoded_twice:,} of {scan.num_foreign:,} texts with accents look like `cafÃ©`"
        _tell(scan, text, ORIGINAL)


def _judge_count(scan: FileScan, num_expected: int, allow_partial: bool) -> None:
    num_rows, name = scan.rows.num_rows, scan.layout.file
    is_test = scan.layout.name.startswith("test")
    if is_stand_in(scan.path, scan.layout):
        of = f" of {num_expected:,}" if num_expected else ""
        text = f"a part that stands in for {name}, {num_rows:,}{of} rows"
        remedy = (
            "scores of parts are not those of the task" if allow_partial else "add the whole file, or `--allow_partial`"
        )
        _tell(scan, text, remedy, None, is_error=not (allow_partial or is_test))
        return
    if not num_expected or num_rows == num_expected or not num_rows:
        return
    text = f"rows: {num_rows:,} instead of {num_expected:,}"
    others = [
        f"{task.name}'s {split.file}"
        for task in TASKS.values()
        for split in task.splits
        if split.num_examples == num_rows and split.columns == scan.layout.columns
    ]
    if others:
        text += f", as many as {' or '.join(others)} has"
    elif num_expected * NEARLY_ALL < num_rows < num_expected:
        text += " (a CSV reader eats rows at quotation marks)"
    is_partial = allow_partial and num_rows < num_expected and not others
    remedy = "scores of parts are not those of the task" if is_partial else ORIGINAL
    if num_rows < num_expected and not allow_partial and not is_test:
        remedy += ", or `--allow_partial` if it is meant to be a part"
    _tell(scan, text, remedy, None, is_error=not is_partial)


def _judge_quotes(scan: FileScan, is_whole: bool) -> None:
    remedy = f"{ORIGINAL}; these files are read and written without quoting (Python: csv.QUOTE_NONE)"
    twice = scan.task.name in QUOTED_TWICE_IF_REWRITTEN
    num_rewritten = scan.num_quoted_twice if twice else scan.num_quoted
    num_texts = scan.num_examples * len(scan.layout.text_columns)
    if scan.num_with_quotes and num_rewritten > REWRITTEN_SHARE * scan.num_with_quotes:
        doubled = "once more" if twice else "doubled"
        text = f"written by a CSV writer: {num_rewritten:,} texts stand in quotation marks, those inside {doubled}"
        _tell(scan, text, remedy)
    elif num_texts and scan.num_wrapped > WRAPPED_SHARE * num_texts:
        text = f"written by a CSV writer: {scan.num_wrapped:,} of {num_texts:,} texts stand in quotation marks"
        _tell(scan, text, remedy)
    facts = FILE_FACTS.get((scan.task.name, scan.layout.name))
    if is_whole and facts and facts.num_quotes and scan.num_quotes < facts.num_quotes:
        text = f"{scan.num_quotes:,} quotation marks instead of {facts.num_quotes:,}: a CSV reader has taken them"
        _tell(scan, text, remedy)


def _judge_labels(scan: FileScan, is_published: bool, num_expected: int) -> None:
    task, is_train = scan.task, scan.layout.name == "train"
    if scan.layout.label_column is None or scan.problems.num_more:
        return
    if task.labels is None:
        low, high = scan.scores or (0.0, 1.0)
        if low == high and scan.num_examples > 1:
            _tell(scan, f"every score is {low:g}", ORIGINAL)
        elif is_published and high <= 1 and scan.num_examples >= MIN_JUDGED_EXAMPLES:
            _tell(scan, f"scores from {low:g} to {high:g}: they were divided by 5", ORIGINAL)
        return
    counts = tuple(scan.label_counts[number] for number in range(len(task.labels)))
    shown = ", ".join(f"{count:,} {label}" for count, label in zip(counts, task.labels, strict=True))
    never = [label for count, label in zip(counts, task.labels, strict=True) if not count]
    total = sum(counts)
    if len(never) == len(counts) - 1 and total > 1:
        _tell(scan, f"all {total:,} labels are the same ({shown})", "take another file, this one tells nothing")
        return
    if never and is_train:
        _tell(scan, f"no example is labelled {' or '.join(never)} ({shown})", "take all of the file, shuffled")
    facts = FILE_FACTS.get((task.name, scan.layout.name))
    if is_published and facts and facts.label_counts and total == num_expected:
        if counts != facts.label_counts:
            how = "exchanged" if sorted(counts) == sorted(facts.label_counts) else "changed"
            published = ", ".join(f"{count:,}" for count in facts.label_counts)
            _tell(scan, f"labels were {how}: {shown}, published are {published}", ORIGINAL)
    elif is_published and is_train and task.name in MAJORITY_CLASS and total >= MIN_JUDGED_EXAMPLES:
        count = counts[MAJORITY_CLASS[task.name]]
        # Six standard deviations below one half; parts drawn with equal shares are well above.
        if count < total / 2 - 3 * total**0.5:
            majority = task.labels[MAJORITY_CLASS[task.name]]
            _tell(scan, f"labels were exchanged: {shown}, but most of {task.name}'s are {majority}", ORIGINAL)
    if len(scan.outvoted_lines) > OUTVOTED_SHARE * scan.num_voted:
        text = f"the gold label of {len(scan.outvoted_lines):,} of {scan.num_voted:,} rows has no majority of label1-5"
        remedy = "column 16 holds the gold label, columns 11 to 15 one annotator's each"
        _tell(scan, text, f"{remedy}: {ORIGINAL}", scan.outvoted_lines[0])


def _judge_texts(scan: FileScan) -> None:
    """Numbers where sentences are to be; premise and hypothesis, or question and sentence, exchanged."""
    for name, num_numbers in zip(scan.layout.text_columns, scan.num_numbers, strict=False):
        if num_numbers > NUMBERS_SHARE * scan.num_examples and scan.task.definition is None:
            text = f"{num_numbers:,} of {scan.num_examples:,} texts of {name} are numbers: the columns were exchanged"
            _tell(scan, text, ORIGINAL)
    longer = LONGER_TEXT.get(scan.task.name) if scan.task.definition is None else None
    if longer is None or scan.num_examples < MIN_JUDGED_EXAMPLES:
        return
    if scan.text_lengths[longer] < scan.text_lengths[1 - longer]:
        names = scan.layout.text_columns
        text = f"{names[longer]} is shorter than {names[1 - longer]} on average: the columns were exchanged"
        _tell(scan, text, ORIGINAL)


def _judge_numbers(scan: FileScan, num_expected: int) -> None:
    """A whole test file whose rows are in another order, or numbered anew: the leaderboard goes by the numbers."""
    if scan.misnumbered is None or is_stand_in(scan.path, scan.layout) or scan.rows.num_rows < num_expected:
        return
    line, number, found = scan.misnumbered
    text = f"row {number} is numbered {shorten(found)!r}: a test file is numbered from 0 on"
    _tell(scan, text, f"{ORIGINAL}, which the leaderboard's answers belong to", line)


def _judge_diagnostics(scans: dict[str, FileScan]) -> None:
    """AX's labels belong to its test file, row by row; told of the labelled one. Bad rows are told before."""
    if not {FULL.name, PLAIN.name} <= scans.keys() or any(scan.problems.num_errors for scan in scans.values()):
        return
    full, plain = scans[FULL.name], scans[PLAIN.name]
    problem = difference(full.path, *(list(Rows(scan.path, scan.task, scan.layout)) for scan in (full, plain)))
    if problem is not None:
        full.problems.add(problem)


def _judge_common(first: FileScan, second: FileScan, is_sample: bool) -> None:
    """Examples that two splits have in common, and premises; told of the second one."""
    premises = first.first_texts.keys() & second.first_texts.keys()
    if premises and second.task.name in COMMON_PREMISES and not is_sample:
        num_rows = sum(second.first_texts[key] for key in premises)
        text = f"premises of {num_rows:,} of {second.num_examples:,} examples are in {first.path.name} too"
        _tell(second, text, "nothing to do, it is published so", None, is_error=False)
    common = first.first_lines.keys() & second.first_lines.keys()
    if not common:
        return
    names = (first.task.name, first.layout.name, second.layout.name)
    known = 0 if is_sample else COMMON_TEXTS.get(names) if first.task.definition is None else None
    allowed = COMMON_SHARE * min(len(first.first_lines), len(second.first_lines)) if known is None else known
    line, other = min((second.first_lines[key], first.first_lines[key]) for key in common)
    published = f"; the published files have {known} in common" if known is not None else ""
    text = f"examples in common with {first.path.name}: {len(common):,}, this one is its line {other}{published}"
    is_error = len(common) > allowed
    remedy = "scores on what was trained on say nothing: leave them out of one file" if is_error else "nothing to do"
    _tell(second, text, remedy, line, is_error)
