"""The seams in transformers and DeepSpeed: they are there, Adan stands in them, in any import order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.integrations.huggingface import adan_options
from nlp_adan.training.environment import share_cpu_cores

PROJECT = Path(__file__).resolve().parents[2]


def arguments(*words: str, folder: Path) -> TrainingArguments:
    return HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(folder), "--use_cpu", *words], look_for_args_file=False
    )[0]


def test_optim_adan_and_its_options(tmp_path: Path) -> None:
    args = arguments(
        "--optim", "adan", "--optim_args", "beta1=0.9,beta3=0.999,no_prox=true", "--learning_rate", "3e-3",
        "--adam_epsilon", "1e-7", "--adam_beta1", "0.5", folder=tmp_path,
    )  # fmt: skip
    assert args.optim == OptimizerNames("adan") == "adan"
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args)
    assert optimizer_class is Adan
    assert options == {"lr": 3e-3, "eps": 1e-7, "betas": (0.9, 0.92, 0.999), "no_prox": True}


def test_other_optimizers_are_passed_on(tmp_path: Path) -> None:
    optimizer_class, _ = Trainer.get_optimizer_cls_and_kwargs(arguments("--optim", "adamw_torch", folder=tmp_path))
    assert optimizer_class is torch.optim.AdamW


def test_decay_reaches_the_groups(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 3)
    args = arguments("--optim", "adan", "--weight_decay", "0.02", folder=tmp_path)
    optimizer = Trainer(model=model, args=args).create_optimizer()
    assert isinstance(optimizer, Adan)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.02}


@pytest.mark.parametrize("text", [None, "", "beta2=0.5", " beta1 = 0.1 , beta2 = 0.2 "])
def test_optim_args_are_optional(text: str | None) -> None:
    betas = adan_options(text)["betas"]
    assert betas == {None: (0.98, 0.92, 0.99), "": (0.98, 0.92, 0.99), "beta2=0.5": (0.98, 0.5, 0.99)}.get(
        text, (0.1, 0.2, 0.99)
    )


def test_an_unknown_optim_arg_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="beta1, beta2, beta3, no_prox"):
        adan_options("momentum=0.9")


@pytest.mark.parametrize("first", ["nlp_adan", "transformers, deepspeed"])
def test_the_import_order_does_not_matter(first: str) -> None:
    program = f"""
import {first}
import nlp_adan, transformers, deepspeed, torch
from transformers.training_args import OptimizerNames
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
assert OptimizerNames("adan") in list(OptimizerNames) and OptimizerNames.ADAN.name == "ADAN"
assert transformers.Trainer.get_optimizer_cls_and_kwargs.knows_adan
assert type(torch.optim.Adan([torch.ones(1)], lr=0.1)) is nlp_adan.Adan and torch.optim.Adan is torch.optim.adan
assert ZERO_SUPPORTED_OPTIMIZERS.count(nlp_adan.Adan) == 1
import deepspeed.ops
assert torch.cuda.is_available() or not deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"]
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_foreign_adan_in_torch_is_named() -> None:
    program = "import torch; torch.optim.Adan = torch.optim.SGD; import nlp_adan, deepspeed"
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert run.returncode == 1
    assert "torch.optim.Adan is torch.optim.sgd.SGD already" in run.stderr


def test_an_unmodified_script_runs_with_adan(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from transformers import HfArgumentParser, TrainingArguments
args, = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
print(__name__, sys.argv[0], args.optim.value)
""")
    words = [sys.executable, "-m", "nlp_adan", str(script), "--output_dir", str(tmp_path), "--optim", "adan"]
    run = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert run.stdout.split() == ["__main__", str(script), "adan"], run.stderr
    missing = subprocess.run([*words[:3], "no.py"], cwd=PROJECT, capture_output=True, text=True)
    assert missing.returncode == 2 and "'no.py' does not exist" in missing.stderr


def test_cores_are_shared_by_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("nlp_adan.training.environment.num_cpu_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NLP_ADAN_NUM_THREADS", raising=False)
    try:
        for num_ranks, num_threads in (("2", 4), ("16", 1), ("", 8)):
            monkeypatch.setenv("LOCAL_WORLD_SIZE", num_ranks)
            share_cpu_cores()
            assert torch.get_num_threads() == num_threads
        monkeypatch.delenv("NLP_ADAN_NUM_THREADS")
        monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's own
        share_cpu_cores()
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)
