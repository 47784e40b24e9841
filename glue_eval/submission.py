"""The leaderboard's submission.zip and the record beside it, which says what each of its files is made of."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glue_eval.recorded import Sweep
from glue_eval.submission_check import HEADER, check_zip
from glue_eval.submission_parts import Part, read_sweep
from nlp_adan.errors import UserError
from nlp_adan.storage import finite, sha256_file, write_json

ZIP = "submission.zip"
RECORD_KIND = "GLUE submission"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can tell: equal predictions make equal bytes


def zip_bytes(files: Mapping[str, Sequence[str]]) -> bytes:
    """A zip with a file for each name: the header and a numbered row for each prediction. Equal input, equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, predictions in files.items():
            entry = zipfile.ZipInfo(name, ZIP_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # Unix, on whatever system this runs
            entry.compress_type = zipfile.ZIP_DEFLATED
            rows = "".join(f"{index}\t{prediction}\n" for index, prediction in enumerate(predictions))
            archive.writestr(entry, f"{HEADER}\n{rows}")
    return buffer.getvalue()


def write_submission(sweep: Sweep, parts: Sequence[Part], output: Path, chosen_by: str) -> Path:
    """Write the zip, checked as `--check` does, and the record beside it; each whole or not at all.

    Args:
        sweep: Where the parts are from.
        parts: All files.
        output: The zip; its parent is made.
        chosen_by: How each task's run was chosen, in words.

    Returns:
        The record's path: `output` with the ending .json.

    Raises:
        UserError: Something else has one of the two names, or they cannot be written.
        RuntimeError: The zip does not pass its check: a defect of ours.
    """
    record_path = output.with_suffix(".json")
    if output.suffix != ".zip" or output.is_dir():
        raise UserError(f"--output: {output} is not a file that ends in .zip")
    if record_path.exists() and _read_record(record_path) is None:
        raise UserError(f"{record_path} exists and is no submission's record: give the zip another name by --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
            made = Path(temporary) / output.name
            with open(made, "wb") as file:
                file.write(zip_bytes({part.name: part.predictions for part in parts}))
                file.flush()
                os.fsync(file.fileno())
            if problems := check_zip(made).problems:
                raise RuntimeError("; ".join(str(problem) for problem in problems))
            os.replace(made, output)
        record = {
            "kind": RECORD_KIND,
            "zip": output.name,
            "sha256": sha256_file(output),
            "model": sweep.protocol.model,
            "data": sweep.protocol.data,
            "chosen_by": chosen_by,
            "files": {part.name: part.to_json() for part in parts},
        }
        write_json(record_path, finite(record))
    except OSError as error:
        raise UserError(f"--output: cannot write {output} ({error.strerror}): choose another place") from error
    return record_path


def submission_note(folder: Path) -> str | None:
    """What a report says of the submission in its folder: the runs chosen, and which files are constants.

    None where there is none, where the zip is not the one recorded, or where it was made of other runs than the plan's.
    """
    record = _read_record(folder / Path(ZIP).with_suffix(".json"))
    if record is None or not (folder / ZIP).is_file() or sha256_file(folder / ZIP) != record["sha256"]:
        return None
    runs = {entry["task"]: entry for entry in record["files"].values() if entry["source"] == "run"}
    try:
        planned = {run_folder for _, _, run_folder in read_sweep(folder).runs}
    except UserError:
        return None
    if not {entry["folder"] for entry in runs.values()} <= planned:
        return None
    seeds = ", ".join(f"{task} {entry['seed']}" for task, entry in runs.items())
    constants = [
        f"{name} ({entry['prediction']}; {entry['reason']})"
        for name, entry in record["files"].items()
        if entry["source"] == "constant"
    ]
    num_files = len(record["files"])
    note = f"{ZIP}: {num_files - len(constants)} of {num_files} files are predictions, of the runs with "
    note += f"{record['chosen_by']} (task and seed: {seeds})."
    return note + (f" Filled by a constant, no results: {', '.join(constants)}." if constants else "")


def _read_record(path: Path) -> dict[str, Any] | None:
    """A submission's record; None where the file is missing or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("kind") == RECORD_KIND else None
