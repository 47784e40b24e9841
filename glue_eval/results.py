"""The result of one fine-tuning run: one task, one seed. What the report is made of, and what is kept as JSON.

A run's folder holds result.json (written last), and for each file that was predicted `predictions/SPLIT.jsonl` (`dev`,
`dev_matched`, `test`, ..., `AX`): one object an example in file order, `{"id", "prediction", "label", "logits"}`, where
prediction and label are the task's own strings (`entailment`), or numbers for a regression task; without `label` where
the file has none. What is no number is null.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glue_eval.json_types import check_members
from nlp_adan.storage import finite, write_json

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation during a run: after `step` optimizer steps.

    `scores`: on the development files, by `Task.score_names`, as fractions; `train_loss`: mean since the point before.
    """

    step: int
    epoch: float
    scores: dict[str, float]
    train_loss: float | None = None


@dataclass(frozen=True)
class RunResult:
    """Scores and cost of fine-tuning on one task with one seed.

    task, seed, key: which run it is (docs/design/0007-the-glue-report.md).
    scores: of the checkpoint reported, and `baseline` (always the commonest dev label), as fractions by
        `Task.score_names`. `collapsed`: some development file got constant predictions.
    diverged: why the run has no model to speak of: its loss, or what it predicted, was no number any more; empty for
        others. Its predictions are NaN (a class then is the first label), and it counts as collapsed.
    num_train, num_dev: examples; `num_cut`: training examples longer than `max_length` tokens; `partial`: files that
        hold a part of the task only.
    steps: optimizer steps trained; `chosen_step`: the step of the checkpoint reported; `epochs`: of the data.
    settings: hyperparameters worth reporting, as JSON values.
    start: "pretrained", or the folder of the MNLI model whose body the run began with.
    tokens, padding: tokens of training examples that were processed, and pad tokens beside them.
    ax: for MNLI where the diagnostic file has labels: Matthews correlation by category, "all" for the whole.
    predictions: the names of the splits that were predicted (files as in the module's docstring).
    timing: wall times, rates and memory: `seconds` (all), `train_seconds`, `tokens_per_second` (padding not counted),
        `peak_memory_bytes`. Nothing else of a result differs between two equal runs.
    """

    task: str
    seed: int
    scores: dict[str, float]
    collapsed: bool
    num_train: int
    num_dev: int
    steps: int
    learning_rate: float
    optimizer: str
    batch_size: int
    key: str = ""
    diverged: str = ""
    epochs: float | None = None
    max_length: int | None = None
    train_loss: float | None = None
    chosen_step: int | None = None
    num_cut: int = 0
    num_parameters: int | None = None
    start: str = "pretrained"
    tokens: int = 0
    padding: int = 0
    partial: list[str] = field(default_factory=list)
    baseline: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    curve: list[CurvePoint] = field(default_factory=list)
    ax: dict[str, float] = field(default_factory=dict)
    predictions: list[str] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time of the run, training and scoring."""
        return self.timing.get("seconds", 0.0)

    @property
    def padding_share(self) -> float | None:
        """Pad tokens as a share of all tokens processed in training; None where they were not counted."""
        total = self.tokens + self.padding
        return self.padding / total if total else None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a member per field; NaN and infinities become null."""
        found: dict[str, Any] = finite(dataclasses.asdict(self))
        return found

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunResult:
        """The result that `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: A member is unknown, missing or of another type; the message names it.
        """
        fields = {entry.name: entry for entry in dataclasses.fields(cls)}
        needed = {
            name
            for name, entry in fields.items()
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        }
        if unknown := sorted(set(value) - set(fields)):
            raise ValueError(f"unknown members of a run result: {', '.join(unknown)}")
        if missing := sorted(needed - set(value)):
            raise ValueError(f"missing members of a run result: {', '.join(missing)}")
        curve: Any = value.get("curve", [])
        if isinstance(curve, list):
            curve = [CurvePoint(**{**point, "scores": _numbers(point["scores"])}) for point in curve]
        found = cls(**{**value, "scores": _numbers(value["scores"]), "curve": curve})
        check_members(found)
        return found

    def save(self, path: Path) -> None:
        """Write the result as JSON, whole or not at all."""
        write_json(path, self.to_json())


def _numbers(scores: Any) -> Any:
    """A score that was no number was written as null."""
    if not isinstance(scores, dict):
        return scores  # `check_members` tells it
    return {name: math.nan if score is None else score for name, score in scores.items()}
