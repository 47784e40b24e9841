"""Fine-tuning a pretrained model on one task with one seed, and scoring it on the task's development files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from glue_eval.data import Split, read_split
from glue_eval.metrics import majority_baseline, score
from glue_eval.results import RunResult
from glue_eval.tasks import Task
from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.training.engine import Engine, EngineOptions, mean_over_items

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def check_model(folder: str) -> None:
    """Check that a folder holds a model with its tokenizer; a hub model's name is left for the hub to check.

    Raises:
        UserError: the folder, its configuration, its weights or its tokenizer is missing.
    """
    path = Path(folder)
    if not path.is_dir():
        if folder.count("/") == 1 and not folder.startswith((".", "/")) and not path.parent.is_dir():
            check_name(folder, "--model")  # organisation/name on the hub
            return
        raise UserError(f"--model: no folder {folder!r}; name the folder that a pretraining run filled")
    if not (path / "config.json").is_file() or not any((path / name).is_file() for name in WEIGHT_FILES):
        raise UserError(
            f"--model: {folder!r} holds no finished model (config.json and model.safetensors); "
            f"name the folder that a pretraining run filled to its end"
        )
    if not (path / "tokenizer_config.json").is_file():
        raise UserError(f"--model: {folder!r} holds no tokenizer (tokenizer_config.json); save the model's beside it")


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or of a hub model."""
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(f"--model: no tokenizer in {name_or_path!r} ({str(error).splitlines()[0]})") from error


def load_classifier(name_or_path: str, task: Task) -> PreTrainedModel:
    """The pretrained body under a fresh head: one output for each label, or one for a regression task."""
    num_labels = len(task.labels) if task.labels else 1
    try:
        model = AutoModelForSequenceClassification.from_pretrained(name_or_path, num_labels=num_labels)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"--model: {name_or_path!r} cannot be loaded ({str(error).splitlines()[0]})") from error
    model.config.problem_type = "single_label_classification" if task.labels else "regression"
    return model


def usable_length(task: Task, tokenizer: PreTrainedTokenizerBase, asked: int | None) -> int:
    """Tokens of an example at most: what was asked for, else the task's, as far as the model reaches."""
    return min(asked or task.max_length, int(tokenizer.model_max_length))


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """A split, tokenized. `num_cut` counts the examples that were longer than `max_length`."""

    def __init__(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        first = [a for a, _ in split.texts]
        second = [b for _, b in split.texts] if split.texts and split.texts[0][1] is not None else None
        whole = tokenizer(first, second, truncation=False, verbose=False)["input_ids"]
        self.num_cut = sum(len(ids) > max_length for ids in whole)
        self.encoded = tokenizer(first, second, truncation=True, max_length=max_length)
        self.labels = split.labels

    def __len__(self) -> int:
        return len(self.encoded["input_ids"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: values[index] for name, values in self.encoded.items()}
        return item if self.labels is None else {**item, "labels": self.labels[index]}


def example_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy, or squared error for scores, summed over the examples and divided by those of the whole step.

    Args:
        outputs: `outputs["logits"]`: (batch, num_labels), or (batch, 1) for scores.
        labels: (batch,) int64 classes or float scores.
    """
    logits = outputs["logits"].float()
    if labels.is_floating_point():
        total = nn.functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
    else:
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return mean_over_items(total, len(labels), num_items_in_batch)


def finetune(
    model: str, task: Task, data: Path, options: EngineOptions, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> RunResult:
    """Fine-tune on the training file, score on the development files.

    Args:
        model: folder of a pretrained model, or a hub model's name.
        data: the GLUE folder.
        options: hyperparameters and seed; `options.output_dir` is the run's own folder.
        max_length: tokens of an example at most.
    """
    began = time.monotonic()
    train_split = read_split(data, task, "train")
    dev_splits = [read_split(data, task, split.name) for split in task.dev_splits]
    train = Examples(train_split, tokenizer, max_length)
    trainer = Engine(
        model_init=lambda: load_classifier(model, task),
        args=options,
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_loss_func=example_loss,
        bar_description=f"{task.name} seed {options.seed}",
    )
    training = trainer.train()
    scores: dict[str, float] = {}
    baseline: dict[str, float] = {}
    collapsed = False
    for split in dev_splits:
        predicted = trainer.predict(Examples(split, tokenizer, max_length)).predictions
        predictions = predicted.squeeze(-1) if task.is_regression else predicted.argmax(-1)
        found = score(task, predictions, _labels(split))
        scores |= task.name_scores(split.name, found.values)
        baseline |= task.name_scores(split.name, majority_baseline(task, _labels(split)))
        collapsed |= found.collapsed
    return RunResult(
        task=task.name,
        seed=options.seed,
        scores=scores,
        baseline=baseline,
        collapsed=collapsed,
        num_train=len(train),
        num_dev=sum(len(split) for split in dev_splits),
        steps=training.global_step,
        learning_rate=options.learning_rate,
        optimizer=str(getattr(options.optim, "value", options.optim)),
        batch_size=options.num_sequences_per_step,
        epochs=float(options.num_train_epochs) if options.max_steps <= 0 else None,
        max_length=max_length,
        train_loss=float(training.training_loss),
        timing={"seconds": round(time.monotonic() - began, 2)},
        num_cut=train.num_cut,
        settings={"weight_decay": options.weight_decay,
                  "optim_args": options.optim_args, "lr_scheduler_type": str(options.lr_scheduler_type.value)},
    )  # fmt: skip


def _labels(split: Split) -> np.ndarray:
    labels: Sequence[float] | None = split.labels
    assert labels is not None  # development files are labelled
    return np.asarray(labels)
