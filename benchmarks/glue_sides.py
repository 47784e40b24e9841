"""The two sides of `glue_finetune.py`: fine-tuning as run_glue.py's defaults have it, and ours.

Both train the same BERT classifier from the same weights on the same examples with the same optimizer and batch size,
each in its own Trainer, shuffled. Theirs pads every example to the maximum length and computes the last layer on all
of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

import nlp_adan  # noqa: F401, makes optim="adan" valid
from bert.tokenizer import train_tokenizer
from glue_eval.data import Split, read_split
from glue_eval.examples import Examples, Padding, TrainingExamples, tokenize
from glue_eval.finetune_engine import FinetuneEngine, FinetuneOptions
from glue_eval.tasks import TASKS, Task
from nlp_adan.modeling.first_token import compute_first_only
from nlp_adan.training.grouped_order import GroupedOrder

THEIRS, OURS = "run_glue", "ours"
HEAD_SIZE = 64
# The first steps of a segment make the optimizer's states and warm caches up.
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Shape:
    """Of the model and its steps."""

    layers: int
    hidden: int
    vocabulary: int
    batch: int
    optim: str


@dataclass(frozen=True)
class Work:
    """One task's training examples, as each side reads them."""

    task: Task
    max_length: int
    ours: Examples
    theirs: Dataset
    split: Split

    @property
    def num_examples(self) -> int:
        """Of the epoch."""
        return len(self.split)


def make_tokenizer(data: Path, tasks: list[Task], vocabulary: int) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer of the tasks' own training texts."""
    splits = [read_split(data, task, "train") for task in tasks]
    texts = [text for split in splits for pair in split.texts for text in pair if text is not None]
    return train_tokenizer(texts, vocabulary, "wordpiece")


def load_work(data: Path, task: Task, tokenizer: PreTrainedTokenizerBase, max_examples: int | None) -> Work:
    """Read and tokenize a task's training file for both sides."""
    split = read_split(data, task, "train", max_examples=max_examples)
    labels = np.asarray(split.labels, dtype=np.int64)
    first = [one for one, _ in split.texts]
    second = None if split.texts[0][1] is None else [str(two) for _, two in split.texts]
    padded = tokenizer(first, second, padding="max_length", max_length=task.max_length, truncation=True)
    examples = Examples(tokenize(split, tokenizer, task.max_length), labels, Padding.of(tokenizer), task.max_length)
    theirs = Dataset.from_dict({**padded, "label": labels.tolist()})
    return Work(task, task.max_length, examples, theirs, split)


def make_model(shape: Shape, dropout: float | None = None) -> BertForSequenceClassification:
    """The same weights at every call. The feed-forward layers are four times as wide, a head has 64 channels."""
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.hidden // HEAD_SIZE),
        intermediate_size=4 * shape.hidden,
        num_labels=2,
    )
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    set_seed(0)
    return BertForSequenceClassification(config)


def _options(shape: Shape, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": steps, "seed": seed, "optim": shape.optim, "learning_rate": 1e-4,
        "weight_decay": 0.01, "max_grad_norm": 1.0, "per_device_train_batch_size": shape.batch, "save_strategy": "no",
        "logging_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip


def their_trainer(model: nn.Module, work: Work, shape: Shape, folder: Path, steps: int, seed: int) -> Trainer:
    """As run_glue.py sets it up without options: padded to the maximum length, the model's own loss."""
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**_options(shape, folder, steps, seed)),
        train_dataset=work.theirs,
        data_collator=default_data_collator,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def our_trainer(
    model: PreTrainedModel, work: Work, shape: Shape, folder: Path, steps: int, seed: int
) -> FinetuneEngine:
    """As a run of `python -m glue_eval` sets it up, with `load_classifier`'s change to the model."""
    compute_first_only(model)
    order = GroupedOrder(work.ours.tokens.lengths, seed, shape.batch, steps_in_group=1)
    return FinetuneEngine(
        task=TASKS[work.task.name],
        model=model,
        args=FinetuneOptions(**_options(shape, folder, steps, seed)),
        train_dataset=TrainingExamples(work.ours, order),
        dev=[(work.split, work.ours)],
        steps=frozenset(),
        keeps_best=False,
    )


SIDES: dict[str, Any] = {THEIRS: their_trainer, OURS: our_trainer}


class StepClock(TrainerCallback):
    """Wall and processor seconds at which each step ended."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


@dataclass(frozen=True)
class Segment:
    """Some timed steps of one side: seconds of a step, by the wall and by the processors, and its tokens."""

    seconds: float
    cpu_seconds: float
    padding_share: float | None


def train(
    side: str, model: PreTrainedModel, work: Work, shape: Shape, *, steps: int, seed: int, folder: Path, threads: int
) -> Segment:
    """Time some steps of one side from the model's weights on; seed: of the order, so that segments differ."""
    trainer = SIDES[side](model, work, shape, folder, WARM_UP_STEPS + steps, seed)
    clock = StepClock()
    trainer.add_callback(clock)
    torch.set_num_threads(threads)
    trainer.train()
    padding = None
    if isinstance(trainer, FinetuneEngine):
        tokens, pads = trainer.token_count.over_ranks()
        padding = pads / (tokens + pads)
    first = WARM_UP_STEPS - 1
    return Segment((clock.wall[-1] - clock.wall[first]) / steps, (clock.cpu[-1] - clock.cpu[first]) / steps, padding)


def parity(work: Work, shape: Shape, folder: Path) -> dict[str, float]:
    """Loss, and the largest difference of a gradient, of one step on the same examples without dropout."""
    models = {side: make_model(shape, dropout=0.0) for side in SIDES}
    rows = list(range(shape.batch))
    by_length = np.argsort(work.ours.tokens.lengths[rows], kind="stable").tolist()
    engine = our_trainer(models[OURS], work, shape, folder, 1, 0)
    losses = {
        OURS: engine.compute_loss(
            models[OURS], work.ours.__getitems__(by_length), num_items_in_batch=torch.tensor(shape.batch)
        ),
        THEIRS: models[THEIRS](**default_data_collator([work.theirs[row] for row in rows])).loss,
    }
    gradients = {}
    for side, model in models.items():
        losses[side].backward()
        gradients[side] = torch.cat([value.grad.flatten() for value in model.parameters()])
    return {
        "loss_run_glue": losses[THEIRS].item(),
        "loss_ours": losses[OURS].item(),
        "largest_gradient": gradients[THEIRS].abs().max().item(),
        "largest_gradient_difference": (gradients[OURS] - gradients[THEIRS]).abs().max().item(),
    }
