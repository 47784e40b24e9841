"""The two sides of `mlm_throughput.py`: Hugging Face's masked-LM training as run_mlm.py has it, and ours.

Both train the same architecture on the same blocks in the same order with Adan, each in its own Trainer. Only model,
collator, data set and Trainer differ.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from bert.masking import MaskingCollator
from bert.model import build_model
from bert.samples import TrainingBlocks
from bert.tokenizer import train_tokenizer
from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.training.budget import RunClock
from nlp_adan.training.control import RunControl
from nlp_adan.training.meter import Meter
from nlp_adan.training.order import IntArray
from nlp_adan.training.pretraining import PretrainingEngine, PretrainingOptions

MASK_PROBABILITY = 0.15
HEAD_SIZE = 64
ORDER_SEED = 0
PHASES = ("data", "forward", "backward", "optimizer", "rest")
# The first steps of a segment make the optimizer's states and warm caches up.
WARM_UP_STEPS = 2
TRAINING: dict[str, Any] = {
    "optim": "adan",
    "optim_args": "beta1=0.9,beta2=0.9,beta3=0.999",
    "learning_rate": 2e-3,
    "weight_decay": 0.02,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


@dataclass(frozen=True)
class Shape:
    """Of the model and its batches."""

    layers: int
    hidden: int
    vocabulary: int
    batch: int
    length: int
    dropout: float

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.batch * self.length

    def config(self) -> BertConfig:
        """The feed-forward layers are four times as wide, a head has 64 channels."""
        return BertConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=max(1, self.hidden // HEAD_SIZE),
            intermediate_size=4 * self.hidden,
            max_position_embeddings=self.length,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
        )


@dataclass(frozen=True)
class Data:
    """Blocks as each side reads them, and their tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    grouped: Dataset  # in the order of training
    blocks: npt.NDArray[np.uint16]  # (num_blocks, length); the order of training is `TrainingBlocks`'


class ArrayBlocks:
    """Blocks in memory."""

    def __init__(self, blocks: npt.NDArray[np.uint16]) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def read(self, indices: IntArray) -> npt.NDArray[np.uint16]:
        """(n, block_size) for (n,) numbers."""
        return self.blocks[indices]


