"""`python -m glue_eval submit OUT`: the leaderboard's zip of a sweep; `submit --check ZIP`: would it be taken?

What a submission holds is chosen in `submission_parts`, written by `submission` and checked by `submission_check`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from glue_eval.data import read_split
from glue_eval.problems import Problem, raise_problem
from glue_eval.sample_tasks import SAMPLE_NOTICE, is_sample_folder
from glue_eval.score_tables import percent
from glue_eval.submission import ZIP, write_submission
from glue_eval.submission_check import LAYOUT, REMEDY, ZipCheck, check_zip
from glue_eval.submission_parts import CONSTANTS, Part, make_parts, read_sweep
from nlp_adan.errors import UserError, nearest

NOTHING = "-"  # a cell without a value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parse_submit(words: Sequence[str]) -> argparse.Namespace:
    """The words after `python -m glue_eval submit`; one of `folder` and `check` is given.

    Raises:
        UserError: An unknown option, both or none of the two, or an option of the other.
    """
    parser = _Parser(
        prog="python -m glue_eval submit",
        description="Make the leaderboard's submission.zip of a sweep, or check one.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", nargs="?", type=Path, help="the --output_dir of the sweep")
    parser.add_argument("--output", type=Path, help=f"the zip; default: {ZIP} in the sweep's folder")
    parser.add_argument("--seed", type=int, help="take the runs with this seed; default: of each task the best on dev")
    parser.add_argument("--data", type=Path, help="a GLUE folder whose test files are compared with the predictions")
    parser.add_argument("--check", type=Path, metavar="ZIP", help="check this zip instead of making one")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        what = "option" if unknown[0].startswith("-") else "argument"
        parser.error(f"unknown {what} {unknown[0]!r}{nearest(unknown[0].split('=')[0], known)}")
    if (options.folder is None) == (options.check is None):
        parser.error("give a sweep's folder, or --check with a zip")
    if options.check is not None and (options.output, options.seed, options.data) != (None, None, None):
        parser.error("--check takes no other option")
    return options


def submit_command(words: Sequence[str]) -> None:
    """Make and check a submission, or check one, and print its files.

    Raises:
        UserError: A mistake in the words, the sweep or its data, or a zip that the leaderboard would not take.
    """
    options = parse_submit(words)
    if options.check is not None:
        _check(options.check)
        return
    sweep = read_sweep(options.folder)
    parts = make_parts(sweep, options.seed)
    if options.data is not None:
        compare_test_files(options.data, parts)
    chosen_by = "the best development score" if options.seed is None else f"seed {options.seed}"
    output = options.output or options.folder / ZIP
    record = write_submission(sweep, parts, output, chosen_by)
    _print_parts(parts, f"{output}: the runs with {chosen_by}")
    print(f"{output}: checked, ready for gluebenchmark.com; what it is made of: {record}")


def compare_test_files(data: Path, parts: Sequence[Part]) -> None:
    """Compare the predicted parts with the test files of a GLUE folder: as many examples, numbered alike.

    Raises:
        UserError: A test file is missing, or is not the one that the leaderboard scores, or the folder holds the sample
            tasks.
    """
    if is_sample_folder(data):
        raise UserError(f"--data: {data} holds the {SAMPLE_NOTICE}: give the folder with GLUE's own files")
    for part in parts:
        if part.choice is None:
            continue
        _, layout = LAYOUT[part.name]
        split = read_split(data, part.task, layout.name)
        first_line = 2 if layout.has_header else 1
        for row, number in enumerate(split.ids):
            if number != str(row):
                text = f"example {number!r} is not number {row}: the leaderboard's file is numbered from 0"
                raise_problem(Problem(split.path, first_line + row, text, "take the original file and run again"))
        if len(split) != len(part.predictions):
            text = f"{len(split)} examples, the leaderboard's file has {len(part.predictions)}"
            raise_problem(Problem(split.path, None, text, "take the original file and run again"))


def _check(path: Path) -> None:
    found = check_zip(path)
    if found.problems:
        for problem in found.problems:
            print(problem)
        num_problems = f"{len(found.problems)} problem" + ("s" if len(found.problems) > 1 else "")
        raise UserError(f"{path}: {num_problems}: the leaderboard would not take it; mend it, or {REMEDY}")
    _print_check(path, found)


def _print_check(path: Path, found: ZipCheck) -> None:
    rows = [(file.name, str(file.num_rows), file.predictions) for file in found.files]
    _print_table(f"{path}: good", {"File": "left", "Rows": "right", "Predictions": "left"}, rows)


def _print_parts(parts: Sequence[Part], title: str) -> None:
    columns = {"File": "left", "Rows": "right", "From": "left", "Dev score": "right", "Remark": "left"}
    rows = []
    for part in parts:
        num_rows = str(len(part.predictions))
        if part.choice is None:
            constant = CONSTANTS[part.task.name]
            rows.append((part.name, num_rows, f"constant {constant.prediction}", NOTHING, part.reason))
        else:
            result = part.choice.result
            origin = f"{result.task} seed {result.seed}"
            score = NOTHING if math.isnan(part.choice.score) else percent(part.choice.score)
            rows.append((part.name, num_rows, origin, score, _cautions(part)))
    _print_table(title, columns, rows)


def _cautions(part: Part) -> str:
    """What is to be known of the run before its predictions are submitted."""
    assert part.choice is not None
    found = []
    if part.choice.num_finished < part.choice.num_runs:
        found.append(f"{part.choice.num_finished} of {part.choice.num_runs} runs have a result")
    if part.choice.result.collapsed:
        found.append("collapsed")
    if part.choice.partial:
        found.append(f"trained or scored on a part: {', '.join(part.choice.partial)}")
    return "; ".join(found)


def _print_table(title: str, columns: dict[str, str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for name, align in columns.items():
        table.add_column(name, justify="right" if align == "right" else "left", overflow="fold")
    for row in rows:
        marked = any(cell.startswith("constant ") or "collapsed" in cell for cell in row)
        table.add_row(*(Text(cell) for cell in row), style="yellow" if marked else None)
    Console().print(table)
