"""What a submission holds: of each task the predictions of the run that scored best on dev, or a constant.

The leaderboard takes all eleven files or none, so that a file which no run predicted is filled. Which ones these are is
told on the console, in the submission's record, and in the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glue_eval.metrics import main_score
from glue_eval.partial import partial_data
from glue_eval.predictions import read_predictions
from glue_eval.recorded import Sweep, read_plan, read_result
from glue_eval.results import PREDICTIONS, RunResult
from glue_eval.sample_tasks import SAMPLE_NOTICE, is_sample_folder
from glue_eval.submission_check import LAYOUT
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError
from nlp_adan.runs.run import RESULT

SCORE_DECIMALS = 3


@dataclass(frozen=True)
class Constant:
    """What a file holds that no run predicted, and where the constant is from."""

    prediction: str
    source: str


CONSTANTS: dict[str, Constant] = {
    "CoLA": Constant("1", "6023 of the 8551 training labels"),
    "SST-2": Constant("1", "37569 of the 67349 training labels"),
    "MRPC": Constant("1", "2474 of the 3668 training labels"),
    "STS-B": Constant("2.701", "mean of the 5749 training scores"),
    "QQP": Constant("0", "6370 of 9999 labels drawn from the training file"),
    "MNLI": Constant(
        "entailment", "3408 of 9999 labels drawn from the training file: three labels, about a third each"
    ),
    "QNLI": Constant("entailment", "5027 of 9999 labels drawn from the training file: two labels, about a half each"),
    "RTE": Constant("entailment", "1249 of the 2490 training labels"),
    "WNLI": Constant("0", "323 of the 635 training labels"),
    "AX": Constant("entailment", "MNLI's, which it is answered by"),
}
"""By task the commonest training label, or the mean score, of the published files."""


@dataclass(frozen=True)
class Choice:
    """The run of a task whose predictions are submitted; `folder` relative to the sweep's, `score`: main, on dev.

    `num_finished` of `num_runs` runs of the task had a result to choose from. `partial`: as in `glue_eval.partial`.
    """

    result: RunResult
    folder: str
    score: float
    num_finished: int
    num_runs: int
    partial: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One file of a submission: the predictions of `choice`, or a constant because of `reason`."""

    name: str
    task: Task
    predictions: tuple[str, ...]
    choice: Choice | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """For submission.json: the run and its score, or the constant, its source and why it is there."""
        if self.choice is None:
            constant = CONSTANTS[self.task.name]
            return {
                "source": "constant",
                "prediction": constant.prediction,
                "constant": constant.source,
                "reason": self.reason,
            }
        result = self.choice.result
        return {
            "source": "run",
            "task": result.task,
            "seed": result.seed,
            "folder": self.choice.folder,
            "key": result.key,
            "dev_score": self.choice.score,
            "num_finished": self.choice.num_finished,
            "num_runs": self.choice.num_runs,
            "collapsed": result.collapsed,
            "partial": list(self.choice.partial),
        }


def read_sweep(folder: Path) -> Sweep:
    """Read the plan of a sweep on GLUE.

    Raises:
        UserError: There is no plan, it is damaged, or its runs are on the sample tasks.
    """
    sweep = read_plan(folder)
    if sweep.protocol.is_sample or is_sample_folder(Path(sweep.protocol.data)):
        raise UserError(
            f"{folder}: its runs are on the {SAMPLE_NOTICE}: the leaderboard scores GLUE's test files only; "
            "run again with `--data GLUE` and another --output_dir"
        )
    return sweep


