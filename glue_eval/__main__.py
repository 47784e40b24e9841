"""`python -m glue_eval --model DIR --data DIR --tasks all --optim adan --seeds N --output_dir DIR`."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from glue_eval.finetune import WEIGHT_FILES, check_model, load_tokenizer
from glue_eval.report import write_glue_report
from glue_eval.sample_tasks import sample_tasks_folder
from glue_eval.sweep import Plan, check_data, run_plans
from glue_eval.tasks import TASKS, Task, parse_task_names
from nlp_adan.errors import UserError, exit_on_user_error, nearest
from nlp_adan.storage import sha256_file
from nlp_adan.training.engine import EngineOptions, quiet_libraries
from nlp_adan.training.recipe import (
    CommandParser,
    check_range,
    find_recipe,
    parse_with_recipe,
    read_recipe,
    recipe_names,
    resolved,
    word_value,
)
from nlp_adan.training.run_folder import RunFolder

RECIPES = Path(__file__).parent / "recipes"
SMALL_HIDDEN_SIZE = 256  # models up to this width take the recipes named small-*


@dataclasses.dataclass
class GlueOptions:
    """What is fine-tuned on what."""

    model: str | None = dataclasses.field(default=None, metadata={"help": "A pretrained model's folder or hub name."})
    data: str = dataclasses.field(
        default="sample", metadata={"help": "The GLUE folder (CoLA/train.tsv, ...), or `sample`: the generated tasks."}
    )
    tasks: str = dataclasses.field(default="all", metadata={"help": "`all`, or names with commas between: CoLA,RTE."})
    seeds: int = dataclasses.field(default=1, metadata={"help": "Runs per task, with seeds 1, 2, ..."})
    recipe: str | None = dataclasses.field(
        default=None,
        metadata={"help": "Hyperparameters, a name or a .yaml file; default: by --optim and the model's width."},
    )
    max_length: int | None = dataclasses.field(
        default=None,
        metadata={"help": "Tokens of an example at most; default: the task's."},
    )
    check: bool = dataclasses.field(
        default=False, metadata={"help": "Only look at the tasks and read their files; takes no model, writes nothing."}
    )


def command_parser() -> CommandParser:
    """The parser of `python -m glue_eval`."""
    return CommandParser(
        (GlueOptions, EngineOptions),
        prog="python -m glue_eval",
        description=f"Fine-tune a model on GLUE tasks and report. Recipes: {', '.join(recipe_names(RECIPES))}.",
    )


def main(words: Sequence[str]) -> None:
    """Check everything that can be checked, then run all tasks with all seeds and write the report."""
    quiet_libraries()
    parser = command_parser()
    glue, engine = parser.parse(words)
    if glue.check:
        check(glue, engine)
        return
    if glue.model is None:
        raise UserError("--model: name the folder of a pretrained model, such as runs/tiny")
    check_range("seeds", glue.seeds, 1)
    if glue.max_length is not None:
        check_range("max_length", glue.max_length, 4)
    if word_value("--seed", words) is not None:
        raise UserError("--seed: runs have the seeds 1, 2, ...; say with --seeds how many")
    if engine.resume not in ("no", "auto"):
        raise UserError(f"--resume: {engine.resume!r}; a GLUE report is gone on with by `--resume auto`")
    tasks = parse_task_names(glue.tasks)
    check_model(glue.model)
    tokenizer = load_tokenizer(glue.model)
    recipe = find_recipe(word_value("--recipe", words) or _default_recipe(glue.model, words), RECIPES)
    plans = make_plans(parser, recipe, words, tasks, glue.seeds, Path(engine.output_dir))
    run = RunFolder(engine.output_dir, last_file="report.json")
    settings = {plan.task.name: _settings(plan.options()) for plan in plans if plan.seed == 1}  # the same for all seeds
    options = {
        **{name: value for name, value in resolved(glue).items() if name != "check"},
        "recipe": recipe.name,
        "model_sha256": _weights_sha256(glue.model),
        "data_sha256": None if glue.data == "sample" else _data_sha256(Path(glue.data), tasks),
        "settings": settings,
    }
    run.checkpoint_to_resume(options, engine.resume)
    if run.finished:
        if engine.process_index == 0:
            print(f"{run.path} holds this report, finished: nothing to do")
        return
    # Every rank has looked at the folder before any of them leaves this block, and rank 0 writes into it.
    with engine.main_process_first(desc="sample tasks"):
        data = _data_folder(glue.data)
        check_data(data, tasks)
    if engine.process_index == 0:
        run.claim(options)
        optimizer = settings[tasks[0].name].get("optim", EngineOptions.optim)
        print(f"{len(plans)} runs on {data}, recipe {recipe.name}, optimizer {optimizer}", flush=True)
    results = list(run_plans(plans, glue.model, data, tokenizer, glue.max_length, speak=engine.process_index == 0))
    if engine.process_index == 0:
        write_glue_report(
            run.path,
            results,
            model=glue.model,
            data=str(data),
            is_sample=glue.data == "sample",
            recipe=recipe.name,
        )


def check(glue: GlueOptions, engine: EngineOptions) -> None:
    """Read all files of the tasks, generating the sample ones, and say that they are there."""
    tasks = parse_task_names(glue.tasks)
    with engine.main_process_first(desc="sample tasks"):
        data = _data_folder(glue.data)
        check_data(data, tasks)
    if engine.process_index == 0:
        print(f"{', '.join(task.name for task in tasks)}: training and development files in {data}", flush=True)


def _data_folder(data: str) -> Path:
    return sample_tasks_folder() if data == "sample" else Path(data)


def make_plans(
    parser: CommandParser, recipe: Path, words: Sequence[str], tasks: list[Task], num_seeds: int, folder: Path
) -> list[Plan]:
    """A plan for each task and seed. Every plan's options are parsed once here, so that mistakes are told at once."""
    common, own = _read_glue_recipe(recipe)

    def options(task: Task, seed: int, run_folder: Path) -> EngineOptions:
        merged = {**common, "save_strategy": "no", "logging_strategy": "epoch", **(own.get(task.name) or {})}
        last = ["--output_dir", str(run_folder), "--seed", str(seed)]
        return parse_with_recipe(parser, merged, recipe, [*words, *last])[1]

    plans = []
    for task in tasks:
        for seed in range(1, num_seeds + 1):
            run_folder = folder / task.name / f"seed-{seed}"
            plans.append(Plan(task, seed, run_folder, functools.partial(options, task, seed, run_folder)))
        plans[-1].options()
    return plans


