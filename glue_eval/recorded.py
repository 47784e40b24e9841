"""What a sweep has left in its folder so far: its protocol, the results that are there, and the runs without one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glue_eval.protocol import NOT_RUN, Failure, Protocol
from glue_eval.results import RunResult
from nlp_adan.errors import UserError

PLAN = "plan.json"


@dataclass(frozen=True)
class Recorded:
    """The runs of the last call on a folder, as its plan.json names them, with what they came to."""

    folder: Path
    protocol: Protocol
    results: tuple[RunResult, ...]
    failures: tuple[Failure, ...]


def read_recorded(folder: Path) -> Recorded:
    """Read plan.json, and the result or the failure of each of its runs.

    Raises:
        UserError: There is no plan, or a file is damaged. Names file and remedy.
    """
    path = folder / PLAN
    if not path.is_file():
        raise UserError(
            f"no {path}: name the --output_dir of `python -m glue_eval --model ... --output_dir {folder}`, "
            "which leaves its plan there"
        )
    plan = _read(path, "run the command that made the folder again")
    try:
        protocol = Protocol.from_json(plan["protocol"])
        runs = [(str(run["task"]), int(run["seed"]), folder / str(run["folder"])) for run in plan["runs"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a plan ({error}): run the command that made the folder again") from error
    results, failures = [], []
    for task, seed, run in runs:
        kept, failed = run / "result.json", run / "failed.json"
        if kept.is_file():
            results.append(_result(kept))
        else:
            told = _read(failed, "remove it").get("error") if failed.is_file() else None
            failures.append(Failure(task, seed, str(told or NOT_RUN)))
    return Recorded(folder, protocol, tuple(results), tuple(failures))


def _result(path: Path) -> RunResult:
    remedy = "remove it and call the command that made it again"
    try:
        return RunResult.from_json(_read(path, remedy))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not the result of a run ({error}): {remedy}") from error


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}): {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object: {remedy}")
    return found
