"""Two models on the same development examples: the difference of each score, and how much of it hangs on the examples.

The bootstrap is paired: a resample draws the same examples for both, so that what is easy for both does not count. The
seeds are pooled: of each model the mean over its runs is formed on every resample. The runs stay as they are; the
interval says nothing about other seeds, which is why their spread stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glue_eval.averages import AverageRule
from glue_eval.development import Development, check_scores, find_run_folder, read_development
from glue_eval.protocol import Protocol
from glue_eval.recorded import Recorded
from glue_eval.report_sections import protocol_facts, settings_in_words
from glue_eval.statistics import Interval, interval, resampled_scores
from glue_eval.summary import ScoreSummary, TaskSummary, common_rules, summarize
from glue_eval.tasks import SplitFile, Task

HIGHER, LOWER, NONE_SHOWN, NOT_COMPARED = "higher", "lower", "no difference shown", "not compared"


@dataclass(frozen=True)
class Side:
    """One of the reports that are compared. `summaries`: by the task's name."""

    label: str
    recorded: Recorded
    summaries: Mapping[str, TaskSummary]

    @property
    def protocol(self) -> Protocol:
        """How its runs were done."""
        return self.recorded.protocol


@dataclass(frozen=True)
class Difference:
    """A mean score of one report less that of the first; fractions.

    `score` is None for an average, whose name is then in `task`. `resamples`: (R,) the difference on resampled
    examples; None where there are none, and then `reason` says why. `seeds`: whether every run of the one scores above
    (`all higher`) or below every run of the other, else `overlap`; a collapsed run is below all; empty for an average.
    """

    task: str
    score: str | None
    value: float
    resamples: NDArray[np.float64] | None
    reason: str = ""
    seeds: str = ""

    @property
    def interval(self) -> Interval | None:
        """95 % over the choice of examples."""
        return None if self.resamples is None else interval(self.resamples)

    @property
    def shows(self) -> str:
        """`higher` or `lower` where the interval is on one side of 0."""
        found = self.interval
        if found is None:
            return NOT_COMPARED
        if found.contains_zero:
            return NONE_SHOWN
        return HIGHER if self.value > 0 else LOWER

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        found = self.interval
        return {
            "task": self.task,
            "score": self.score,
            "value": self.value,
            "interval": None if found is None else found.to_json(),
            "shows": self.shows,
            "reason": self.reason,
            "seeds": self.seeds,
        }


def make_sides(recorded: Sequence[Recorded]) -> list[Side]:
    """The reports with labels that tell them apart: the model's name, else the folder's, else its path."""
    models = [each.protocol.model.rstrip("/").rpartition("/")[2] for each in recorded]
    folders = [each.folder.resolve().name for each in recorded]
    paths = [str(each.folder) for each in recorded]
    labels = next((names for names in (models, folders, paths) if len(set(names)) == len(names)), None)
    if labels is None:
        labels = [f"{number}: {path}" for number, path in enumerate(paths, 1)]
    return [
        Side(label, each, {found.task.name: found for found in summarize(each.results, each.protocol, each.failures)})
        for label, each in zip(labels, recorded, strict=True)
    ]


def differences(first: Side, other: Side) -> list[Difference]:
    """Of each score that both have, and of the averages that their common tasks allow."""
    common = [task for task in first.summaries if task in other.summaries]
    found = []
    for name in common:
        pair = (first.summaries[name], other.summaries[name])
        for split in pair[0].task.dev_splits:
            found += _of_split(first, other, pair, split)
    rules = common_rules([list(first.summaries.values()), list(other.summaries.values())],
                         first.protocol.is_sample or other.protocol.is_sample)  # fmt: skip
    return [*found, *(_of_average(rule, first, other, found) for rule in rules)]


def _of_split(first: Side, other: Side, pair: tuple[TaskSummary, TaskSummary], split: SplitFile) -> list[Difference]:
    task = pair[0].task
    kept, reason = _paired(first, other, pair, split)
    found = []
    for metric in task.metrics:
        name = task.score_name(split, metric)
        scores = [next((score for score in summary.scores if score.name == name), None) for summary in pair]
        if scores[0] is None or scores[1] is None:
            continue
        resamples = None
        if kept is not None:
            values = resampled_scores(task, metric, split.name, kept.predictions, kept.labels)
            num_first = len(pair[0].runs)
            resamples = values[:, num_first:].mean(axis=1) - values[:, :num_first].mean(axis=1)
        value = scores[1].mean - scores[0].mean
        seeds = _seeds(*(_without_collapsed(*each) for each in zip(pair, (scores[0], scores[1]), strict=True)))
        found.append(Difference(task.name, name, value, resamples, reason, seeds))
    return found


