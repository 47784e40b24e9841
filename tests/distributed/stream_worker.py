"""Trains tiny language models on the same streams, split over ranks and micro-batches in several ways.

`[launcher] python -m tests.distributed.stream_worker FOLDER CASE ...`, where a case is FAMILY:CONFIG:MICRO:ACCUMULATION
(FAMILY: xl, xl_adaptive or lstm; CONFIG: the name of a file in ds_configs/, or `plain`). Rank 0 writes FOLDER/CASE.pt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, set_seed

from nlp_adan.errors import ranks_leave_at_once
from nlp_adan.training.budget import RunClock
from nlp_adan.training.control import RunControl
from nlp_adan.training.meter import Meter
from nlp_adan.training.recurrent import RecurrentEngine
from nlp_adan.training.schedules import ScheduleOptions
from nlp_adan.training.stream_evaluation import StreamEvaluation
from tests.distributed.split_worker import Lines, main, whole_parameters
from transformer_xl.configuration import TransformerXLConfig
from transformer_xl.lstm_configuration import AWDLSTMConfig
from transformer_xl.model_options import build_model, segments_before
from transformer_xl.options import StreamEngineOptions
from transformer_xl.stream import StreamSegments

NUM_STEPS = 20
NUM_STREAMS, LENGTH, VOCAB_SIZE = 8, 8, 60
NUM_TOKENS = 700  # 87 a stream, 11 steps a pass: the memory begins anew within the run


def model(family: str) -> PreTrainedModel:
    """A tiny model without dropout."""
    if family == "lstm":
        dropouts = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_dropout")
        config: Any = AWDLSTMConfig(
            vocab_size=VOCAB_SIZE, embedding_size=16, hidden_size=24, num_layers=2, alpha=2.0, beta=1.0,
            **dict.fromkeys(dropouts, 0.0),
        )  # fmt: skip
    else:
        config = TransformerXLConfig(
            vocab_size=VOCAB_SIZE, d_model=16, n_layer=2, n_head=2, d_inner=24, tgt_len=LENGTH, mem_len=12,
            cutoffs=[20, 40] if family == "xl_adaptive" else [], div_val=2 if family == "xl_adaptive" else 1,
            dropout=0.0, dropatt=0.0,
        )  # fmt: skip
    return build_model(config)


def text() -> np.ndarray:
    """Tokens of which the next depends on the two before, so that a memory helps."""
    generator = np.random.default_rng(0)
    tokens = list(generator.integers(0, VOCAB_SIZE, 2))
    for _ in range(NUM_TOKENS - 2):
        tokens.append((tokens[-1] * 3 + tokens[-2] + int(generator.integers(0, 3))) % VOCAB_SIZE)
    return np.array(tokens, np.uint8)


def run(family: str, config: str, micro: int, accumulation: int, folder: Path) -> dict[str, Any]:
    """Train one case; what this rank found."""
    options: Any = StreamEngineOptions(
        output_dir=str(folder / "trainer"),
        deepspeed=f"ds_configs/{config}.json" if config != "plain" else None,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=NUM_STEPS,
        learning_rate=1e-3,
        weight_decay=0.02,
        max_grad_norm=0.25,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    set_seed(7)
    tokens = text()
    built = model(family)
    log = Lines()
    trainer = RecurrentEngine(
        model=built,
        args=options,
        train_dataset=StreamSegments(tokens, NUM_STREAMS, LENGTH, random_seed=3 if family == "lstm" else None),
        evaluation=StreamEvaluation(tokens[:200], LENGTH, 2, segments_before(built.config, LENGTH)),
        schedule=ScheduleOptions(),
        nominal_length=LENGTH if family == "lstm" else None,
        meter=Meter(tokens_per_step=NUM_STREAMS * LENGTH, flops_per_step=None, peak_flops=None),
        control=RunControl(RunClock(), None),
        callbacks=[log],
    )
    trainer.train()
    evaluated = trainer.evaluate()
    lines = [line for line in log.lines if "loss" in line]
    return {
        "loss": [line["loss"] for line in lines],
        "grad_norm": [float(line["grad_norm"]) for line in lines],
        "batch_hash": [line["batch_hash"] for line in lines],
        "eval_loss": evaluated["eval_loss"],
        "parameters": whole_parameters(trainer, config),
    }


if __name__ == "__main__":
    with ranks_leave_at_once():
        main(run)
