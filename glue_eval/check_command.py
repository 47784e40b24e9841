"""`python -m glue_eval check-data`: a table of all files of the tasks, then what is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from glue_eval.data import task_folder
from glue_eval.data_checks import FileCheck, check_files
from glue_eval.hub_data import hub_folder
from glue_eval.sample_tasks import sample_tasks_folder
from glue_eval.tasks import TASKS, Task, parse_task_names
from nlp_adan.errors import UserError
from nlp_adan.training.recipe import CommandParser

SHOWN_ERRORS = 5
"""Of one file; more are counted."""


@dataclasses.dataclass
class CheckOptions:
    """Which files are checked."""

    data: str = dataclasses.field(
        default="sample",
        metadata={"help": "The GLUE folder (CoLA/train.tsv, ...), `hub`, or `sample`: the generated tasks."},
    )
    tasks: str = dataclasses.field(
        default="all",
        metadata={"help": "`all` (with AX where its folder is there), or names and .yaml files: CoLA,mine.yaml."},
    )
    allow_partial: bool = dataclasses.field(
        default=False, metadata={"help": "Files that hold a part of a task only are no errors."}
    )


def parse_check(words: Sequence[str]) -> CheckOptions:
    """The options of `check-data`. Raises UserError for a word that is none."""
    parser = CommandParser(
        (CheckOptions,),
        prog="python -m glue_eval check-data",
        description="Check all files of GLUE tasks: headers, counts, labels, quoting, duplicates.",
    )
    (options,) = parser.parse(words)
    found: CheckOptions = options
    return found


def check_command(words: Sequence[str]) -> None:
    """Check every file and print what was found.

    Raises:
        UserError: A word of the command line is wrong, or a file has an error.
    """
    options = parse_check(words)
    tasks = parse_task_names(options.tasks, with_diagnostic=True)
    folder = data_folder(options.data, tasks)
    diagnostic = TASKS["AX"]
    asks_for_all = "all" in [name.strip().lower() for name in options.tasks.split(",")]
    if asks_for_all and diagnostic not in tasks and task_folder(folder, diagnostic).is_dir():
        tasks.append(diagnostic)
    checks = check_files(folder, tasks, options.allow_partial)
    print("\n".join(report_lines(checks)), flush=True)
    num_errors = sum(check.num_errors for check in checks)
    if num_errors:
        num_files = sum(check.num_errors > 0 for check in checks)
        raise UserError(
            f"{num_errors:,} {'error' if num_errors == 1 else 'errors'} in {num_files} of {len(checks)} files, told "
            "above with their remedies; `--tasks` leaves tasks out"
        )


def data_folder(data: str, tasks: Sequence[Task]) -> Path:
    """The folder that `--data` names: `sample` and `hub` are written into the cache at first use, for tasks of GLUE."""
    if all(task.definition is not None for task in tasks):
        return Path(data)  # which nothing is read from
    if data == "sample":
        return sample_tasks_folder()
    return hub_folder(tasks) if data == "hub" else Path(data)


def report_lines(checks: Sequence[FileCheck]) -> list[str]:
    """The table of the files, then errors and notes, one a line."""
    rows = [("task", "file", "rows", "expected", "state", "errors")]
    rows += [
        (
            check.task.name,
            check.path.name,
            "-" if check.num_rows is None else f"{check.num_rows:,}",
            f"{check.num_expected:,}" if check.num_expected else "-",
            check.state,
            f"{check.num_errors:,}" if check.num_errors else "",
        )
        for check in checks
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    is_number = (False, False, True, True, False, True)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return [*lines, *(line for check in checks for line in _problem_lines(check))]


def _problem_lines(check: FileCheck) -> list[str]:
    errors = [f"error: {problem}" for problem in check.problems if problem.is_error]
    notes = [f"note: {problem}" for problem in check.problems if not problem.is_error]
    num_more = check.num_errors - len(errors[:SHOWN_ERRORS])
    more = [f"error: {check.path}: {num_more:,} more"] if num_more else []
    return [*errors[:SHOWN_ERRORS], *more, *notes]
