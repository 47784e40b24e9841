"""Trains tiny models with the same global batches, split over ranks and micro-batches in several ways.

`[launcher] python -m tests.distributed.split_worker FOLDER CASE ...`, where a case is FAMILY:CONFIG:MICRO:ACCUMULATION
(CONFIG is the name of a file in ds_configs/, or `plain` for torch alone). Rank 0 writes FOLDER/CASE.pt: the logged
losses and gradient norms, and the parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    TrainerCallback,
    set_seed,
)  # fmt: skip

from bert.masking import MaskingCollator
from bert.model import build_model
from bert.samples import TrainingBlocks
from glue_eval.data import Split
from glue_eval.examples import Examples, Padding, Tokens, TrainingExamples
from glue_eval.finetune_engine import FinetuneEngine
from glue_eval.tasks import TASKS
from nlp_adan.errors import ranks_leave_at_once
from nlp_adan.training.budget import RunClock
from nlp_adan.training.control import RunControl
from nlp_adan.training.engine import Engine, EngineOptions, quiet_libraries
from nlp_adan.training.grouped_order import GroupedOrder
from nlp_adan.training.meter import Meter
from nlp_adan.training.pretraining import PretrainingEngine
from tests.rows import Rows

NUM_STEPS = 20  # two and a half epochs of 64 samples in global batches of 8
VOCAB_SIZE, SEQ_LENGTH = 60, 16
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def masked_lm(options: EngineOptions) -> Engine:
    """A RoBERTa on random blocks. Every micro-batch has another number of masked tokens."""
    blocks = np.random.default_rng(0).integers(5, VOCAB_SIZE, (64, SEQ_LENGTH)).astype(np.uint16)
    config = RobertaConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=SEQ_LENGTH + 2, **SIZES, **NO_DROPOUT)
    collator = MaskingCollator(
        mask_token_id=4, special_token_ids=range(5), vocab_size=VOCAB_SIZE, mask_probability=0.2, seed=3
    )
    return PretrainingEngine(
        model=build_model(config),
        args=options,
        train_dataset=TrainingBlocks(Rows(blocks), seed=5),
        data_collator=collator,
        meter=Meter(tokens_per_step=8 * SEQ_LENGTH, flops_per_step=None, peak_flops=None),
        control=RunControl(RunClock(), None),
    )


def classifier(options: EngineOptions) -> Engine:
    """A BERT classifier on random sentences of 3 to 16 tokens, as a GLUE run sets it up; 61 fill no whole steps."""
    generator = np.random.default_rng(1)

    def examples(number: int, with_labels: bool) -> tuple[Split, Examples]:
        lengths = generator.integers(3, SEQ_LENGTH + 1, number)
        ids = generator.integers(5, VOCAB_SIZE, lengths.sum()).astype(np.uint16)
        tokens = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]), None, num_cut=0)
        labels = generator.integers(0, 3, number)
        padding = Padding(token_id=0, type_id=0, on_left=False)
        split = Split(TASKS["MNLI"], "dev_matched", Path(), [], labels.tolist(), [])
        return split, Examples(tokens, labels if with_labels else None, padding, SEQ_LENGTH)

    _, train = examples(61, with_labels=True)
    order = GroupedOrder(train.tokens.lengths, 5, options.num_sequences_per_step, steps_in_group=4)
    config = BertConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=SEQ_LENGTH, num_labels=3, **SIZES, **NO_DROPOUT)
    return FinetuneEngine(
        task=TASKS["MNLI"],
        model=BertForSequenceClassification(config),
        args=options,
        train_dataset=TrainingExamples(train, order),
        dev=[examples(13, with_labels=False)],
        steps=frozenset(),
        keeps_best=False,
    )


class Lines(TrainerCallback):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def on_log(self, *args: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.lines.append(dict(logs))


def run(family: str, config: str, micro: int, accumulation: int, folder: Path) -> dict[str, Any]:
    """Train one case; what rank 0 found."""
    options = EngineOptions(
        output_dir=str(folder / "trainer"),
        deepspeed=f"ds_configs/{config}.json" if config != "plain" else None,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=NUM_STEPS,
        learning_rate=1e-3,
        weight_decay=0.02,
        max_grad_norm=0.5,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    set_seed(7)
    trainer = (masked_lm if family == "mlm" else classifier)(options)
    log = Lines()
    trainer.add_callback(log)
    trainer.train()
    lines = [line for line in log.lines if "loss" in line]
    return {
        "loss": [line["loss"] for line in lines],
        "grad_norm": [float(line["grad_norm"]) for line in lines],
        "batch_hash": [line.get("batch_hash") for line in lines],
        "parameters": whole_parameters(trainer, config),
        "tokens": trainer.token_count.over_ranks()[0] if isinstance(trainer, FinetuneEngine) else None,
        "logits": torch.from_numpy(trainer.logits_of(trainer.dev[0][1]))
        if isinstance(trainer, FinetuneEngine)
        else None,
        "optimizer": type(getattr(trainer.optimizer.optimizer, "optimizer", trainer.optimizer.optimizer)).__name__,
        "is_sharded": hasattr(trainer.optimizer.optimizer, "optimizer"),
    }


def whole_parameters(trainer: Engine, config: str) -> dict[str, torch.Tensor]:
    """The parameters by their names, gathered where ZeRO-3 has divided them; every rank has to call it."""
    parameters = {}
    for name, parameter in trainer.accelerator.unwrap_model(trainer.model_wrapped).named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=config.startswith("zero3")):
            parameters[name] = parameter.detach().clone()
    return parameters


def main(run: Callable[[str, str, int, int, Path], dict[str, Any]]) -> None:
    """Run every case of the command line, one after the other."""
    quiet_libraries()
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    folder, cases = Path(words[0]), words[1:]
    for case in cases:
        family, config, micro, accumulation = case.split(":")
        found = run(family, config, int(micro), int(accumulation), folder)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            torch.save(found, folder / f"{case}.pt")


if __name__ == "__main__":
    with ranks_leave_at_once():
        main(run)
