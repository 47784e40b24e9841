"""What a report says about a set of runs: each score over its seeds and over its examples, and the averages by name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glue_eval.averages import OFFICIAL, RULES, AverageRule, mean_over_tasks
from glue_eval.development import check_scores, find_run_folder, read_development
from glue_eval.metrics import main_score
from glue_eval.partial import partial_data
from glue_eval.protocol import Failure, Protocol
from glue_eval.results import RunResult
from glue_eval.statistics import Interval, interval, resampled_scores
from glue_eval.tasks import TASKS, Task

Resamples = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreSummary:
    """One score of one task over its seeds; every value is a fraction.

    `values`: in the order of the seeds. `resamples`: (R,) the median over the same runs on resampled development
    examples, of which the file has `num_examples`; None where a run left no predictions.
    """

    name: str
    values: tuple[float, ...]
    baseline: float | None
    resamples: Resamples | None = field(default=None, compare=False, repr=False)
    num_examples: int | None = None

    @property
    def median(self) -> float:
        """The middle value; for an even number of seeds, the mean of the two in the middle."""
        return statistics.median(self.values)

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def best(self) -> float:
        """The highest value of any seed."""
        return max(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds (n - 1 in the denominator); None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the median over the choice of development examples; it says nothing about seeds."""
        return None if self.resamples is None else interval(self.resamples)


@dataclass(frozen=True)
class TaskSummary:
    """All runs of one task that have a result, in the order of their seeds; at least one.

    `partial`: what they did not see whole (`glue_eval.partial`).
    """

    task: Task
    runs: tuple[RunResult, ...]
    scores: tuple[ScoreSummary, ...]
    failures: tuple[Failure, ...] = ()
    partial: tuple[str, ...] = ()

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
    def resamples(self) -> dict[str, Resamples]:
        """The resamples of each score that has some, by name."""
        return {score.name: score.resamples for score in self.scores if score.resamples is not None}

    @property
    def has_resamples(self) -> bool:
        """Whether each score has an interval."""
        return len(self.resamples) == len(self.scores)

    @property
    def collapsed_seeds(self) -> tuple[int, ...]:
        """Seeds whose predictions on some development file were constant or, after it diverged, no numbers."""
        return tuple(run.seed for run in self.runs if run.collapsed or any(map(math.isnan, run.scores.values())))

    @property
    def usual(self) -> RunResult:
        """A run that came to its end, to tell the protocol by; the first one where all diverged."""
        return next((run for run in self.runs if not run.diverged), self.runs[0])

    @property
    def starts(self) -> tuple[str, ...]:
        """What the runs started from, if not from the pretrained model alone."""
        return tuple(sorted({run.start for run in self.runs} - {"pretrained"}))

    @property
    def is_glue(self) -> bool:
        """Whether it is one of GLUE's tasks rather than one's own."""
        return TASKS.get(self.task.name) == self.task

    @property
    def has_learnt(self) -> bool:
        """Whether not every run collapsed, and the median lies above the baseline: with its interval where it has one.

        Of several scores that is their mean, and the interval of that.
        """
        baselines = self.baselines
        if baselines is None or len(self.collapsed_seeds) == len(self.runs):
            return False
        lowest = main_score(self.task, self.medians)
        if self.has_resamples:
            lowest = interval(np.mean(list(self.resamples.values()), axis=0)).low
        return lowest > main_score(self.task, baselines)


@dataclass(frozen=True)
class Average:
    """One mean of medians over tasks, by the rule that names it; fractions. `interval` is over examples."""

    rule: AverageRule
    value: float
    baseline: float | None
    interval: Interval | None = None

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name


