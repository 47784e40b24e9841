"""GLUE's metrics as a module of the `evaluate` library that needs no network: `evaluate.load(FOLDER, "mrpc")`.

The hub's `glue` metric is downloaded at its first use. This one is a file, gives the same numbers, and says more: the
result has `collapsed`, whether the predictions are constant (or, for STS-B, hardly move or are no numbers). A metric
that is then not defined is 0, not NaN. FOLDER is `glue_eval/glue_scores`; `glue_eval/metrics.py` beside it computes.
"""

from __future__ import annotations

import datasets
import evaluate

from glue_eval.metrics import score
from glue_eval.tasks import TASKS, Task
from nlp_adan.errors import nearest

_INPUTS = """
Args:
    predictions: class numbers, in the order of the task's labels; scores for STS-B.
    references: the labels, likewise.
Returns:
    the task's metrics by name, as fractions, and `collapsed`.
"""


def task_of(config_name: str) -> Task:
    """The task that a configuration's name stands for: the hub's `sst2` and `mnli_matched`, or GLUE's own `SST-2`.

    Raises:
        ValueError: There is none of that name; the message names the nearest.
    """
    tasks = {_plain(name): task for name, task in TASKS.items()}
    tasks |= {"mnlimatched": TASKS["MNLI"], "mnlimismatched": TASKS["MNLI"]}
    found = tasks.get(_plain(config_name))
    if found is None:
        raise ValueError(f"no task {config_name!r}{nearest(config_name, TASKS)}: give one of {', '.join(TASKS)}")
    return found


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


class GlueScores(evaluate.Metric):
    """The metrics of one GLUE task; the task is the configuration's name."""

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float64" if task_of(self.config_name).is_regression else "int64")
        return evaluate.MetricInfo(
            description="The metrics of a GLUE task, with a mark for constant predictions.",
            citation="Wang et al. 2019, GLUE: A Multi-Task Benchmark for Natural Language Understanding",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": kind, "references": kind}),  # as NumPy they would be float32
        )

    def _compute(self, predictions: object, references: object) -> dict[str, float | bool]:
        found = score(task_of(self.config_name), predictions, references)  # type: ignore[arg-type]
        return {**found.values, "collapsed": found.collapsed}
