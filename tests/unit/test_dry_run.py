"""`run_pretrain.py bert ... --dry_run`: the plan of a command line, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bert.data_options import CorpusOptions
from bert.dry_run import PlanOptions, plan_of_run
from bert.model_options import ModelOptions
from bert.plan import GIB, Plan
from nlp_adan.errors import UserError
from nlp_adan.training.engine import EngineOptions


def plan(
    tmp_path: Path, details: dict[str, Any], blocks: int | None = None, deepspeed: str | None = None, **changes: Any
) -> Plan:
    """The plan of a narrow RoBERTa; `changes` are options of the engine."""
    engine: dict[str, Any] = {"per_device_train_batch_size": 8, "max_steps": 100, "report_to": "none", **changes}
    options: Any = SimpleNamespace(
        data=SimpleNamespace(**vars(CorpusOptions(vocab_size=1000, block_size=64)), mask_probability=0.15),
        model=ModelOptions(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128),
        budget=SimpleNamespace(max_hours=changes.pop("max_hours", None)),
        engine=EngineOptions(output_dir=str(tmp_path / "run"), **engine),
    )
    options.engine.deepspeed = deepspeed  # set late: the engine would start its process group
    return plan_of_run(options, PlanOptions(dry_run=True, **details), blocks)


def test_every_option_reaches_the_plan(tmp_path: Path) -> None:
    details = {"plan_ranks": 4, "plan_device": "NVIDIA L4", "plan_memory_gib": 22.0, "flops_per_second": 5e13}
    found = plan(
        tmp_path, details, blocks=5000, global_batch_size=48, per_device_train_batch_size=6, optim="adamw_torch",
        optim_args=None, activation_checkpointing=True, deepspeed="ds_configs/zero2_offload.json",
    )  # fmt: skip
    assert (found.devices.world_size, found.devices.name, found.devices.memory_bytes) == (4, "NVIDIA L4", 22 * GIB)
    assert found.flops_per_second == 5e13 and found.rate_source == "as given"
    assert (found.global_batch_size, found.micro_batch_size, found.num_steps) == (48, 6, 100)
    assert found.workload.activation_checkpointing and found.workload.optim == "adamw_torch"
    assert found.workload.num_train_blocks == 5000 and found.workload.deepspeed == "zero2_offload"
    assert found.state_bytes["none"].device_bytes == found.num_parameters * (8 + 8 + 4)
    assert not (tmp_path / "run").exists()


def test_the_rest_follows_from_this_start(tmp_path: Path) -> None:
    found = plan(tmp_path, {}, blocks=800, max_steps=-1, num_train_epochs=2.0, gradient_accumulation_steps=5)
    assert found.devices.world_size == 1 and found.devices.flops_per_second is None
    assert found.global_batch_size == 40 and found.num_steps == 40
    assert found.workload.deepspeed is None and found.workload.optim == "adan"


def test_details_of_a_plan_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--plan_ranks is of the plan: add `--dry_run`"):
        PlanOptions(plan_ranks=2)
    for details, named in (({"plan_ranks": 0}, "plan_ranks"), ({"flops_per_second": -1.0}, "flops_per_second"),
                           ({"plan_memory_gib": 0.0}, "plan_memory_gib")):  # fmt: skip
        with pytest.raises(UserError, match=f"--{named}: .* out of range"):
            PlanOptions(dry_run=True, **details)
    with pytest.raises(UserError, match="choose a multiple of 7"):
        plan(tmp_path, {"plan_ranks": 7}, global_batch_size=48)