def summarize(
    results: Sequence[RunResult], protocol: Protocol, failures: Sequence[Failure] = (), folder: Path | None = None
) -> list[TaskSummary]:
    """Group runs by task: GLUE's in GLUE's order, then one's own.

    Args:
        results: in any order.
        folder: of the report, in which the runs' folders with their predictions are; None: no intervals.

    Raises:
        ValueError: A run lacks a score of its task, or its task is not the report's.
    """
    for name in {run.task for run in results}:
        protocol.task(name)
    summaries = []
    for task in sorted(protocol.tasks, key=lambda task: list(TASKS).index(task.name) if task.name in TASKS else 99):
        runs = tuple(sorted((run for run in results if run.task == task.name), key=lambda run: run.seed))
        if not runs:
            continue
        for run in runs:
            if missing := [name for name in task.score_names if name not in run.scores]:
                raise ValueError(f"the run of {task.name} with seed {run.seed} has no {', '.join(missing)}")
        resamples = median_resamples(task, runs, folder)
        scores = tuple(
            ScoreSummary(
                name,
                tuple(_defined(run.scores[name]) for run in runs),
                runs[0].baseline.get(name),
                *resamples.get(name, (None, None)),
            )
            for name in task.score_names
        )
        failed = tuple(failure for failure in failures if failure.task == task.name)
        partial = dict.fromkeys(told for run in runs for told in partial_data(task, run, protocol))
        summaries.append(TaskSummary(task, runs, scores, failed, tuple(partial)))
    return summaries


def median_resamples(task: Task, runs: Sequence[RunResult], folder: Path | None) -> dict[str, tuple[Resamples, int]]:
    """By score name the median over runs on resampled examples of its file, and how many the file has.

    Without the scores whose predictions are not there.
    """
    places = [None if folder is None else find_run_folder(folder, run) for run in runs]
    folders = [place for place in places if place is not None]
    if len(folders) < len(places):
        return {}
    found = {}
    for split in task.dev_splits:
        kept = read_development(task, split.name, folders)
        if kept is None:
            continue
        check_scores(task, split, runs, folders, kept)
        for metric in task.metrics:
            values = resampled_scores(task, metric, split.name, kept.predictions, kept.labels)
            found[task.score_name(split, metric)] = (np.median(values, axis=1), len(kept.labels))
    return found


def common_rules(reports: Sequence[Sequence[TaskSummary]], is_sample: bool = False) -> list[AverageRule]:
    """The averages that the tasks of all the reports allow, the first to head a report first; none of no common task.

    A published rule takes whole GLUE tasks: on the sample tasks, on partial data and on one's own, there is only the
    mean over the tasks run, whose name says over how many it is.
    """
    by_name = [{summary.task.name: summary for summary in summaries} for summaries in reports]
    common = [name for name in by_name[0] if all(name in each for each in by_name)]
    whole = {name for name in common if all(each[name].is_glue and not each[name].partial for each in by_name)}
    rules = [rule for rule in RULES if rule.tasks <= whole and not is_sample]
    if common and (OFFICIAL not in rules or set(common) != OFFICIAL.tasks):  # over the nine, whole, it is the official
        rules.append(mean_over_tasks({name: by_name[0][name].task.score_names for name in common}))
    return rules


def averages(summaries: Sequence[TaskSummary], is_sample: bool = False) -> list[Average]:
    """The averages by `common_rules`, at least one, of the medians."""
    rules = common_rules([summaries], is_sample)
    medians = {summary.task.name: summary.medians for summary in summaries}
    baselines = {summary.task.name: summary.baselines for summary in summaries}
    resamples = {summary.task.name: summary.resamples for summary in summaries}
    found = []
    for rule in rules:
        has_resamples = all(score in resamples[task] for group in rule.groups for task, score in group)
        spread = interval(rule.of_resamples(resamples)) if has_resamples else None
        known: Mapping[str, Any] = {task: baselines[task] for task in rule.tasks}
        found.append(Average(rule, rule.of(medians), rule.of(known) if all(known.values()) else None, spread))
    return found


def _defined(value: float) -> float:
    """A score that is no number counts as 0, as an undefined metric does in `glue_eval.metrics`."""
    return value if math.isfinite(value) else 0.0
