"""`--optim_args` of `--optim adan`: every option arrives in the optimizer, every mistake is told with its remedy."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.integrations.huggingface import OPTIM_ARGS, adan_options

# Of each option a text and what it must be in the optimizer: never the default.
ARRIVES: dict[str, tuple[str, str, Any]] = {
    "beta1": ("0.9", "betas", (0.9, 0.92, 0.99)),
    "beta2": ("0.9", "betas", (0.98, 0.9, 0.99)),
    "beta3": ("0.999", "betas", (0.98, 0.92, 0.999)),
    "no_prox": ("true", "no_prox", True),
    "state_dtype": ("bfloat16", "state_dtype", torch.bfloat16),
    "keep_low_bits": ("False", "keep_low_bits", False),
    "restart_interval": ("100", "restart_interval", 100),
    "fused": ("false", "fused", False),
    "foreach": ("true", "foreach", True),
}


def optimizer_of(folder: Path, **options: Any) -> Adan:
    args = TrainingArguments(str(folder), use_cpu=True, optim="adan", report_to="none", **options)
    optimizer = Trainer(model=torch.nn.Linear(2, 2), args=args).create_optimizer()
    assert isinstance(optimizer, Adan)
    return optimizer


@pytest.mark.parametrize("name", OPTIM_ARGS)
def test_an_option_arrives_in_the_optimizer(name: str, tmp_path: Path) -> None:
    text, key, expected = ARRIVES[name]
    default = Adan([torch.zeros(1)]).defaults[key]
    found = optimizer_of(tmp_path, optim_args=f"{name}={text}").param_groups[0][key]
    assert found == expected != default


def test_the_guide_names_every_option() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "huggingface.md").read_text(encoding="utf-8")
    table = guide.partition("| name | default |")[2]
    assert all(name in table for name in OPTIM_ARGS)


def test_the_trainers_own_options_arrive(tmp_path: Path) -> None:
    groups = optimizer_of(tmp_path, learning_rate=3e-3, adam_epsilon=1e-7, weight_decay=0.02).param_groups
    assert {(group["lr"], group["eps"]) for group in groups} == {(3e-3, 1e-7)}
    assert {group["weight_decay"] for group in groups} == {0.02, 0.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("betta1=0.9", "'betta1=0.9' is not an option of adan .did you mean 'beta1'"),
        ("lr=0.1", "known are beta1, beta2, beta3, no_prox, state_dtype, keep_low_bits, restart_interval, fused, fore"),
        ("lr=0.1", "lr, eps, weight_decay and clipping are --learning_rate, --adam_epsilon, --weight_decay and --max_"),
        ("beta1", "write `beta1=VALUE`"),
        ("beta1=", "beta1 must be a number, got ''"),
        ("beta3=1", r"beta3 must be in \[0, 1\), got 1.0"),
        ("beta1=nan", r"beta1 must be in \[0, 1\), got nan"),
        ("no_prox=1", "no_prox must be true or false, got '1'"),
        ("state_dtype=float16", "state_dtype must be float32 or bfloat16, got 'float16'"),
        ("keep_low_bits=no", "keep_low_bits must be true or false"),
        ("restart_interval=1.5", "restart_interval must be a whole number, got '1.5'"),
        ("restart_interval=-1", "restart_interval must be a number of steps, 0 for no restarts, got -1"),
        ("fused=true,foreach=true", "foreach=True and fused=True exclude each other"),
    ],
)
def test_a_mistake_names_the_remedy(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--optim_args: .*{message}"):
        adan_options(text)


def test_betas_meant_for_adam_are_told_to_be_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with caplog.at_level(logging.WARNING, "nlp_adan"):
        optimizer_of(tmp_path, adam_epsilon=1e-7)
        assert not caplog.messages
        optimizer = optimizer_of(tmp_path, adam_beta2=0.95, optim_args="beta1=0.9")
        (message,) = caplog.messages
        assert "--adam_beta2 0.95: not used by --optim adan, whose betas are (0.9, 0.92, 0.99)" in message
        assert "adam_beta1" not in message and "--optim_args" in message
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.92, 0.99)
        monkeypatch.setenv("RANK", "1")  # the other ranks leave it to rank 0
        optimizer_of(tmp_path, adam_beta2=0.95)
        assert len(caplog.messages) == 1


def test_defaults_of_a_scripts_own_arguments_are_nobodys_wish(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @dataclasses.dataclass
    class Arguments(TrainingArguments):
        adam_beta2: float = 0.95

    args = Arguments(str(tmp_path), use_cpu=True, optim="adan", report_to="none")
    with caplog.at_level(logging.WARNING, "nlp_adan"):
        Trainer(model=torch.nn.Linear(2, 2), args=args).create_optimizer()
    assert not caplog.messages
