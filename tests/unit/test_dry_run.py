"""`run_pretrain.py bert ... --dry_run`: the plan of a command line, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import BertForMaskedLM

from bert.data_options import CorpusOptions
from bert.dry_run import plan_of_run
from bert.model_options import ModelOptions
from bert.options import DataOptions
from bert.prepare import prepare_corpus
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import GIB, Plan
from nlp_adan.pretraining.plan_options import PlanOptions
from nlp_adan.training.engine import EngineOptions
from tests.unit.test_model_card import make_model


def plan(
    tmp_path: Path,
    details: dict[str, Any],
    data: dict[str, Any] | None = None,
    deepspeed: str | None = None,
    model: dict[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    """The plan of a narrow RoBERTa; `data` and `model` are options of these, `changes` of the engine."""
    engine: dict[str, Any] = {"per_device_train_batch_size": 8, "max_steps": 100, "report_to": "none", **changes}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    options: Any = SimpleNamespace(
        data=DataOptions(**{"vocab_size": 1000, "block_size": 64, **(data or {})}),
        model=ModelOptions(**{**sizes, **(model or {})}),
        budget=SimpleNamespace(max_hours=None),
        engine=EngineOptions(output_dir=str(tmp_path / "run"), **engine),
    )
    options.engine.deepspeed = deepspeed  # set late: the engine would start its process group
    return plan_of_run(options, PlanOptions(dry_run=True, **details))


def test_every_option_reaches_the_plan(tmp_path: Path) -> None:
    details = {"plan_ranks": 4, "plan_device": "NVIDIA L4", "plan_memory_gib": 22.0, "flops_per_second": 5e13}
    found = plan(
        tmp_path, details, global_batch_size=48, per_device_train_batch_size=6, optim="adamw_torch",
        optim_args=None, activation_checkpointing=True, deepspeed="ds_configs/zero2_offload.json",
    )  # fmt: skip
    assert (found.devices.world_size, found.devices.name, found.devices.memory_bytes) == (4, "NVIDIA L4", 22 * GIB)
    assert found.flops_per_second == 5e13 and found.rate_source == "as given"
    assert (found.global_batch_size, found.micro_batch_size, found.num_steps) == (48, 6, 100)
    assert found.workload.activation_checkpointing and found.workload.optim == "adamw_torch"
    assert found.workload.num_train_sequences is None and found.workload.deepspeed == "zero2_offload"
    assert found.state_bytes["none"].device_bytes == found.num_parameters * (
        8 + 8 + 4 + 2
    )  # bf16, as an L4 would choose
    assert not (tmp_path / "run").exists()


def test_prepared_data_are_planned_with(tmp_path: Path) -> None:
    """Their tokenizer and their number of blocks; the rest follows from this start."""
    (tmp_path / "text.txt").write_text("".join(f"document {number} says little\n\n" for number in range(400)), "utf-8")
    corpus: dict[str, Any] = {"data": str(tmp_path / "text.txt"), "vocab_size": 270, "block_size": 16,
                              "valid_fraction": 0.5, "documents": "blank_line", "tokenizer_kind": "bpe"}  # fmt: skip
    prepared, tokenizer = prepare_corpus(CorpusOptions(**corpus), tmp_path / "prepared", num_workers=0)
    data = {"data": str(tmp_path / "prepared"), "block_size": 16, "vocab_size": 9999}
    found = plan(tmp_path, {}, data, max_steps=-1, num_train_epochs=2.0, gradient_accumulation_steps=5)
    assert found.workload.num_train_sequences == len(prepared.train)
    assert found.num_steps == math.ceil(2 * len(prepared.train) / 40)
    assert found.devices.world_size == 1 and found.devices.flops_per_second is None and found.global_batch_size == 40
    assert found.workload.deepspeed is None and found.workload.optim == "adan"
    wider = plan(tmp_path, {}, {"block_size": 16, "vocab_size": len(tokenizer) + 10})
    assert wider.num_parameters - found.num_parameters == 10 * (64 + 1)  # embedding and output bias
    with pytest.raises(UserError, match="--block_size 64"):
        plan(tmp_path, {}, {**data, "block_size": 64})


def test_a_named_model_is_planned_with(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    found = plan(tmp_path, {}, model={"model_name_or_path": str(tmp_path / "model")})
    assert found.num_parameters == BertForMaskedLM.from_pretrained(tmp_path / "model").num_parameters()


def test_details_of_a_plan_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--plan_ranks is of the plan: add `--dry_run`"):
        PlanOptions(plan_ranks=2)
    for details, named in (({"plan_ranks": 0}, "plan_ranks"), ({"flops_per_second": -1.0}, "flops_per_second"),
                           ({"plan_memory_gib": 0.0}, "plan_memory_gib")):  # fmt: skip
        with pytest.raises(UserError, match=f"--{named}: .* out of range"):
            PlanOptions(dry_run=True, **details)
    with pytest.raises(UserError, match="choose a multiple of 7"):
        plan(tmp_path, {"plan_ranks": 7}, global_batch_size=48)
