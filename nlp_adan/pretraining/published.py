"""Published runs to lay a run's curves over, each with the recipe of ours that repeats it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_adan.pretraining.record import Point

# Options of a recipe that do not change what is computed.
_WATCHING = ("logging_", "eval_", "save_", "per_device_", "max_valid_", "seed", "valid_fraction")


@dataclass(frozen=True)
class PublishedCurve:
    """The curves of a published run, by optimizer step, in the measure of the runs beside it.

    `settings` are those of the recipe that repeats the run; `comparable` says what compares with it and what does not;
    `to_nats` makes a loss in nats a token of the measure.
    """

    name: str
    train: tuple[Point, ...]
    valid: tuple[Point, ...]
    settings: Mapping[str, Any]
    comparable: str
    to_nats: Callable[[float], float] = float

    def differences(self, settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(option, here, published) for each setting of a run that differs from the recipe's."""
        return [
            (name, str(settings.get(name)), str(value))
            for name, value in self.settings.items()
            if not name.startswith(_WATCHING) and not _equal(settings.get(name), value)
        ]


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv file whose comment lines, which say where it is from, begin with `#`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return iter(csv.DictReader(line for line in lines if not line.startswith("#")))


def _equal(ours: Any, theirs: Any) -> bool:
    """As options: YAML reads `1e-3` as text, and the Trainer calls torch's AdamW `adamw_torch`."""
    try:
        return float(ours) == float(theirs)
    except (TypeError, ValueError):
        return str(ours).removesuffix("_torch") == str(theirs).removesuffix("_torch")
