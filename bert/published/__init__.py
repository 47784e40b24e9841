"""Published figures, and which of our recipes they belong to."""

from __future__ import annotations

import math
from pathlib import Path

from nlp_adan.pretraining.published import PublishedCurve, read_table
from nlp_adan.training.recipe import read_recipe

ADAN_PAPER = "adan_paper_bert_mlm.csv"
RECIPES = Path(__file__).parents[1] / "recipes"
# The optimizer of the paper's run that a recipe repeats, as the columns are named.
_OPTIMIZERS = {"base": "adan", "base-adam": "adam"}
COMPARABLE = (
    "What compares: the architecture, and batch, schedule and optimizer where no setting is said to differ. "
    "What does not: losses are a mean over the tokens of a vocabulary and of a text, and the paper's are of GPT-2's "
    "vocabulary of 50,265 entries on Wikipedia (20220301.en) and BookCorpus, 99 : 1 split, in blocks that were about "
    "0.9 x 512 tokens full; whether this run's text and vocabulary are those, its folder cannot tell. The paper's "
    "curve is of one seed, from the authors' fairseq logs, converted from bits to nats (x ln 2)."
)


def published_curve(recipe: str) -> PublishedCurve | None:
    """The published run, in nats a masked token, that a recipe of ours, given by its name, repeats; or None."""
    if recipe not in _OPTIMIZERS:
        return None
    optimizer = _OPTIMIZERS[recipe]
    rows = list(read_table(Path(__file__).parent / ADAN_PAPER))

    def points(column: str) -> tuple[tuple[float, float], ...]:
        return tuple((int(row["step"]), float(row[column]) * math.log(2)) for row in rows if row[column])

    return PublishedCurve(
        name=f"paper, {optimizer.capitalize()}",
        train=points(f"{optimizer}_train_bits"),
        valid=points(f"{optimizer}_valid_bits"),
        settings=read_recipe(RECIPES / f"{recipe}.yaml"),
        comparable=COMPARABLE,
    )
