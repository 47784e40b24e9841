"""The result of one fine-tuning run: one task, one seed. What the report is made of, and what is kept as JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_adan.storage import finite, write_json


@dataclass(frozen=True)
class RunResult:
    """Scores and cost of fine-tuning on one task with one seed.

    `scores` and `baseline` (always the commonest dev label) are fractions by `Task.score_names`. `collapsed`: some
    development file got constant predictions. `num_train`, `num_dev`: examples; `steps`: optimizer steps; `seconds`:
    wall time of training and scoring; `settings`: further hyperparameters worth reporting, as JSON values.
    """

    task: str
    seed: int
    scores: dict[str, float]
    collapsed: bool
    num_train: int
    num_dev: int
    steps: int
    seconds: float
    learning_rate: float
    optimizer: str
    batch_size: int
    epochs: float | None = None
    max_length: int | None = None
    train_loss: float | None = None
    baseline: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a member per field; NaN and infinities become null."""
        found: dict[str, Any] = finite(dataclasses.asdict(self))
        return found

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunResult:
        """The result that `to_json` wrote.

        Raises:
            ValueError: A member is unknown or missing; the message names it.
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
        scores = {name: math.nan if score is None else float(score) for name, score in value["scores"].items()}
        return cls(**{**value, "scores": scores})

    def save(self, path: Path) -> None:
        """Write the result as JSON, whole or not at all."""
        write_json(path, self.to_json())
