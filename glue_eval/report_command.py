"""`python -m glue_eval report OUT` writes a sweep's report again; of several folders it is a comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlp_adan.errors import UserError


def report_command(words: Sequence[str]) -> None:
    """Report on the runs of the last call on one folder, or compare several folders.

    Raises:
        UserError: A folder holds no sweep, or `--output_dir` is missing or out of place.
    """
    parser = argparse.ArgumentParser(
        prog="python -m glue_eval report",
        description="Write the report of a sweep again, finished or not; or compare several sweeps.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT",
                        help="what `python -m glue_eval --output_dir OUT` filled")  # fmt: skip
    parser.add_argument("--output_dir", type=Path, help="where the comparison of several goes")
    options = parser.parse_args(words)
    if len(options.folders) > 1:
        if options.output_dir is None:
            names = " ".join(str(folder) for folder in options.folders)
            raise UserError(f"--output_dir: say where the comparison goes: `report {names} --output_dir DIR`")
        from glue_eval.compare import write_comparison

        document = write_comparison(options.output_dir, options.folders)
        print(f"{document.summary}\nreport: {options.output_dir / 'report.md'}, {options.output_dir / 'report.html'}")
        return
    (folder,) = options.folders
    if options.output_dir is not None:
        raise UserError(f"--output_dir: the report of one sweep goes into its own folder {folder}: leave it out")
    from glue_eval.recorded import read_recorded
    from glue_eval.report import write_glue_report

    found = read_recorded(folder)
    write_glue_report(folder, found.results, protocol=found.protocol, failures=found.failures)
    print(f"report: {folder / 'report.md'}, {folder / 'report.html'}")