def _read_glue_recipe(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for all tasks, and those for single ones by the task's name."""
    values = read_recipe(path)
    if unknown := set(values) - {"default", "tasks"}:
        raise UserError(f"{path}: unknown key {min(unknown)!r}; a GLUE recipe has `default` and `tasks`")
    common, own = values.get("default") or {}, values.get("tasks") or {}
    for name, options in {"default": common, "tasks": own, **(own if isinstance(own, dict) else {})}.items():
        if not isinstance(options or {}, dict):
            raise UserError(f"{path}: {name!r} takes `option: value` pairs, found {type(options).__name__}")
    for name in own:
        if name not in TASKS:
            raise UserError(f"{path}: unknown task {name!r}{nearest(name, TASKS)}")
    return common, own


def _settings(options: EngineOptions) -> dict[str, Any]:
    """A run's options where they differ from the defaults, without those of the single run."""
    defaults = resolved(EngineOptions(output_dir=options.output_dir, seed=options.seed))
    return {name: value for name, value in resolved(options).items() if value != defaults[name] and name != "resume"}


def _data_sha256(folder: Path, tasks: list[Task]) -> dict[str, str]:
    """The hash of each file that the runs read: other data under the same name is another run."""
    names = [Path(task.name) / split.file for task in tasks for split in task.splits if split.label_column]
    return {str(name): sha256_file(folder / name) for name in names if (folder / name).is_file()}


def _default_recipe(model: str, words: Sequence[str]) -> str:
    optimizer = word_value("--optim", words) or "adan"
    kind = "adan" if optimizer == "adan" else "adamw"
    config = transformers.AutoConfig.from_pretrained(model)
    return f"small-{kind}" if getattr(config, "hidden_size", 0) <= SMALL_HIDDEN_SIZE else kind


def _weights_sha256(model: str) -> str | None:
    """The hash of a local model's weights: another model under the same name is another run."""
    for name in WEIGHT_FILES:
        path = Path(model) / name
        if path.is_file():
            return sha256_file(path)
    return None


if __name__ == "__main__":
    with exit_on_user_error():
        main(sys.argv[1:])
