"""The plan of a run: its memory against what torch keeps, its hours and batches against arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, ModernBertConfig, PretrainedConfig, RobertaConfig

from bert.costs import ASSUMED_MFU, masked_lm_costs
from bert.flops import forward_flops_per_sequence
from bert.masking import IGNORED_LABEL
from bert.memory import activation_bytes
from bert.model import build_model
from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.integrations.huggingface import adan_options
from nlp_adan.pretraining.memory import optimizer_state_bytes, state_memory
from nlp_adan.pretraining.plan import GIB, Devices, Plan, Workload, format_plan, make_plan
from nlp_adan.training.engine import EngineOptions

PROJECT = Path(__file__).resolve().parents[2]
BASE = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
BASE_COSTS = masked_lm_costs(BASE, 512, 0.15, bf16=True)
A100 = Devices(world_size=8, name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB)
PAPER = Workload(512, micro_batch_size=32, global_batch_size=256, max_steps=1_000_000, bf16=True)


def roberta(num_layers: int) -> PretrainedConfig:
    return RobertaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=160, num_hidden_layers=num_layers, num_attention_heads=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def modernbert(num_layers: int) -> PretrainedConfig:
    return ModernBertConfig(
        vocab_size=97, hidden_size=64, intermediate_size=160, num_hidden_layers=num_layers, num_attention_heads=4,
        layer_types=["full_attention"] * num_layers, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
        sep_token_id=2,
    )  # fmt: skip


def kept_bytes(config: PretrainedConfig, seq: int, bf16: bool) -> int:
    """What autograd keeps for the backward pass of two sequences, parameters aside."""
    model = build_model(config).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}
    alive = []  # a freed tensor's address may be another's later

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(5, 90, (2, seq), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, 3:6] = ids[:, 3:6]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(input_ids=ids, labels=labels)
    return sum(sizes.values())


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("make", [roberta, modernbert])
def test_activations_are_what_autograd_keeps(make: Callable[[int], PretrainedConfig], bf16: bool) -> None:
    """A layer's, by differences over layers and lengths, which leave the casts of weights out. The estimate lacks the
    statistics of normalisation and softmax, 1.5 % here."""
    kept = {(layers, seq): kept_bytes(make(layers), seq, bf16) for layers in (1, 2) for seq in (32, 64)}
    per_token = (kept[2, 64] - kept[1, 64] - kept[2, 32] + kept[1, 32]) / (2 * 32)
    estimate = {layers: activation_bytes(make(layers), 32, 0.15, bf16) for layers in (1, 2)}
    assert (estimate[2] - estimate[1]) / 32 == pytest.approx(per_token, rel=0.025)
    checkpointed = activation_bytes(make(2), 32, 0.15, bf16, activation_checkpointing=True)
    assert checkpointed == estimate[1] + 32 * 2 * 4 * 64


def test_dropout_and_the_head_take_memory() -> None:
    assert activation_bytes(BertConfig(), 128, 0.3) - activation_bytes(
        BertConfig(hidden_dropout_prob=0.0), 128, 0.3
    ) == (12 * 128 * 2 * 768)
    more_masked = activation_bytes(BASE, 512, 0.25, bf16=True) - activation_bytes(BASE, 512, 0.15, bf16=True)
    assert more_masked == pytest.approx(0.1 * 512 * 50_265 * (2 + 4 + 4 + 4))


@pytest.mark.parametrize(
    ("optim", "optim_args"), [("adan", None), ("adan", "state_dtype=bfloat16"), ("adamw_torch", None), ("sgd", None)]
)
def test_states_are_what_the_optimizer_makes(optim: str, optim_args: str | None) -> None:
    parameter = nn.Parameter(torch.randn(1000))
    classes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adan": lambda parameters: Adan(parameters, lr=1e-3, **adan_options(optim_args)),
        "adamw_torch": torch.optim.AdamW, "sgd": torch.optim.SGD,
    }  # fmt: skip
    optimizer = classes[optim]([parameter])
    for _ in range(2):
        parameter.grad = torch.randn(1000)
        optimizer.step()
    tensors = [value for value in optimizer.state[parameter].values() if torch.is_tensor(value) and value.numel() > 1]
    assert sum(tensor.nbytes for tensor in tensors) == 1000 * (optimizer_state_bytes(optim, optim_args) or 0)
    assert optimizer_state_bytes("adafactor", None) is None


def test_shares_are_those_of_the_ds_configs_readme() -> None:
    """Its table of bf16 bytes per parameter: Adan, AdamW, Adan with bfloat16 states on 1, 8 and 64 ranks."""
    text = (PROJECT / "ds_configs" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| stage (\d) \|(.*)\|$", text, flags=re.MULTILINE)
    assert len(rows) == 3
    for stage, cells in rows:
        for states, cell in zip((16, 8, 10), cells.split("|"), strict=True):
            for world_size, printed in zip((1, 8, 64), cell.split("/"), strict=True):
                found = state_memory(1000, states, world_size, bf16=True)[f"zero{stage}"].device_bytes / 1000
                assert found == pytest.approx(float(printed), abs=0.0501 if float(printed) >= 1 else 0.00501)


@pytest.mark.parametrize(("world_size", "expected"), [
    (1, {"none": 24, "zero1": 24, "zero2": 24, "zero3": 24, "zero2_offload": 8, "zero3_offload": 0}),
    (4, {"none": 28, "zero1": 12, "zero2": 9, "zero3": 6, "zero2_offload": 5, "zero3_offload": 0}),
])  # fmt: skip
def test_shares_in_float32(world_size: int, expected: dict[str, float]) -> None:
    found = state_memory(1000, 16, world_size)
    assert {name: state.device_bytes / 1000 for name, state in found.items()} == expected
    assert found["zero2_offload"].host_bytes == 1000 * 20 / world_size
    assert found["zero3_offload"].host_bytes == 1000 * 24 / world_size


def test_the_papers_run() -> None:
    plan = make_plan(BASE_COSTS, PAPER, A100)
    layers, embeddings = 12 * (12 * 768**2 + 13 * 768), (50_265 + 514 + 1 + 2) * 768
    assert plan.num_parameters == layers + embeddings + 768**2 + 3 * 768 + 50_265  # and the head
    assert (plan.global_batch_size, plan.micro_batch_size, plan.tokens_per_step) == (256, 32, 131_072)
    work = 1_000_000 * 256 * 3 * forward_flops_per_sequence(BASE, 512, 0.15, sparse_last_layer=True)
    assert plan.hours == pytest.approx(work / (8 * 312e12 * ASSUMED_MFU) / 3600)
    assert plan.recommended == "none"
    text = format_plan(plan)
    for part in (
        "124.7 M parameters",
        "131 G tokens",
        "20.7 h (without evaluation and saving)",
        "assumed, not measured",
        "fit without DeepSpeed",
    ):
        assert part in text


def plan_of(memory_gib: float | None, **changes: Any) -> Plan:
    large = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    values: dict[str, Any] = {
        "micro_batch_size": 16,
        "global_batch_size": 4096,
        "max_steps": 10,
        "bf16": True,
        **changes,
    }
    devices = Devices(8, "NVIDIA A10", None if memory_gib is None else memory_gib * GIB)
    return make_plan(masked_lm_costs(large, 128, 0.15, bool(values["bf16"])), Workload(128, **values), devices)


def test_the_least_sharded_that_fits_is_recommended() -> None:
    """16 sequences take 2.1 GiB; the parts of the model 9.4 GiB without DeepSpeed, 2.0 under ZeRO-1, 1.5 under 2."""
    found = {gib: plan_of(gib).recommended for gib in (24, 12, 5.0, 4.4, 2.7, 2.0)}
    assert found == {24: "none", 12: "zero1", 5.0: "zero2", 4.4: "zero3", 2.7: "zero3_offload", 2.0: None}
    assert "`--deepspeed ds_configs/zero2.json`" in format_plan(plan_of(5.0))
    assert "give `--per_device_train_batch_size 1 " in format_plan(plan_of(1.2, deepspeed="zero3"))
    assert "zero3.json (chosen)" in format_plan(plan_of(1.2, deepspeed="zero3"))
    assert "not one sequence fits" in format_plan(plan_of(0.1))
    assert "--plan_memory_gib" in format_plan(plan_of(None))
    assert "not known here" in format_plan(plan_of(24, optim="adafactor"))


def test_length_in_steps_hours_or_epochs() -> None:
    by_hours = plan_of(24, max_steps=None, max_hours=2.0)
    assert by_hours.hours == 2.0 and by_hours.num_steps is not None
    needed = by_hours.num_steps * by_hours.flops_per_step / (8 * 125e12 * ASSUMED_MFU) / 3600
    assert needed == pytest.approx(2.0, rel=1e-2)
    by_epochs = plan_of(24, max_steps=None, num_train_epochs=3.0, num_train_sequences=10_000)
    assert by_epochs.num_steps == 8  # 30,000 / 4,096, rounded up
    assert "3.28 epochs of 10,000 blocks" in format_plan(by_epochs)
    assert "not known before the number of blocks is" in format_plan(plan_of(24, max_steps=None, num_train_epochs=3.0))
    assert "not known before the FLOP/s are" in format_plan(plan_of(24, max_steps=None, max_hours=2.0, bf16=False))


def test_no_rate_is_made_up() -> None:
    float32 = plan_of(24, bf16=False)
    assert float32.hours is None and "no rate is assumed for float32" in format_plan(float32)
    unknown = make_plan(BASE_COSTS, PAPER, Devices(8, "Some CPU"))
    assert unknown.hours is None and "no peak FLOP/s known of Some CPU: give --flops_per_second" in format_plan(unknown)
    given = make_plan(BASE_COSTS, PAPER, Devices(8, "Some CPU", None, 1e12))
    assert given.hours == pytest.approx(1e6 * given.flops_per_step / 8e12 / 3600)


@pytest.mark.parametrize(("global_batch", "largest"), [(96, 32), (96, 40), (7, 32), (50, 20)])
def test_batches_are_split_as_the_engine_splits_them(global_batch: int, largest: int, tmp_path: Path) -> None:
    engine = EngineOptions(
        output_dir=str(tmp_path), global_batch_size=global_batch, per_device_train_batch_size=largest, report_to="none"
    )
    plan = plan_of(24, global_batch_size=8 * global_batch, micro_batch_size=largest)
    assert plan.micro_batch_size == engine.per_device_train_batch_size
    assert f"x {engine.gradient_accumulation_steps}; x 128" in format_plan(plan)


def test_ranks_that_cannot_share_the_batch() -> None:
    with pytest.raises(UserError, match=r"100 sequences cannot be shared equally by 8 ranks; choose a multiple of 8"):
        plan_of(24, global_batch_size=100)
    assert plan_of(24, global_batch_size=None, micro_batch_size=4, accumulation_steps=3).global_batch_size == 96