def choose_run(sweep: Sweep, task: Task, seed: int | None = None) -> Choice | str:
    """The run of a task with the best main score on dev, the lowest seed of equal ones; or why there is none.

    A run that diverged is taken where there is no other.

    seed: the run to take whatever its score is.

    Raises:
        UserError: The task was run, but not with that seed, or a result is damaged.
    """
    if task not in sweep.protocol.tasks:
        return "not run"
    planned = [(run_seed, folder) for name, run_seed, folder in sweep.runs if name == task.name]
    found = []
    for run_seed, folder in planned:
        path = sweep.folder / folder / RESULT
        if path.is_file():
            found.append((read_result(path, task, run_seed), folder))
    if not planned or not found:
        return "not run" if not planned else f"none of its runs ({len(planned)}) has a result"
    if seed is not None:
        taken = [(result, folder) for result, folder in found if result.seed == seed]
        if not taken:
            there = ", ".join(str(number) for number in sorted(result.seed for result, _ in found))
            raise UserError(f"--seed: {task.name} has no result with seed {seed}; it has {there}")
    else:
        taken = found
    scores = {result.seed: main_score(task, result.scores) for result, _ in taken}
    result, folder = min(taken, key=lambda run: (bool(run[0].diverged), -_orderable(scores[run[0].seed]), run[0].seed))
    partial = partial_data(task, result, sweep.protocol)
    return Choice(result, folder, scores[result.seed], len(found), len(planned), partial)


def make_parts(sweep: Sweep, seed: int | None = None) -> list[Part]:
    """The eleven files of the submission, in the order of `LAYOUT`; AX is answered by MNLI's run.

    Raises:
        UserError: As `choose_run` and `leaderboard_rows`, or no run predicted any test file.
    """
    choices = {task.name: choose_run(sweep, task, seed) for task in TASKS.values() if task.is_trainable}
    parts = []
    for name, (task, split) in LAYOUT.items():
        is_ax = task.name == "AX"
        choice = choices["MNLI" if is_ax else task.name]
        predicted = "AX" if is_ax else split.name
        if isinstance(choice, Choice) and predicted in choice.result.predictions:
            path = sweep.folder / choice.folder / PREDICTIONS / f"{predicted}.jsonl"
            parts.append(Part(name, task, tuple(leaderboard_rows(path, task, split)), choice))
        else:
            reason = f"MNLI {choice}" if is_ax else choice
            if isinstance(choice, Choice):
                reason = f"the run of seed {choice.result.seed} did not predict {task.name}/{split.file}"
            constant = CONSTANTS[task.name].prediction
            parts.append(Part(name, task, (constant,) * split.num_examples, reason=str(reason)))
    if not any(part.choice for part in parts):
        raise UserError(
            f"{sweep.folder}: no run predicted a test file: run its command again with GLUE's test files in --data, "
            "such as RTE/test.tsv"
        )
    return parts


def leaderboard_rows(path: Path, task: Task, split: SplitFile) -> list[str]:
    """The predictions of a whole test file as the leaderboard wants them: labels, or scores clipped to the range.

    Raises:
        UserError: The file is missing or damaged, does not answer every example in the test file's order, or has a
            prediction that is none of the task. Names file and line.
    """
    found: list[str] = []
    for row, entry in enumerate(read_predictions(path)):
        if str(entry["id"]) != str(row):
            raise UserError(
                f"{path}:{row + 1}: the example's number is {entry['id']!r} instead of {row}: the leaderboard's test "
                f"file is numbered from 0; take the original {task.name}/{split.file} and run again"
            )
        found.append(_written(entry["prediction"], task, f"{path}:{row + 1}"))
    if len(found) != split.num_examples:
        raise UserError(
            f"{path}: {len(found)} predictions, but {task.name}/{split.file} has {split.num_examples} examples: a part "
            f"of a test file cannot be submitted; run again with the whole file, or without {task.name} in --tasks"
        )
    return found


def _orderable(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _written(prediction: Any, task: Task, place: str) -> str:
    """A label as it is, a score clipped to the task's range and rounded."""
    if task.labels is not None:
        if prediction not in task.labels:
            raise UserError(
                f"{place}: prediction {prediction!r} is not one of {task.name}'s labels {', '.join(task.labels)}: "
                "delete this run's folder and run again"
            )
        return str(prediction)
    is_number = isinstance(prediction, (int, float)) and not isinstance(prediction, bool)
    if not is_number or not -math.inf < prediction < math.inf:
        raise UserError(f"{place}: prediction {prediction!r} is not a number: take another run by --seed")
    low, high = task.score_range or (-math.inf, math.inf)
    return f"{float(min(max(prediction, low), high)) + 0.0:.{SCORE_DECIMALS}f}"  # + 0.0: no "-0.000"
