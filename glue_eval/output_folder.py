"""Where a command writes: looked at before anything is computed, so that nothing is half written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from glue_eval.recorded import PLAN
from nlp_adan.errors import UserError

REPORT = "report.md"
REPORT_BEGINNING = b"# GLUE: "
COMPARISON_FILES = (REPORT, "report.html", "report.json", "table.tex")


def check_sweep_folder(folder: Path) -> None:
    """Raise a UserError unless a sweep may be in this folder."""
    if not _exists(folder) or (folder / PLAN).is_file():
        return
    # A call that was killed before it wrote its plan leaves a lock, and a part of the plan under a hidden name.
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"--output_dir: {str(folder)!r} is not empty and holds no GLUE runs; choose another folder")


def check_comparison_folder(folder: Path) -> None:
    """Raise a UserError where a comparison would overwrite a sweep's report, or one that is not of GLUE."""
    if not _exists(folder):
        return
    if (folder / PLAN).is_file():
        raise UserError(
            f"--output_dir: {str(folder)!r} holds the runs and the report of a sweep; choose another folder"
        )
    for name in COMPARISON_FILES:
        if (folder / name).is_dir():
            raise UserError(f"--output_dir: {str(folder / name)!r} is a folder; choose another one for the comparison")
    there = [folder / name for name in COMPARISON_FILES if (folder / name).is_file()]
    if there and not (there[0].name == REPORT and there[0].read_bytes().startswith(REPORT_BEGINNING)):
        raise UserError(f"--output_dir: {str(there[0])!r} is no report of ours; choose another folder")


@contextlib.contextmanager
def told_if_unwritable(folder: Path) -> Iterator[None]:
    """Tell in words that a file could not be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write into {str(folder)!r} ({error.strerror}); choose another folder") from error


def _exists(folder: Path) -> bool:
    """Whether there is such a folder; a UserError where there cannot be one."""
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"--output_dir: cannot use {str(folder)!r} ({error.strerror}); choose another") from error
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--output_dir: {str(there)!r} is a file; choose a folder")
    return there == folder
