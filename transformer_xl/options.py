"""The options of `run_pretrain.py transformer_xl` and `run_pretrain.py lstm`: a recipe's, then the command line's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nlp_adan.corpora.documents import check_outside
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan_options import PlanOptions
from nlp_adan.training.budget import BudgetOptions
from nlp_adan.training.library_checks import check_budget_schedule
from nlp_adan.training.option_checks import REFUSED_ON_STREAMS
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
    word_value,
)
from nlp_adan.training.schedules import ScheduleOptions

from .data_options import StreamOptions
from .model_options import Family, LSTMOptions, TransformerXLOptions
from .texts import reads_whole_folder

RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass
class DataOptions(StreamOptions):
    """The text and its vocabulary.

    given: the names of all options that stand on the command line itself.
    """

    recipe: str = dataclasses.field(default="tiny", metadata={"help": "A recipe's name, or a .yaml file's path."})
    max_valid_tokens: int | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Tokens of the validation part, from its beginning, that are evaluated during training, at most; "
            "the best checkpoint is chosen by these. The final figures are of the whole part. Default: the whole."
        },
    )
    given: frozenset[str] = dataclasses.field(default=frozenset(), init=False)


@dataclasses.dataclass
class StreamEngineOptions(PretrainingOptions):
    """The options of the pretraining engine; nothing is compiled unless asked for: memories change their shapes."""

    compiles_by_default = False
    refused = REFUSED_ON_STREAMS


class Options(NamedTuple):
    """All options of a run."""

    data: DataOptions
    model: Family
    schedule: ScheduleOptions
    budget: BudgetOptions
    plan: PlanOptions
    engine: StreamEngineOptions

    def resolved(self) -> dict[str, Any]:
        """Every option by name, as plain values."""
        return resolved(*self)


MODELS: dict[str, type[Family]] = {"transformer_xl": TransformerXLOptions, "lstm": LSTMOptions}


def family_recipes(family: str) -> Path:
    """The folder of a family's recipes."""
    return RECIPES / family


def command_parser(family: str) -> CommandParser:
    """The parser of `run_pretrain.py FAMILY`."""
    return CommandParser(
        (DataOptions, MODELS[family], ScheduleOptions, BudgetOptions, PlanOptions, StreamEngineOptions),
        prog=f"run_pretrain.py {family}",
        description="Train a language model with a memory from scratch. "
        f"Recipes: {', '.join(recipe_names(family_recipes(family)))}.",
    )


def parse_options(family: str, words: Sequence[str]) -> Options:
    """The options of a command line, the recipe's values under the user's.

    Raises: UserError for an unknown recipe or option, and for a value that is out of range.
    """
    parser = command_parser(family)
    path = find_recipe(word_value("--recipe", words) or DataOptions.recipe, family_recipes(family))
    with told_with_place(path, words):
        options = Options(*parse_with_recipe(parser, read_recipe(path), path, words))
        options.data.given = given_options(words)
        if options.data.max_valid_tokens is not None:
            check_range("max_valid_tokens", options.data.max_valid_tokens, 1)
        if reads_whole_folder(options.data.data):
            check_outside(options.data.data, Path(options.engine.output_dir))
        if options.budget.max_hours is not None:
            check_budget_schedule(options.engine)
            if options.schedule.warmup_on_top and 0 < options.engine.warmup_steps < 1:
                raise UserError(
                    f"--warmup_on_top: a warm-up that is a share of --max_hours (--warmup_steps "
                    f"{options.engine.warmup_steps:g}) comes before the schedule; give it in whole steps, or "
                    "`--warmup_on_top false`"
                )
        best = options.engine.metric_for_best_model
        if best is not None and best.removeprefix("eval_") != "loss":
            raise UserError(
                f"--metric_for_best_model: {best!r}: give `loss`, with which perplexity and bits per character fall"
            )
        if options.engine.data_seed is not None and not options.model.random_lengths:
            raise UserError(
                "--data_seed: it draws segments of random length, and here all are of --tgt_len; leave it out"
            )
        if family == "lstm" and options.engine.activation_checkpointing:
            raise UserError("--activation_checkpointing: an LSTM's kernel keeps its activations itself; leave it out")
    return options
