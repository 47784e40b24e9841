"""The plan of a sweep: what it is about, checked before anything is written, and its runs with their keys and folders.

plan.json in the sweep's folder holds `protocol` (`glue_eval.protocol`) and `runs`: for each run of the last call its
task, seed, key and folder, which is `TASK/seed-SEED-KEY` with the key's first digits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glue_eval.check_command import data_folder
from glue_eval.classifier import (
    MNLI_STARTED,
    WEIGHT_FILES,
    check_length,
    check_mnli_model,
    check_model,
    check_vocabulary,
    load_classifier,
    load_config,
    load_tokenizer,
)
from glue_eval.data import read_split, task_folder
from glue_eval.data_checks import FileCheck, check_files
from glue_eval.finetune import FinetuneSpec, check_can_keep, finetune_run
from glue_eval.finetune_engine import MOST_EVALUATIONS, evaluation_steps
from glue_eval.keys import (
    SHOWN_DIGITS,
    acting_settings,
    is_glues,
    run_key,
    tokenizer_sha256,
    weights_sha256,
)
from glue_eval.options import RECIPES, TaskSettings
from glue_eval.output_folder import check_sweep_folder
from glue_eval.protocol import OWN_FILES, Protocol
from glue_eval.recorded import PLAN
from glue_eval.sample_tasks import is_sample_folder
from glue_eval.tasks import TASKS
from nlp_adan.errors import UserError
from nlp_adan.runs import Run
from nlp_adan.storage import write_json
from nlp_adan.training.positions import steps_of_epochs

SAMPLED_EXAMPLES = 200  # of a file, to see how long its texts are
CHARACTERS_PER_TOKEN = 4  # roughly, of English
SHOWN_ERRORS = 5
BACKWARD_WORK = 2  # passes forward that one backward costs


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much a run of a task has to do.

    num_predicted: examples predicted, those of the development files as often as they are. length: tokens of an
    example, roughly.
    """

    num_train: int
    num_predicted: int
    steps: int
    batch_size: int
    length: float

    @property
    def work(self) -> float:
        """Tokens passed forward through the model; a step of training counts for three."""
        return self.length * ((1 + BACKWARD_WORK) * self.steps * self.batch_size + self.num_predicted)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a call, the first seed of every task first, and what the report says of them all.

    model: the folder that the runs load. settings, specs, workloads: by task, in their order.
    """

    folder: Path
    protocol: Protocol
    settings: tuple[TaskSettings, ...]
    specs: tuple[FinetuneSpec, ...]
    workloads: tuple[Workload, ...]
    keys: tuple[str, ...]
    runs: tuple[Run, ...]

    def write(self) -> None:
        """Write plan.json."""
        rows = [
            {
                "task": run.arguments["task"].name,
                "seed": run.arguments["seed"],
                "key": run.arguments["key"],
                "folder": str(run.folder.relative_to(self.folder)),
            }
            for run in self.runs
        ]
        write_json(self.folder / PLAN, {"protocol": self.protocol.to_json(), "runs": rows})


def make_plan(
    settings: Sequence[TaskSettings], model: Path, recipe: Path, output: Path, environment: dict[str, Any]
) -> Plan:
    """Check data and folder, and plan. Writes nothing but sample or hub tasks into the cache.

    model: `local_model`. recipe: the file that was read. environment: for the protocol.

    Raises:
        UserError: something is not there or not usable.
    """
    glue = settings[0].glue
    check_sweep_folder(output)
    mnli_model = glue.mnli_model
    for each in settings:
        if each.glue.checkpoint == "best":
            check_can_keep(each.engine)
    tasks = [each.task for each in settings]
    data = data_folder(glue.data, tasks).absolute()
    checks = check_files_read(data, settings)
    tokenizer, config = load_tokenizer(str(model)), load_config(str(model))
    check_vocabulary(glue.model or "", tokenizer, config)
    for each in settings:
        check_length(glue.model or "", tokenizer, each.glue.max_length, config)
    weights, tokenizers = weights_sha256(model), tokenizer_sha256(model, tokenizer)
    mnli_weights = None if mnli_model is None else weights_sha256(check_mnli_model(mnli_model, tokenizer))
    specs, workloads, keys = [], [], []
    for each in settings:
        specs.append(_spec(each, model, data))
        workloads.append(_workload(each, data, checks))
        acting = acting_settings(each, tokenizer, config)
        keys.append(run_key(each, data, weights, tokenizers, mnli_weights, acting))
    protocol = _protocol(settings, recipe, data, weights, environment)
    runs = [
        Run(
            name=f"{each.task.name} seed {seed}",
            folder=output / each.task.name / f"seed-{seed}-{key[:SHOWN_DIGITS]}",
            function=finetune_run,
            arguments={"task": each.task, "seed": seed, "key": key, "words": list(each.words), "spec": spec},
            work=workload.work,
        )
        for seed in protocol.seeds
        for each, spec, workload, key in zip(settings, specs, workloads, keys, strict=True)
    ]
    return Plan(output, protocol, tuple(settings), tuple(specs), tuple(workloads), tuple(keys), tuple(runs))


def local_model(name: str) -> Path:
    """A model's folder; a hub model is loaded into the hub's cache, so that all runs have the same revision.

    Raises:
        UserError: there is no such model, or its weights or tokenizer are missing.
    """
    check_model(name)
    if Path(name).is_dir():
        return Path(name).absolute()
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns="*/*"))
        if not any((folder / weights).is_file() for weights in WEIGHT_FILES):
            folder = Path(snapshot_download(name, allow_patterns=[*patterns, "*.bin"], ignore_patterns="*/*"))
    except Exception as error:  # whatever the HTTP library in use raises
        told = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"--model: {name!r} could not be loaded from the hub ({type(error).__name__}: {told})"
        ) from error
    if not (folder / "tokenizer_config.json").is_file() or not (folder / "config.json").is_file():
        raise UserError(f"--model: {name!r} has no tokenizer_config.json or no config.json; load it into a folder, and "
                        "save its tokenizer beside it")  # fmt: skip
    return folder


def check_files_read(data: Path, settings: Sequence[TaskSettings]) -> list[FileCheck]:
    """Check every file that the runs will read, to its end, and print what is notable.

    Raises:
        UserError: a file is missing or wrong.
    """
    glue = settings[0].glue
    tasks = [each.task for each in settings]
    if glue.predict_test and any(is_glues(task, "MNLI") for task in tasks) and task_folder(data, TASKS["AX"]).is_dir():
        tasks.append(TASKS["AX"])
    checks = [
        check
        for check in check_files(data, tasks, glue.allow_partial)
        if glue.predict_test or not check.layout.name.startswith("test")
    ]
    errors = [str(problem) for check in checks for problem in check.problems if problem.is_error]
    if errors:
        more = f"\n{len(errors) - SHOWN_ERRORS} more: `python -m glue_eval check-data` tells all"
        raise UserError("\n".join(errors[:SHOWN_ERRORS]) + (more if len(errors) > SHOWN_ERRORS else ""))
    return checks


def check_loads(plan: Plan) -> None:
    """Load each kind of model that the runs begin with, to see that it can be.

    Raises:
        UserError: weights are damaged, or a model does not fit.
    """
    seen = set()
    for settings, spec in zip(plan.settings, plan.specs, strict=True):
        start = spec.mnli_model if is_glues(settings.task, *MNLI_STARTED) else None
        kind = (start, spec.dropout is None)
        if kind not in seen:
            seen.add(kind)
            load_classifier(spec.model, settings.task, spec.dropout, start)


def _spec(settings: TaskSettings, model: Path, data: Path) -> FinetuneSpec:
    glue = settings.glue
    return FinetuneSpec(
        model=str(model),
        data=data,
        max_length=glue.max_length,
        max_train_examples=glue.max_train_examples,
        allow_partial=glue.allow_partial,
        checkpoint=glue.checkpoint,
        group_by_length=glue.group_by_length,
        dropout=glue.dropout,
        mnli_model=glue.mnli_model,
        predict_test=glue.predict_test,
        save_model=glue.save_models,
    )


def _workload(settings: TaskSettings, data: Path, checks: Sequence[FileCheck]) -> Workload:
    task, glue, engine = settings.task, settings.glue, settings.engine
    rows = {check.layout.name: check.num_rows or 0 for check in checks if check.task == task}
    num_train = min(rows["train"], glue.max_train_examples or rows["train"])
    batch_size = engine.num_sequences_per_step
    steps = engine.max_steps
    if steps <= 0:
        steps = steps_of_epochs(num_train, engine.num_train_epochs, batch_size)
    num_evaluations = len(evaluation_steps(engine, num_train, MOST_EVALUATIONS))
    num_predicted = sum(count * num_evaluations for name, count in rows.items() if name.startswith("dev"))
    num_predicted += sum(count for name, count in rows.items() if name.startswith("test"))
    some = read_split(data, task, "train", allow_partial=glue.allow_partial, max_examples=SAMPLED_EXAMPLES)
    longest = glue.max_length or task.max_length
    lengths = [min(longest, 3 + sum(len(text or "") for text in pair) / CHARACTERS_PER_TOKEN) for pair in some.texts]
    return Workload(num_train, num_predicted, steps, batch_size, math.fsum(lengths) / len(lengths))


def _protocol(
    settings: Sequence[TaskSettings], recipe: Path, data: Path, weights: str, environment: dict[str, Any]
) -> Protocol:
    glue = settings[0].glue
    assert glue.model is not None

    def common(name: str) -> Any:
        """What all tasks have; None where they differ: the runs' own settings tell."""
        values = {getattr(each.glue, name) for each in settings}
        return values.pop() if len(values) == 1 else None

    has_glues = any(each.task.definition is None for each in settings)
    return Protocol(
        model=glue.model,
        data=glue.data if has_glues else OWN_FILES,
        tasks=tuple(each.task for each in settings),
        recipe=recipe.stem if recipe.parent == RECIPES else str(recipe),
        seeds=tuple(range(1, glue.seeds + 1)),
        config=glue.config,
        is_sample=has_glues and (glue.data == "sample" or is_sample_folder(data)),
        checkpoint=glue.checkpoint,
        group_by_length=glue.group_by_length,
        mnli_model=glue.mnli_model,
        dropout=common("dropout"),
        max_length=common("max_length"),
        max_train_examples=common("max_train_examples"),
        allow_partial=glue.allow_partial,
        model_sha256=weights,
        environment=environment,
    )
