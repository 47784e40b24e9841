"""What a sweep has left in its folder so far: its plan, the results that are there, and the runs without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glue_eval.protocol import NOT_RUN, Failure, Protocol
from glue_eval.results import RunResult
from glue_eval.tasks import Task
from nlp_adan.errors import UserError
from nlp_adan.runs.folder import FAILED
from nlp_adan.runs.run import RESULT

PLAN = "plan.json"


@dataclass(frozen=True)
class Sweep:
    """What plan.json tells of the last call: the protocol, and for each run task, seed and folder inside `folder`."""

    folder: Path
    protocol: Protocol
    runs: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class Recorded:
    """The runs of the last call on a folder, as its plan.json names them, with what they came to."""

    folder: Path
    protocol: Protocol
    results: tuple[RunResult, ...]
    failures: tuple[Failure, ...]


def read_plan(folder: Path) -> Sweep:
    """Read plan.json.

    Raises:
        UserError: There is none, or it is damaged. Names file and remedy.
    """
    path = folder / PLAN
    if not path.is_file():
        raise UserError(
            f"no {path}: name the --output_dir of `python -m glue_eval --model ... --output_dir {folder}`, "
            "which leaves its plan there"
        )
    remedy = "run the command that made the folder again"
    plan = _read(path, remedy)
    try:
        protocol = Protocol.from_json(plan["protocol"])
        runs = tuple(_planned(protocol, plan["runs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a plan ({error}): {remedy}") from error
    return Sweep(folder, protocol, runs)


def _planned(protocol: Protocol, runs: Any) -> Iterator[tuple[str, int, str]]:
    """Task, seed and folder of each run. Raises ValueError or TypeError for what no plan of ours says."""
    if not isinstance(runs, list) or not runs:
        raise ValueError("it has no runs")
    names, seen = {task.name for task in protocol.tasks}, set()
    for run in runs:
        task, seed, folder = run["task"], run["seed"], run["folder"]
        if task not in names:
            raise ValueError(f"{task} is not one of its tasks")
        if not isinstance(seed, int):
            raise ValueError(f"seed {seed!r} of {task}")
        if not isinstance(folder, str) or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ValueError(f"folder {folder!r} of {task} seed {seed}")
        if (task, seed) in seen:
            raise ValueError(f"{task} seed {seed} twice")
        seen.add((task, seed))
        yield task, seed, folder


def read_result(path: Path, task: Task | None = None, seed: int | None = None) -> RunResult:
    """Read a run's result.json.

    task, seed: of the run that it has to be of.

    Raises:
        UserError: It is damaged, or another run's. Names file and remedy.
    """
    remedy = "remove it and call the command that made it again"
    try:
        found = RunResult.from_json(_read(path, remedy))
        if task is not None:
            if (found.task, found.seed) != (task.name, seed):
                raise ValueError(f"it is that of {found.task} seed {found.seed}, not of {task.name} seed {seed}")
            for name in task.score_names:
                if name not in found.scores:
                    raise ValueError(f"no score {name!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not the result of a run ({error}): {remedy}") from error
    return found


def read_recorded(folder: Path) -> Recorded:
    """Read plan.json, and the result or the failure of each of its runs.

    Raises:
        UserError: There is no plan, or a file is damaged. Names file and remedy.
    """
    sweep = read_plan(folder)
    results, failures = [], []
    for task, seed, run in sweep.runs:
        kept, failed = folder / run / RESULT, folder / run / FAILED
        if kept.is_file():
            results.append(read_result(kept, sweep.protocol.task(task), seed))
        else:
            told = _read(failed, "remove it").get("error") if failed.is_file() else None
            failures.append(Failure(task, seed, str(told or NOT_RUN)))
    return Recorded(folder, sweep.protocol, tuple(results), tuple(failures))


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}): {remedy}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object: {remedy}")
    return found
