"""What a report says about a set of runs: per score the median over seeds and the baseline, and one named average."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from glue_eval.metrics import main_score, mean_over_tasks, official_average
from glue_eval.results import RunResult
from glue_eval.tasks import TASKS, TRAINABLE_TASKS, Task

OFFICIAL_AVERAGE = "official average"


@dataclass(frozen=True)
class ScoreSummary:
    """One score of one task over its seeds; every value is a fraction. `deviation` is None for a single seed."""

    name: str
    values: tuple[float, ...]
    baseline: float | None

    @property
    def median(self) -> float:
        """The middle value; for an even number of seeds, the mean of the two in the middle."""
        return statistics.median(self.values)

    @property
    def best(self) -> float:
        """The highest value of any seed."""
        return max(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds (n - 1 in the denominator)."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class TaskSummary:
    """All runs of one task, in the order of their seeds."""

    task: Task
    runs: tuple[RunResult, ...]
    scores: tuple[ScoreSummary, ...]

    @property
    def medians(self) -> dict[str, float]:
        """The median of each score, by name."""
        return {score.name: score.median for score in self.scores}

    @property
    def baselines(self) -> dict[str, float] | None:
        """What always answering the commonest dev label scores, by name; None where the runs do not tell."""
        found = {score.name: score.baseline for score in self.scores if score.baseline is not None}
        return found if len(found) == len(self.scores) else None

    @property
    def collapsed_seeds(self) -> tuple[int, ...]:
        """Seeds whose predictions on some development file were constant."""
        return tuple(run.seed for run in self.runs if run.collapsed)

    @property
    def has_learnt(self) -> bool:
        """Whether the median lies above the baseline and not every run collapsed."""
        if len(self.collapsed_seeds) == len(self.runs):
            return False
        baselines = self.baselines
        return baselines is not None and main_score(self.task, self.medians) > main_score(self.task, baselines)


@dataclass(frozen=True)
class Average:
    """The mean over tasks, under the name that says which mean it is; fractions."""

    name: str
    value: float
    baseline: float | None


def summarize(results: Sequence[RunResult]) -> list[TaskSummary]:
    """Group runs by task, in GLUE's order.

    Raises:
        ValueError: There is no run, or one lacks a score of its task.
    """
    if not results:
        raise ValueError("no run to report")
    summaries = []
    for task in TASKS.values():
        runs = tuple(sorted((run for run in results if run.task == task.name), key=lambda run: run.seed))
        if not runs:
            continue
        for run in runs:
            if missing := [name for name in task.score_names if name not in run.scores]:
                raise ValueError(f"the run of {task.name} with seed {run.seed} has no {', '.join(missing)}")
        scores = tuple(
            ScoreSummary(name, tuple(run.scores[name] for run in runs), runs[0].baseline.get(name))
            for name in task.score_names
        )
        summaries.append(TaskSummary(task, runs, scores))
    return summaries


def average(summaries: Sequence[TaskSummary], is_sample: bool = False) -> Average:
    """The official average of the medians where all nine tasks ran; else a mean that says over how many it is.

    The sample tasks are not GLUE, so that their mean never bears the official average's name.
    """
    medians = {summary.task.name: summary.medians for summary in summaries}
    baselines = {summary.task.name: summary.baselines or {} for summary in summaries}
    has_baselines = all(baselines.values())
    if set(medians) == {task.name for task in TRAINABLE_TASKS} and not is_sample:
        baseline = official_average(baselines) if has_baselines else None
        return Average(OFFICIAL_AVERAGE, official_average(medians), baseline)
    name = "mean over the 1 task run" if len(medians) == 1 else f"mean over the {len(medians)} tasks run"
    return Average(name, mean_over_tasks(medians), mean_over_tasks(baselines) if has_baselines else None)
