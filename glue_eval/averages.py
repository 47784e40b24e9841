"""The averages over tasks that go by the name of "GLUE score": three that do not agree, each by its name.

A rule is a list of groups of scores: the mean is taken within each group, then over the groups. With the published
rows of `glue_eval.published` the rules give the published averages (a test holds them to it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glue_eval.tasks import TRAINABLE_TASKS

Score = tuple[str, str]
"""A task's name and one of its `score_names`."""

_MATCHED, _MISMATCHED = ("MNLI", "accuracy_matched"), ("MNLI", "accuracy_mismatched")
_ADAN = (
    ("QNLI", "accuracy"),
    ("QQP", "accuracy"),
    ("RTE", "accuracy"),
    ("SST-2", "accuracy"),
    ("CoLA", "matthews"),
    ("STS-B", "pearson"),
)
_BERT = (
    _MATCHED,
    _MISMATCHED,
    ("QQP", "f1"),
    ("QNLI", "accuracy"),
    ("SST-2", "accuracy"),
    ("CoLA", "matthews"),
    ("STS-B", "spearman"),
    ("MRPC", "f1"),
    ("RTE", "accuracy"),
)


@dataclass(frozen=True)
class AverageRule:
    """One way to average. `definition`: in words, for a reader; `groups`: see the top of the file."""

    name: str
    definition: str
    groups: tuple[tuple[Score, ...], ...]

    @property
    def tasks(self) -> frozenset[str]:
        """The names of the tasks that have to be there."""
        return frozenset(task for group in self.groups for task, _ in group)

    def of(self, values: Mapping[str, Mapping[str, float]]) -> float:
        """The average of values by task, then by score, in any one unit; KeyError where one is missing."""
        return float(np.mean([np.mean([values[task][score] for task, score in group]) for group in self.groups]))

    def of_resamples(self, values: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> NDArray[np.float64]:
        """Likewise of values over resamples, each (R,); (R,) float64."""
        groups = [np.mean([values[task][score] for task, score in group], axis=0) for group in self.groups]
        found: NDArray[np.float64] = np.mean(groups, axis=0)
        return found


OFFICIAL = AverageRule(
    "official average",
    "the leaderboard's: over all nine tasks, WNLI included, a task's scores averaged first",
    tuple(tuple((task.name, score) for score in task.score_names) for task in TRAINABLE_TASKS),
)
BERT_TABLE = AverageRule(
    "BERT table 1 average",
    "Devlin et al. 2019, there on the test files: no WNLI, MNLI's two files as two tasks, F1 for QQP and MRPC, "
    "Spearman for STS-B",
    tuple((score,) for score in _BERT),
)
ADAN_TWICE = AverageRule(
    "Adan README average, MNLI twice",
    "Xie et al. 2022, there on the development files: no MRPC, no WNLI, MNLI's two files as two tasks, accuracy for "
    "QQP, Pearson for STS-B",
    tuple((score,) for score in (_MATCHED, _MISMATCHED, *_ADAN)),
)
ADAN_ONCE = AverageRule(
    "Adan README average, MNLI once",
    "the same seven tasks, MNLI as one",
    ((_MATCHED, _MISMATCHED), *((score,) for score in _ADAN)),
)

RULES = (OFFICIAL, BERT_TABLE, ADAN_TWICE, ADAN_ONCE)
"""In the order in which a report names them; the first whose tasks all ran heads it."""


def mean_over_tasks(scores: Mapping[str, tuple[str, ...]]) -> AverageRule:
    """The rule for any other set of tasks: macro over them, a task's scores averaged first.

    Args:
        scores: the names of each task's scores by the task's name; at least one task.
    """
    number = "the 1 task" if len(scores) == 1 else f"the {len(scores)} tasks"
    groups = tuple(tuple((task, score) for score in names) for task, names in scores.items())
    return AverageRule(f"mean over {number} run", "a task's scores averaged first; no published average", groups)
