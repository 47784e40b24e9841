"""The options of `python -m glue_eval`: recipe, the user's own file over it, and the command line over both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from glue_eval.classifier import MIN_LENGTH, MNLI_STARTED, load_config
from glue_eval.finetune import parse_options
from glue_eval.finetune_engine import FinetuneOptions
from glue_eval.layers import CALLS_OWN, Layer, told_with_place
from glue_eval.tasks import Task
from nlp_adan.errors import UserError
from nlp_adan.training.recipe import (
    CommandParser,
    check_is_file,
    check_range,
    find_recipe,
    layered_words,
    option_words,
    read_recipe,
    recipe_names,
    word_value,
)

RECIPES = Path(__file__).parent / "recipes"
MOST_SEEDS = 1000  # of a task: a plan of more is a slip
SMALL_HIDDEN_SIZE = 256  # models up to this width take the recipes named small-*
PROGRAM = "python -m glue_eval"


def _field(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass
class GlueOptions:
    """What is fine-tuned on what."""

    model: str | None = _field(None, "A pretrained model's folder or hub name.")
    data: str = _field(
        "sample", "The GLUE folder (CoLA/train.tsv, ...), `hub`, or `sample`: the generated tasks; one's own tasks "
        "have their own files."
    )  # fmt: skip
    tasks: str = _field("all", "`all`, or names and .yaml files of one's own tasks: CoLA,RTE,mine.yaml.")
    seeds: int = _field(1, "Runs per task, with seeds 1, 2, ...")
    jobs: int = _field(1, "Runs at a time: each on a GPU, or with its share of the cores.")
    recipe: str | None = _field(
        None, "Hyperparameters, a name or a .yaml file; default: by --optim and the model's width."
    )
    config: str | None = _field(
        None,
        "A .yaml file in a recipe's format (`default`, `tasks`); what it says takes the place of the recipe's; "
        "`null` takes the recipe's value away.",
    )
    max_length: int | None = _field(None, "Tokens of an example at most; default: the task's.")
    max_train_examples: int | None = _field(None, "Only the first so many training examples of each task.")
    allow_partial: bool = _field(False, "Read a part of a file (train.SAMPLE.tsv) where the whole one is missing.")
    checkpoint: Literal["last", "best"] = _field(
        "last", "Which checkpoint is reported: the last step's, or the one that scored best on dev, which flatters."
    )
    group_by_length: bool = _field(
        False, "Batches of examples of similar length, over some dozen steps: less padding, but other batches, which "
        "cost accuracy where there are few steps."
    )  # fmt: skip
    dropout: float | None = _field(None, "Dropout of the model while it is fine-tuned; default: its configuration's.")
    mnli_model: str | None = _field(
        None, "The folder of a model fine-tuned on MNLI, whose body RTE, MRPC and STS-B begin with."
    )
    predict_test: bool = _field(True, "Predict the test files that are there, which a submission needs.")
    save_models: bool = _field(False, "Keep each run's trained model, in its folder's `model`.")
    dry_run: bool = _field(False, "Print the plan and an estimate of its time; write nothing.")


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """How one task is fine-tuned, as it acts: our options, the engine's, and the latter's words."""

    task: Task
    glue: GlueOptions
    engine: FinetuneOptions
    words: tuple[str, ...]


def command_parser() -> CommandParser:
    """The parser of `python -m glue_eval` without a subcommand."""
    return CommandParser(
        (GlueOptions, FinetuneOptions),
        prog=PROGRAM,
        description=f"Fine-tune a model on GLUE tasks and report. Recipes: {', '.join(recipe_names(RECIPES))}.",
    )


def check_options(glue: GlueOptions, engine: FinetuneOptions, words: Sequence[str]) -> None:
    """Raise a UserError for what no run could do with."""
    if glue.model is None:
        raise UserError("--model: name the folder of a pretrained model, such as runs/tiny")
    check_range("seeds", glue.seeds, 1, MOST_SEEDS)
    for name, low in (("jobs", 1), ("max_length", MIN_LENGTH), ("max_train_examples", 1)):
        if getattr(glue, name) is not None:
            check_range(name, getattr(glue, name), low)
    if word_value("--seed", words) is not None:
        raise UserError("--seed: runs have the seeds 1, 2, ...; say with `--seeds` how many")
    if engine.resume not in ("no", "auto"):
        raise UserError(f"--resume: {engine.resume!r}: finished runs are kept anyway; leave it out")
    if engine.world_size > 1 and glue.jobs > 1:
        raise UserError(
            f"--jobs {glue.jobs}: here {engine.world_size} ranks do each run together, one after the other; leave it "
            f"out, or start with `python` instead of a launcher"
        )


def task_settings(parser: CommandParser, words: Sequence[str], tasks: Sequence[Task]) -> list[TaskSettings]:
    """The settings of each task. Every one is parsed here, so that mistakes are told before the first run.

    words: the command line, with `--model`, and `--output_dir`.
    """
    given = word_value("--config", words)
    if given is not None:
        check_is_file("config", given)
    recipe = Layer.read(recipe_path(words, given), parser, tasks)
    config = None if given is None else Layer.read(Path(given), parser, tasks)
    folder = Path(str(word_value("--output_dir", words)))
    found = []
    for task in tasks:
        with told_with_place([recipe] if config is None else [recipe, config], task, words):
            found.append(_settings(parser, words, task, recipe, config, folder))
    asked = found[0].glue.mnli_model
    if asked is not None and not any(task.name in MNLI_STARTED and task.definition is None for task in tasks):
        raise UserError(f"--mnli_model: only {', '.join(MNLI_STARTED)} begin with it; add one of them, or leave it out")
    return found


def _settings(
    parser: CommandParser, words: Sequence[str], task: Task, recipe: Layer, config: Layer | None, folder: Path
) -> TaskSettings:
    options = recipe.options(task)
    own = {} if config is None else config.options(task)
    unset = {name for name, value in own.items() if value is None}
    layers = [({name: value for name, value in options.items() if name not in unset}, recipe.path)]
    layered = layered_words(parser, layers if config is None else [*layers, (own, config.path)], words)
    glue = parser.parse(layered)[0]
    _check_acting(glue)
    engine_words = tuple(_engine_words(layered))
    engine = parse_options(engine_words, folder, seed=1)
    own_words = [word for each in option_words(own) for word in each]
    _check_batch([*own_words, *words], engine.num_sequences_per_step)
    return TaskSettings(task, glue, engine, engine_words)


def recipe_path(words: Sequence[str], config: str | None) -> Path:
    """The recipe that was asked for, or the one for the optimizer and the model's width."""
    asked = word_value("--recipe", words)
    if asked is not None:
        return find_recipe(asked, RECIPES)
    optimizer = word_value("--optim", words)
    if optimizer is None and config is not None:
        common = read_recipe(Path(config)).get("default")
        optimizer = common.get("optim") if isinstance(common, dict) else None
    kind = "adan" if optimizer in (None, "adan") else "adamw"
    width = getattr(load_config(str(word_value("--model", words))), "hidden_size", 0)
    return find_recipe(f"small-{kind}" if width <= SMALL_HIDDEN_SIZE else kind, RECIPES)


def _check_acting(glue: GlueOptions) -> None:
    """What a recipe may say too."""
    for name, low, high in (("max_length", MIN_LENGTH, None), ("max_train_examples", 1, None), ("dropout", 0, 1)):
        value = getattr(glue, name)
        if value is not None:
            check_range(name, value, low, *(() if high is None else (high,)))


def _check_batch(words: Sequence[str], examples_per_step: int) -> None:
    """A recipe's batch is that of all ranks: what a rank takes at a time does not make it larger."""
    asked = word_value("--per_device_train_batch_size", words)
    if asked is not None and int(asked) > examples_per_step:
        raise UserError(
            f"--per_device_train_batch_size {asked}: a step has {examples_per_step} examples over all ranks, by "
            f"--global_batch_size; say `--global_batch_size {asked}` for larger ones"
        )


def _engine_words(words: Sequence[str]) -> Iterator[str]:
    """Without our own options, and without those that each run has for itself."""
    ours = {entry.name for entry in dataclasses.fields(GlueOptions)} | CALLS_OWN | {"disable_tqdm"}
    keeps = True
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0][2:].replace("-", "_")
            keeps = name not in ours and name.removeprefix("no_") not in ours
        if keeps:
            yield word
