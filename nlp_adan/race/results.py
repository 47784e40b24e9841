"""What a race found: the runs' results, and the record of the race that its verdict and its report are made from.

A run's folder holds `result.json`; `race.json`, in the race's folder, tells what is raced there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_adan.storage import finite

FORMAT = 1


@dataclass(frozen=True)
class Point:
    """An evaluation on the way: after `step` steps, `seconds` of training (evaluations apart), the loss in nats."""

    step: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Settings:
    """What is an optimizer's own: the betas by name, the peak learning rate, the weight decay."""

    preset: str
    learning_rate: float
    weight_decay: float

    def __str__(self) -> str:
        preset = f", {self.preset}" if self.preset else ""
        return f"learning rate {self.learning_rate:.3g}{preset}, weight decay {self.weight_decay:g}"


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    entrant: whose it is, as the report names it.
    command: repeats it, without the program: the words of `run_pretrain.py`.
    batch_size: sequences a step. steps: that were made. tokens: that were trained on.
    loss: validation loss at the end, nats a token; infinity for a run that diverged.
    curve: evaluations during training, the last one at its end; empty for runs of the search.
    step_seconds: the median step, data and optimizer included, evaluations and checkpoints apart; not a number where
        the run logged none.
    seconds: all steps together, likewise; 0 where nothing is known.
    state_bytes: of the optimizer's state.
    diverged: what told so, or nothing.
    """

    entrant: str
    settings: Settings
    seed: int
    command: tuple[str, ...]
    batch_size: int
    steps: int
    tokens: int
    loss: float
    curve: tuple[Point, ...]
    step_seconds: float
    seconds: float
    state_bytes: int
    diverged: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of result.json; an infinite loss is null, and so is a time that is not known."""
        plain: dict[str, Any] = finite({"format": FORMAT, **dataclasses.asdict(self)})
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunResult:
        """Of `to_json`. Raises KeyError, TypeError or ValueError for another object."""
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}, not {FORMAT}")
        known = {name: value for name, value in values.items() if name != "format"}
        known["settings"] = Settings(**values["settings"])
        known["command"] = tuple(values["command"])
        known["curve"] = tuple(
            Point(point["step"], point["seconds"], math.inf if point["loss"] is None else point["loss"])
            for point in values["curve"]
        )
        known["loss"] = math.inf if values["loss"] is None else values["loss"]
        known["step_seconds"] = math.nan if values["step_seconds"] is None else values["step_seconds"]
        return cls(**known)


def read_result(path: Path) -> RunResult:
    """A run's result.json."""
    return RunResult.from_json(json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Search:
    """How an entrant's settings were found.

    short: runs of `short_share` of the budget, in the order in which they were tried.
    longer: the best of them again, with `longer_share`.
    chosen: the settings that raced. is_edge: whether the chosen learning rate was the lowest or highest one tried.
    """

    short: tuple[RunResult, ...]
    longer: tuple[RunResult, ...]
    chosen: Settings
    is_edge: bool

    @property
    def cost(self) -> int:
        """Steps of all its runs together."""
        return sum(run.steps for run in (*self.short, *self.longer))


@dataclass(frozen=True)
class Race:
    """A race that was run; the first entrant is the one that the others are compared with.

    family, recipe: of run_pretrain.py. words: the options given beside them. data: where the text came from.
    budget: of a run, as `--budget` takes it ("steps:1500"). loss_name: what the loss is, for a reader.
    seeds: of the final runs, by entrant; the same for all, so that equal places make pairs, except where an optimizer
        races against itself.
    searches, finals: by entrant, in the order of the call; finals in the order of the seeds.
    batches: of `--batch_sizes`: by entrant and batch size, the final runs at that size, and what was searched for it.
    published: curves of a paper for the recipe: by their name, (step, loss in nats).
    failures: runs that broke, in words.
    """

    family: str
    recipe: str
    words: tuple[str, ...]
    data: str
    budget: str
    short_share: float
    longer_share: float
    loss_name: str
    seeds: Mapping[str, tuple[int, ...]]
    searches: Mapping[str, Search]
    finals: Mapping[str, tuple[RunResult, ...]]
    environment: Mapping[str, Any]
    command: str
    jobs: int = 1
    batches: Mapping[str, Mapping[int, tuple[RunResult, ...]]] = field(default_factory=dict)
    batch_searches: Mapping[str, Mapping[int, tuple[RunResult, ...]]] = field(default_factory=dict)
    published: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @property
    def entrants(self) -> list[str]:
        """In the order of the call."""
        return list(self.searches)
