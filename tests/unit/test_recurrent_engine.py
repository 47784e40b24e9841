"""What the engine makes of a model with a memory: the loss it logs, the rates it sets, the end of a budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback, set_seed

from nlp_adan.training.budget import RunClock
from nlp_adan.training.control import RunControl
from nlp_adan.training.meter import Meter
from nlp_adan.training.recurrent import RecurrentEngine
from nlp_adan.training.schedules import ScheduleOptions
from nlp_adan.training.stream_evaluation import StreamEvaluation
from transformer_xl import AWDLSTMConfig, TransformerXLConfig
from transformer_xl.options import StreamEngineOptions
from transformer_xl.stream import StreamSegments

LENGTH, NUM_STREAMS, VOCAB_SIZE = 8, 4, 30
DROPOUTS = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_dropout")
CONFIGS: dict[str, Any] = {
    "transformer_xl": lambda: TransformerXLConfig(
        vocab_size=VOCAB_SIZE, d_model=8, n_layer=1, n_head=1, d_inner=8, cutoffs=[], tgt_len=LENGTH, mem_len=LENGTH,
        dropout=0.0,
    ),
    "lstm": lambda: AWDLSTMConfig(
        vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=8, num_layers=1, **dict.fromkeys(DROPOUTS, 0.0)
    ),
}  # fmt: skip


class Rates(TrainerCallback):
    """The learning rate of the optimizer in each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.lines: list[dict[str, Any]] = []

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_log(self, *args: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        self.lines.append(dict(logs))


def engine(
    family: str,
    folder: Path,
    schedule: ScheduleOptions | None = None,
    max_hours: float | None = None,
    random_seed: int | None = None,
    **options: Any,
) -> tuple[RecurrentEngine, Rates]:
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, 400).astype(np.uint8)
    given: Any = StreamEngineOptions(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, logging_steps=1, report_to=[],
        **{
            "per_device_train_batch_size": NUM_STREAMS, "learning_rate": 1e-3, "max_steps": 10, "save_strategy": "no",
            **options,
        },
    )  # fmt: skip
    set_seed(1)
    rates = Rates()
    trainer = RecurrentEngine(
        model=AutoModelForCausalLM.from_config(CONFIGS[family]()),
        args=given,
        train_dataset=StreamSegments(tokens, given.num_sequences_per_step, LENGTH, random_seed=random_seed),
        evaluation=StreamEvaluation(tokens[:100], LENGTH, 2, 1 if family == "transformer_xl" else None),
        schedule=schedule or ScheduleOptions(),
        nominal_length=None if random_seed is None else LENGTH,
        meter=Meter(tokens_per_step=1, flops_per_step=None, peak_flops=None),
        control=RunControl(RunClock(), max_hours),
        callbacks=[rates],
    )
    return trainer, rates


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_logged_loss_is_the_models_own(family: str, accumulation: int, tmp_path: Path) -> None:
    """Every label counts: the Trainer leaves out the first of each row where it takes a model for one that shifts."""
    trainer, log = engine(
        family, tmp_path, max_steps=1, per_device_train_batch_size=NUM_STREAMS // accumulation,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    batch = trainer.train_dataset[np.arange(NUM_STREAMS)]
    expected = trainer.model.eval()(**batch)
    assert math.isclose(float(expected.loss.detach()), float(expected.losses.detach().mean()), rel_tol=1e-6)
    if family == "lstm":  # in training it has the penalties on its activations, too
        expected = trainer.model.train()(**batch)
    trainer.train()
    assert log.lines[0]["loss"] == pytest.approx(float(expected.loss.detach()), rel=1e-5)


def test_the_warm_up_on_top_and_the_drops_reach_the_optimizer(tmp_path: Path) -> None:
    schedule = ScheduleOptions(warmup_on_top=True, lr_drops=[0.5], lr_drop_factor=0.5)
    trainer, log = engine(
        "transformer_xl", tmp_path, schedule, warmup_steps=4, lr_scheduler_type="cosine", learning_rate=1.0
    )
    trainer.train()
    expected = [
        min(1.0, (step + 1) / 4) * 0.5 * (1 + math.cos(math.pi * step / 10)) * 0.5 ** (step >= 5) for step in range(10)
    ]
    assert log.rates == pytest.approx(expected)


def test_without_them_the_schedule_is_the_trainers(tmp_path: Path) -> None:
    trainer, log = engine("transformer_xl", tmp_path, warmup_steps=4, lr_scheduler_type="linear", learning_rate=1.0)
    trainer.train()
    assert log.rates == pytest.approx([0.0, 0.25, 0.5, 0.75, *(1 - step / 6 for step in range(6))])


@pytest.mark.parametrize("kind", ["constant", "reduce_lr_on_plateau"])
def test_the_rate_follows_the_segments_length(kind: str, tmp_path: Path) -> None:
    """And does not add up from step to step, whatever the schedule takes the rate from."""
    watching: Any = {"eval_strategy": "steps", "eval_steps": 1} if kind != "constant" else {}
    trainer, log = engine(
        "lstm", tmp_path, random_seed=0, lr_scheduler_type=kind, learning_rate=1e-3, max_steps=12, **watching
    )
    trainer.train()
    lengths = [trainer.train_dataset.segment_length(step) for step in range(12)]
    assert len(set(lengths)) > 3
    assert log.rates == pytest.approx([1e-3 * length / LENGTH for length in lengths])


def test_a_budgets_last_weights_are_evaluated(tmp_path: Path) -> None:
    """They could not be chosen as the best otherwise, and are likely to be: the rate ends there."""
    trainer, log = engine(
        "transformer_xl", tmp_path, max_hours=2 / 3600, max_steps=-1, eval_strategy="steps", eval_steps=100_000,
        save_strategy="steps", save_steps=100_000, load_best_model_at_end=True, metric_for_best_model="loss",
    )  # fmt: skip
    trainer.train()
    evaluated = [line for line in log.lines if "eval_loss" in line]
    assert len(evaluated) == 1 and trainer.state.best_global_step == trainer.state.global_step


def test_a_memory_matters(tmp_path: Path) -> None:
    """What the engine hands on is what the model gave: the second step's loss is that after the first segment."""
    trainer, log = engine("transformer_xl", tmp_path, max_steps=2, learning_rate=0.0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(10)
    first, second = (trainer.train_dataset[np.arange(NUM_STREAMS) + step * NUM_STREAMS] for step in (0, 1))
    with torch.no_grad():
        mems = trainer.model.eval()(**first).mems
        expected, without = (float(trainer.model(**second, mems=given).loss) for given in (mems, None))
    trainer.train()
    assert log.lines[1]["loss"] == pytest.approx(expected, rel=1e-5) != pytest.approx(without, rel=1e-5)
