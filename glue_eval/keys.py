"""What a run's result depends on, as a key: weights, tokenizer, data, settings as they act, and the code that computes.

Two runs with equal keys and seeds compute the same; a result is kept for as long as its key is that of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from glue_eval.classifier import MNLI_STARTED, usable_length
from glue_eval.data import split_paths
from glue_eval.diagnostics import labelled_file
from glue_eval.options import TaskSettings
from glue_eval.tasks import TASKS, Task
from nlp_adan.runs.code import code_sha256, versions
from nlp_adan.storage import sha256_file, sha256_json
from nlp_adan.training.recipe import resolved
from nlp_adan.training.settings import BATCH, WATCHING

FORMAT = 1  # of what is hashed
SHOWN_DIGITS = 8  # of a key, in a run's folder's name
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = frozenset({
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
})  # fmt: skip
COMPUTES = "glue_eval.finetune"  # what a run executes


def weights_sha256(model: Path) -> str:
    """The hash of a model folder's weights and configuration."""
    files = sorted({path for pattern in WEIGHTS for path in model.glob(pattern)})
    return sha256_json({path.name: sha256_file(path) for path in [*files, model / "config.json"]})


def tokenizer_sha256(model: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """The hash of a model folder's tokenizer files."""
    names = TOKENIZER_FILES | set(tokenizer.vocab_files_names.values())
    return sha256_json({name: sha256_file(model / name) for name in sorted(names) if (model / name).is_file()})


def data_sha256(folder: Path, settings: TaskSettings) -> dict[str, str]:
    """The hash of each file that a run on the task reads, by the name of its split."""
    task, glue = settings.task, settings.glue
    paths: dict[str, Path] = {
        name: path
        for name, path in split_paths(folder, task, glue.allow_partial).items()
        if glue.predict_test or not name.startswith("test")
    }
    if glue.predict_test and is_glues(task, "MNLI"):
        paths |= {f"AX {name}": path for name, path in split_paths(folder, TASKS["AX"]).items()}
        if (labels := labelled_file(folder)) is not None:
            paths["AX labels"] = labels
    return {name: sha256_file(path) for name, path in paths.items()}


def is_glues(task: Task, *names: str) -> bool:
    """Whether a task is one of these of GLUE's, and not one's own of such a name."""
    return task.name in names and task.definition is None


def acting_settings(settings: TaskSettings, tokenizer: PreTrainedTokenizerBase, config: Any) -> dict[str, Any]:
    """What the options make a run compute, as a JSON object."""
    glue, engine = settings.glue, settings.engine
    values = resolved(engine)
    options = {name: value for name, value in values.items() if name not in WATCHING | BATCH | {"seed"}}
    if isinstance(engine.deepspeed, str) and Path(engine.deepspeed).is_file():
        options["deepspeed"] = json.loads(Path(engine.deepspeed).read_text(encoding="utf-8"))
    names = ("max_train_examples", "checkpoint", "group_by_length", "dropout", "predict_test", "save_models")
    return {
        **options,
        **{name: getattr(glue, name) for name in names},
        "examples_per_step": engine.num_sequences_per_step,
        "max_length": usable_length(settings.task, tokenizer, glue.max_length, config),
    }


def run_key(
    settings: TaskSettings,
    data: Path,
    weights: str,
    tokenizer: str,
    mnli_weights: str | None,
    acting: Mapping[str, Any],
) -> str:
    """The key of a task's runs, hexadecimal; each seed has a run of its own.

    weights, tokenizer, mnli_weights: hashes; the last one acts on some tasks only. acting: `acting_settings`.
    """
    task = settings.task
    definition = None if task.definition is None else sha256_file(task.definition)
    return sha256_json([
        FORMAT, task.name, definition, weights, tokenizer, mnli_weights if is_glues(task, *MNLI_STARTED) else None,
        data_sha256(data, settings), acting, code_sha256(COMPUTES), versions(),
    ])  # fmt: skip
