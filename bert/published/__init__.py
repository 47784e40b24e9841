"""Published figures, and which of our recipes they belong to."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_adan.training.recipe import read_recipe

ADAN_PAPER = "adan_paper_bert_mlm.csv"
RECIPES = Path(__file__).parents[1] / "recipes"
# The optimizer of the paper's run that a recipe repeats, as the columns are named.
_OPTIMIZERS = {"base": "adan", "base-adam": "adam"}
# Options of a recipe that do not change what is computed.
_WATCHING = ("logging_", "eval_", "save_", "per_device_", "max_valid_", "seed", "valid_fraction")
COMPARABLE = (
    "What compares: the architecture, and batch, schedule and optimizer where no setting is said to differ. "
    "What does not: losses are a mean over the tokens of a vocabulary and of a text, and the paper's are of GPT-2's "
    "vocabulary of 50,265 entries on Wikipedia (20220301.en) and BookCorpus, 99 : 1 split, in blocks that were about "
    "0.9 x 512 tokens full; whether this run's text and vocabulary are those, its folder cannot tell. The paper's "
    "curve is of one seed, from the authors' fairseq logs, converted from bits to nats (x ln 2)."
)


@dataclass(frozen=True)
class PublishedCurve:
    """Masked LM loss of a published run, in nats a masked token, by optimizer step.

    `settings` are those of the recipe that repeats the run.
    """

    name: str
    train: tuple[tuple[int, float], ...]
    valid: tuple[tuple[int, float], ...]
    settings: Mapping[str, Any]

    def differences(self, settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(option, here, published) for each setting of a run that differs from the recipe's."""
        return [
            (name, str(settings.get(name)), str(value))
            for name, value in self.settings.items()
            if not name.startswith(_WATCHING) and not _equal(settings.get(name), value)
        ]


def published_curve(recipe: str) -> PublishedCurve | None:
    """The published run that a recipe of ours, given by its name, repeats; None for any other."""
    if recipe not in _OPTIMIZERS:
        return None
    optimizer = _OPTIMIZERS[recipe]
    lines = (Path(__file__).parent / ADAN_PAPER).read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))

    def points(column: str) -> tuple[tuple[int, float], ...]:
        return tuple((int(row["step"]), float(row[column]) * math.log(2)) for row in rows if row[column])

    return PublishedCurve(
        name=f"paper, {optimizer.capitalize()}",
        train=points(f"{optimizer}_train_bits"),
        valid=points(f"{optimizer}_valid_bits"),
        settings=read_recipe(RECIPES / f"{recipe}.yaml"),
    )


def _equal(ours: Any, theirs: Any) -> bool:
    """As options: YAML reads `1e-3` as text, and the Trainer calls torch's AdamW `adamw_torch`."""
    try:
        return float(ours) == float(theirs)
    except (TypeError, ValueError):
        return str(ours).removesuffix("_torch") == str(theirs).removesuffix("_torch")
