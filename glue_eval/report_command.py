"""`python -m glue_eval report OUT` writes a sweep's report again; of several folders it is a comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nlp_adan.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parse_report(words: Sequence[str]) -> argparse.Namespace:
    """`folders`, one or more, and `output_dir`, which several folders need and one must not have.

    Raises:
        UserError: A word is unknown, or `--output_dir` is missing or out of place.
    """
    parser = _Parser(
        prog="python -m glue_eval report",
        description="Write the report of a sweep again, finished or not; or compare several sweeps with the first.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT",
                        help="what `python -m glue_eval --output_dir OUT` filled")  # fmt: skip
    parser.add_argument("--output_dir", help="where the comparison of several goes")
    options = parser.parse_args(list(words))
    if len(options.folders) > 1 and not options.output_dir:
        names = " ".join(str(folder) for folder in options.folders)
        raise UserError(f"--output_dir: say where the comparison goes: `report {names} --output_dir DIR`")
    if len(options.folders) == 1 and options.output_dir is not None:
        raise UserError(f"--output_dir: a sweep's report goes into its own folder {options.folders[0]}: leave it out")
    return options


def report_command(words: Sequence[str]) -> None:
    """Report on the runs of the last call on one folder, or compare several folders.

    Raises:
        UserError: As `parse_report`, or a folder holds no sweep.
    """
    options = parse_report(words)
    if options.output_dir is not None:
        from glue_eval.compare import write_comparison

        output = Path(options.output_dir)
        document = write_comparison(output, options.folders)
        print(f"{document.summary}\nreport: {output / 'report.md'}, {output / 'report.html'}")
        return
    from glue_eval.output_folder import told_if_unwritable
    from glue_eval.recorded import read_recorded
    from glue_eval.report import write_glue_report

    (folder,) = options.folders
    found = read_recorded(folder)
    with told_if_unwritable(folder):
        write_glue_report(folder, found.results, protocol=found.protocol, failures=found.failures)
    print(f"report: {folder / 'report.md'}, {folder / 'report.html'}")
