"""The options of `run_pretrain.py bert`: a recipe's, then the command line's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import EvalPrediction

from bert.data_options import CorpusOptions
from bert.given import check_given
from bert.metrics import masked_lm_metrics
from bert.model import STATISTICS
from bert.model_options import ModelOptions
from bert.probe import ProbeOptions
from nlp_adan.corpora.documents import check_outside
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan_options import PlanOptions
from nlp_adan.training.budget import BudgetOptions
from nlp_adan.training.library_checks import check_budget_schedule
from nlp_adan.training.pretraining import PretrainingOptions
from nlp_adan.training.recipe import (
    CommandParser,
    check_range,
    find_recipe,
    given_options,
    parse_with_recipe,
    read_recipe,
    recipe_names,
    resolved,
    told_with_place,
    unknown_value,
    word_value,
)

RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass
class DataOptions(CorpusOptions):
    """The text, its tokenizer and its masking.

    given: the names of all options that stand on the command line itself.
    """

    recipe: str = dataclasses.field(default="tiny", metadata={"help": "A recipe's name, or a .yaml file's path."})
    max_valid_blocks: int = dataclasses.field(default=2048, metadata={"help": "At most so many blocks are validated."})
    mask_probability: float = dataclasses.field(default=0.15, metadata={"help": "Share of the tokens to predict."})
    given: frozenset[str] = dataclasses.field(default=frozenset(), init=False)


class Options(NamedTuple):
    """All options of a run."""

    data: DataOptions
    model: ModelOptions
    budget: BudgetOptions
    probe: ProbeOptions
    plan: PlanOptions
    engine: PretrainingOptions

    def resolved(self) -> dict[str, Any]:
        """Every option by name, as plain values."""
        return resolved(*self)


def command_parser() -> CommandParser:
    """The parser of `run_pretrain.py bert`."""
    return CommandParser(
        (DataOptions, ModelOptions, BudgetOptions, ProbeOptions, PlanOptions, PretrainingOptions),
        prog="run_pretrain.py bert",
        description=f"Pretrain a BERT from scratch. Recipes: {', '.join(recipe_names(RECIPES))}.",
    )


def parse_options(words: Sequence[str]) -> Options:
    """The options of a command line, the recipe's values under the user's.

    Raises: UserError for an unknown recipe or option, and for a value that is out of range.
    """
    parser = command_parser()
    path = find_recipe(word_value("--recipe", words) or DataOptions.recipe, RECIPES)
    with told_with_place(path, words):
        options = Options(*parse_with_recipe(parser, read_recipe(path), path, words))
        options.data.given = given_options(words)
        check_data(options.data)
        check_given(options.data, options.model, options.data.given)
        check_outside(options.data.data, Path(options.engine.output_dir))
        if options.budget.max_hours is not None:
            check_budget_schedule(options.engine)
        check_best_metric(options.engine.metric_for_best_model)
    return options


def check_data(data: DataOptions) -> None:
    """Raise a UserError for a value that is out of range."""
    check_range("mask_probability", data.mask_probability, 0.01, 0.99)
    for name in ("max_valid_blocks", "vocab_size", "block_size", "tokenizer_sample_bytes"):
        check_range(name, getattr(data, name), 1)
    if not 0 < data.valid_fraction < 1:
        raise UserError(
            f"--valid_fraction: {data.valid_fraction:g} is out of range; give a share between 0 and 1, such as 0.01"
        )


def check_best_metric(name: str | None) -> None:
    """Raise a UserError for a figure that no evaluation gives (`--metric_for_best_model`)."""
    one_token = EvalPrediction(np.ones((1, len(STATISTICS))), np.zeros((1, 1), np.int64))
    names = ["loss", *masked_lm_metrics(one_token, np.ones(1, np.int64))]
    if name is not None and name.removeprefix("eval_") not in names:
        raise unknown_value("--metric_for_best_model", name, names)