def _paired(
    first: Side, other: Side, pair: tuple[TaskSummary, TaskSummary], split: SplitFile
) -> tuple[Development | None, str]:
    """The predictions of all runs of both for the same examples, those of `first` first; or why there are none."""
    if _facts(pair[0].task) != _facts(pair[1].task):
        return None, "the tasks are defined differently"
    kept, places = [], []
    for side, summary in zip((first, other), pair, strict=True):
        folders = [find_run_folder(side.recorded.folder, run) for run in summary.runs]
        there = [folder for folder in folders if folder is not None]
        found = read_development(summary.task, split.name, there) if len(there) == len(folders) else None
        if found is None:
            return None, f"{side.label} left no predictions"
        kept.append(found)
        places += there
    both, reason = joined(*kept)
    if both is not None:
        check_scores(pair[0].task, split, [*pair[0].runs, *pair[1].runs], places, both)
    return both, reason


def joined(first: Development, other: Development) -> tuple[Development | None, str]:
    """The runs of both on the examples of the first; or why they are not the same examples, by id and label."""
    places = {number: place for place, number in enumerate(other.ids)}
    if len(places) != len(other.ids) or len(set(first.ids)) != len(first.ids):
        if first.ids != other.ids:
            return None, "ids occur twice, and the order differs"
        order = list(range(len(first.ids)))
    elif set(first.ids) != set(places):
        differing = len(set(first.ids) ^ set(places))
        return None, f"not the same development examples ({differing:,} ids are in one only)"
    else:
        order = [places[number] for number in first.ids]
    if (num_changed := int((first.labels != other.labels[order]).sum())) > 0:
        return None, f"not the same development examples ({num_changed:,} labels differ)"
    together = np.vstack([first.predictions, other.predictions[:, order]])
    return Development(first.ids, first.labels, together), ""


def _facts(task: Task) -> tuple[Any, ...]:
    """What of a task decides on its scores; where its files are does not."""
    return task.labels, task.metrics, task.score_range, tuple(split.name for split in task.dev_splits)


def _without_collapsed(summary: TaskSummary, score: ScoreSummary) -> list[float]:
    """The runs' values; a collapsed or diverged run is below all others, whatever a constant answer scores."""
    return [
        -math.inf if run.seed in summary.collapsed_seeds else value
        for run, value in zip(summary.runs, score.values, strict=True)
    ]


def _seeds(first: Sequence[float], other: Sequence[float]) -> str:
    if min(other) > max(first):
        return "all higher"
    return "all lower" if max(other) < min(first) else "overlap"


def _of_average(rule: AverageRule, first: Side, other: Side, found: Sequence[Difference]) -> Difference:
    def means(side: Side) -> dict[str, dict[str, float]]:
        return {name: {score.name: score.mean for score in summary.scores} for name, summary in side.summaries.items()}

    resamples: dict[str, dict[str, Any]] = {}
    for each in found:
        if each.resamples is not None and each.score is not None:
            resamples.setdefault(each.task, {})[each.score] = each.resamples
    value = rule.of(means(other)) - rule.of(means(first))
    missing = [task for group in rule.groups for task, score in group if score not in resamples.get(task, {})]
    if missing:
        return Difference(rule.name, None, value, None, f"{missing[0]} is not compared")
    return Difference(rule.name, None, value, rule.of_resamples(resamples))


def protocol_differences(sides: Sequence[Side]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(what, of which tasks, its value in each report) where the reports were not done alike; models left out."""
    facts = [dict(protocol_facts(side.protocol)) for side in sides]
    names = dict.fromkeys(name for each in facts for name in each)
    found = []
    for name in names:
        values = tuple(each.get(name, "-") for each in facts)
        if len(set(values)) > 1 and name not in ("Model", "Weights (SHA-256)"):
            found.append((name, "all", values))
    by_values: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    common = [task for task in sides[0].summaries if all(task in side.summaries for side in sides)]
    for task in common:
        settings = [_run_facts(side.summaries[task]) for side in sides]
        for name in dict.fromkeys(name for each in settings for name in each):
            values = tuple(each.get(name, "-") for each in settings)
            if len(set(values)) > 1:
                by_values.setdefault((name, values), []).append(task)
    for (name, values), tasks in by_values.items():
        found.append((name, "all" if tasks == common else ", ".join(tasks), values))
    return found


def _run_facts(summary: TaskSummary) -> dict[str, str]:
    run = summary.usual
    facts = {
        "Optimizer": run.optimizer,
        "Learning rate": f"{run.learning_rate:g}",
        "Batch": str(run.batch_size),
        "Epochs": "-" if run.epochs is None else f"{run.epochs:.3g}",
        "Steps": str(run.steps),
        "Tokens at most": str(run.max_length),
        "Training examples": f"{run.num_train:,}",
        "Runs": str(len(summary.runs)),
        "Start": run.start,
    }
    return {**facts, **settings_in_words(run.settings)}
