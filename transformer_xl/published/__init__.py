"""Published figures of language models, and which of our recipes they belong to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from nlp_adan.pretraining.published import PublishedCurve, read_table
from nlp_adan.training.recipe import read_recipe

FOLDER = Path(__file__).parent
ADAN_PAPER = "adan_paper_wt103.csv"
TEST_PERPLEXITY = "test_perplexity.csv"
RECIPES = Path(__file__).parents[1] / "recipes" / "transformer_xl"
# The paper's run that a recipe repeats, as the columns and as readers name it.
_RUNS = {
    "wt103-base": ("adan_200k", "Adan, 200,000 steps"),
    "wt103-base-100k": ("adan_100k", "Adan, 100,000 steps"),
    "wt103-base-50k": ("adan_50k", "Adan, 50,000 steps"),
    "wt103-base-adam": ("adam_200k", "Adam, 200,000 steps"),
}
_PTB = re.compile(r"ptb-(\d)layer(-\w+)?")  # a recipe, with its optimizer where that is not Adan
COMPARABLE = (
    "What compares: architecture, batch, schedule and optimizer where no setting is said to differ, and the perplexity "
    "of a word if the text is WikiText-103 with its own vocabulary of 267,735 (see Data). The published curves are of "
    "one seed, from the authors' logs, read in segments of 150 with a memory of 150; their training perplexity is a "
    "mean over 200 steps, with dropout. The weight decay of the published run with Adam never reached the optimizer."
)
WIKITEXT_NOTE = (
    "Read from the test part at the checkpoint of the best validation, segments and memory of 150 tokens; one seed "
    "each. Source: the authors' logs (Xie et al. 2022, github.com/sail-sg/Adan, commit 2c65bea)."
)
PTB_NOTE = (
    "Not comparable: these are the least test perplexities of 200 epochs of the AdaBelief authors' experiment (Zhuang "
    "et al. 2020, a fork of awd-lstm-lm), which thus selects on the test part, and in which a defect freezes the "
    "recurrent weights. Here they train, and the checkpoint is chosen on the validation part."
)


@dataclass(frozen=True)
class PublishedResult:
    """A published test perplexity. steps, learning_rate, warmup_steps: as the table shows them, "" where not known."""

    optimizer: str
    steps: str
    learning_rate: str
    warmup_steps: str
    test_perplexity: float


def published_curve(recipe: str) -> PublishedCurve | None:
    """The published run, in perplexity, that a recipe of ours, given by its name, repeats; None for any other."""
    if recipe not in _RUNS:
        return None
    column, name = _RUNS[recipe]
    rows = list(read_table(FOLDER / ADAN_PAPER))

    def points(part: str) -> tuple[tuple[float, float], ...]:
        return tuple((int(row["step"]), float(value)) for row in rows if (value := row[f"{column}_{part}"]))

    return PublishedCurve(
        name=f"paper, {name}",
        train=points("train"),
        valid=points("valid"),
        settings=read_recipe(RECIPES / f"{recipe}.yaml"),
        comparable=COMPARABLE,
        to_nats=math.log,
    )


def published_results(recipe: str) -> tuple[list[PublishedResult], str]:
    """Test perplexities published for a recipe's text and model, and what they are; none for any other recipe."""
    layers = _PTB.fullmatch(recipe)
    if recipe not in _RUNS and layers is None:
        return [], ""
    model = "transformer-xl-base" if layers is None else f"lstm-{layers[1]}layer"
    results = [
        PublishedResult(
            row["optimizer"], row["steps"], row["learning_rate"], row["warmup_steps"], float(row["test_perplexity"])
        )
        for row in read_table(FOLDER / TEST_PERPLEXITY)
        if row["model"] == model
    ]
    return results, WIKITEXT_NOTE if layers is None else PTB_NOTE