def load_data(documents_file: Path, max_bytes: int, shape: Shape) -> Data:
    """Tokenize documents and cut them into blocks as run_mlm.py does.

    Args:
        documents_file: JSON lines with a "text" each, of which about `max_bytes` are read.
    """
    texts, size = [], 0
    with documents_file.open(encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            size += len(line)
            if size >= max_bytes:
                break
    tokenizer = train_tokenizer(texts, shape.vocabulary, "wordpiece")
    encoded = tokenizer(texts, return_special_tokens_mask=True, verbose=False)
    columns = {name: list(chain(*rows)) for name, rows in encoded.items()}
    num_blocks = len(columns["input_ids"]) // shape.length
    if num_blocks < shape.batch:
        raise UserError(
            f"--max_bytes: {max_bytes} bytes of text give {num_blocks} blocks, fewer than a batch; read more"
        )
    grouped = {
        name: [column[start * shape.length : (start + 1) * shape.length] for start in range(num_blocks)]
        for name, column in columns.items()
    }
    blocks = np.array(grouped["input_ids"], dtype=np.uint16)
    _, order = TrainingBlocks(ArrayBlocks(blocks), ORDER_SEED).order.at(np.arange(num_blocks))
    return Data(tokenizer, Dataset.from_dict(grouped).select(order).flatten_indices(), blocks)


class Stopwatch(TrainerCallback):
    """Seconds of each phase of each step, and the losses of the log lines."""

    def __init__(self, bar: Any = None) -> None:
        self.steps: list[dict[str, float]] = []
        self.cpu_seconds: list[float] = []
        self.losses: list[float] = []
        self._bar = bar
        self._begin_step()

    def _begin_step(self) -> None:
        self._phases = dict.fromkeys(PHASES, 0.0)
        self._begin, self._cpu_begin = time.perf_counter(), time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside, less what a phase inside it counts."""
        begin, others = time.perf_counter(), sum(self._phases.values())
        yield
        inside = sum(self._phases.values()) - others
        self._phases[name] += time.perf_counter() - begin - inside

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begin_step()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._optimizer_begin = time.perf_counter()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._phases["optimizer"] += time.perf_counter() - self._optimizer_begin

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        seconds = time.perf_counter() - self._begin
        self._phases["rest"] = seconds - sum(self._phases.values())
        self.steps.append(self._phases)
        self.cpu_seconds.append(time.process_time() - self._cpu_begin)
        if self._bar is not None:
            self._bar.update()
        self._begin_step()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


class Timed:
    """Mixed into a Trainer: tells `stopwatch` where a step's time goes."""

    stopwatch: Stopwatch

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The data's share."""
        with self.stopwatch.phase("data"):
            return super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass."""
        with self.stopwatch.phase("forward"):
            return super().compute_loss(*args, **kwargs)  # type: ignore[misc]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The backward pass, and all that is around it and forward."""
        with self.stopwatch.phase("backward"):
            return super().training_step(*args, **kwargs)  # type: ignore[misc]


class TimedTrainer(Timed, Trainer):
    """Hugging Face's."""


class TimedEngine(Timed, PretrainingEngine):
    """Ours."""


def hugging_face_model(shape: Shape, seed: int = 0) -> BertForMaskedLM:
    """Fresh weights."""
    set_seed(seed)
    return BertForMaskedLM(shape.config())


def our_model(shape: Shape, seed: int = 0) -> nn.Module:
    """The same weights as `hugging_face_model`."""
    model = build_model(shape.config())
    model.load_state_dict(hugging_face_model(shape, seed).state_dict())
    return model


def hugging_face_trainer(model: nn.Module, data: Data, shape: Shape, options: dict[str, Any]) -> TimedTrainer:
    """As run_mlm.py sets it up."""
    trainer = TimedTrainer(
        model=model,
        args=TrainingArguments(
            per_device_train_batch_size=shape.batch, train_sampling_strategy="sequential", **TRAINING, **options
        ),
        train_dataset=data.grouped,
        data_collator=DataCollatorForLanguageModeling(tokenizer=data.tokenizer, mlm_probability=MASK_PROBABILITY),
    )
    trainer.remove_callback(PrinterCallback)  # there is a bar
    return trainer


def our_trainer(model: nn.Module, data: Data, shape: Shape, options: dict[str, Any]) -> TimedEngine:
    """As `run_pretrain.py bert` sets it up."""
    return TimedEngine(
        model=model,
        args=PretrainingOptions(per_device_train_batch_size=shape.batch, **TRAINING, **options),
        train_dataset=TrainingBlocks(ArrayBlocks(data.blocks), ORDER_SEED),
        data_collator=MaskingCollator(
            mask_token_id=data.tokenizer.mask_token_id,
            special_token_ids=data.tokenizer.all_special_ids,
            vocab_size=shape.vocabulary,
            mask_probability=MASK_PROBABILITY,
            seed=options["seed"],
        ),
        meter=Meter(shape.tokens, flops_per_step=None, peak_flops=None),
        control=RunControl(RunClock(), None),
    )


SIDES = {"hugging_face": (hugging_face_model, hugging_face_trainer), "ours": (our_model, our_trainer)}


def train(
    side: str,
    model: nn.Module,
    data: Data,
    shape: Shape,
    *,
    steps: int,
    seed: int,
    folder: Path,
    log: bool,
    threads: int,
) -> Stopwatch:
    """Some steps of one side from the model's weights on, with a fresh optimizer; seed: of masks and dropout."""
    options = {"output_dir": str(folder), "max_steps": steps, "seed": seed, "warmup_steps": max(1, steps // 10)}
    options |= {"logging_strategy": "steps", "logging_steps": 1} if log else {"logging_strategy": "no"}
    trainer: Any = SIDES[side][1](model, data, shape, options)
    with progress(total=steps, description=f"{side}, seed {seed}", unit="step", leave=False) as bar:
        trainer.stopwatch = Stopwatch(bar)
        trainer.add_callback(trainer.stopwatch)
        torch.set_num_threads(threads)
        trainer.train()
    return trainer.stopwatch
