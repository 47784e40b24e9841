"""Which optimizers can be saved, how their parameters are named, and what DeepSpeed's engine counts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.fragments import Layout, fragments_of
from nlp_adan.training.checkpoint.optimizer_state import load_optimizer_state
from nlp_adan.training.checkpoint.zero_fragments import RELIED_UPON, layout_of_engine
from nlp_adan.training.deepspeed_checks import check_deepspeed_config
from tests.unit.optimizer_checkpoints import OPTIMIZERS, new, train, write


def test_names_are_the_models_own() -> None:
    """Compiled as a whole, and of it a layer by itself; torch.compile wraps so, and takes seconds to be imported."""

    class Compiled(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = Adan(model.parameters())
    model[0] = Compiled(model[0])
    assert fragments_of(Compiled(model), optimizer).groups == [["0.weight", "0.bias", "1.weight", "1.bias"]]


def engine(**more: Any) -> Any:
    counters = {"global_steps": 0, "global_samples": 0, "skipped_steps": 0, "micro_steps": 0}
    scaler = SimpleNamespace(dynamic=True, cur_scale=65536.0, cur_iter=0, last_overflow_iter=-1, scale_window=1000)
    optimizer = SimpleNamespace(loss_scaler=scaler, _hp_optimizer_states_linked=True)
    made = {"optimizer": optimizer, "gradient_accumulation_steps": lambda: 2, **counters, **more}
    return SimpleNamespace(**made)


@pytest.mark.parametrize(("accumulation", "micro_steps"), [(2, 14), (4, 28), (1, 7)])
def test_counters_and_loss_scale_of_deepspeed(tmp_path: Path, accumulation: int, micro_steps: int) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"])
    train(model, optimizer, range(1))
    before = engine(global_steps=7, global_samples=56, skipped_steps=2, micro_steps=14)
    vars(before.optimizer.loss_scaler).update(cur_scale=128.0, cur_iter=7, last_overflow_iter=3, scale_window=5)
    layout = fragments_of(model, optimizer)
    write([Layout(**{**vars(layout), "engine": before})], tmp_path)
    now = engine(gradient_accumulation_steps=lambda: accumulation)
    load_optimizer_state(tmp_path, Layout(**{**vars(layout), "engine": now}))
    assert (now.global_steps, now.global_samples, now.skipped_steps, now.micro_steps) == (7, 56, 2, micro_steps)
    scaler = now.optimizer.loss_scaler
    assert (scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter) == (128.0, 7, 3)
    assert scaler.scale_window == 1000, "configuration is this start's own"
    assert now.optimizer._hp_optimizer_states_linked is False


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"stage": 3, "offload_optimizer": {"device": "nvme"}}, 'offload_optimizer.device: "nvme".*"device": "cpu"'),
        ({"stage": 3, "offload_param": {"device": "nvme"}}, 'offload_param.device: "nvme".*"device": "cpu"'),
        ({"offload_optimizer": {"device": "cpu", "super_offload": True}}, "super_offload: true"),
        ({"offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "ratio: 0.5"),
        ({"stage": 2, "zenflow": {"topk_ratio": 0.1}}, "zenflow"),
        ({"stage": 3, "zero_hpz_partition_size": 8}, "zero_hpz_partition_size: 8"),
        ({"stage": 3, "zero_quantized_weights": True}, "zero_quantized_weights: true"),
        ({"stage": 3, "zero_quantized_gradients": True}, "zero_quantized_gradients: true"),
        ({"stage": 3, "mics_shard_size": 4}, "mics_shard_size: 4"),
    ],
)
def test_what_a_checkpoint_could_not_hold_is_refused_before_training(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"--deepspeed: zero.json: zero_optimization[.].*{words}"):
        check_deepspeed_config({"zero_optimization": config}, "zero.json")


@pytest.mark.parametrize("config", [{"tensor_parallel": {"autotp_size": 2}}, {"expert_parallel": {"enabled": True}}])
def test_parallelism_that_a_checkpoint_could_not_hold(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="would keep the optimizer's state where no checkpoint reaches it"):
        check_deepspeed_config(config, "zero.json")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "ds_configs").glob("zero*.json")), ids=lambda p: p.stem
)
def test_our_configurations_can_be_saved(path: Path) -> None:
    check_deepspeed_config(json.loads(path.read_text()), path.name)


class DeepSpeedEngine:
    """Of DeepSpeed's, what is relied upon."""

    global_steps = global_samples = skipped_steps = micro_steps = 0
    module = None

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def zero_optimization_stage(self) -> int:
        return 3

    def gradient_accumulation_steps(self) -> int:
        return 1


def wrapper(kind: str, base: Any, **attributes: Any) -> Any:
    """An optimizer of DeepSpeed's of that name."""
    made: Any = type(kind, (), {"__module__": "deepspeed.runtime", **attributes})()
    made.optimizer = base
    return made


def test_a_version_of_deepspeed_that_lacks_what_is_relied_upon() -> None:
    base = Adan(nn.Linear(2, 2).parameters())
    for kind, attributes in RELIED_UPON.items():
        for lacking in attributes:
            present: dict[str, Any] = {name: [] for name in attributes if name != lacking}
            with pytest.raises(UserError, match=rf"{kind} of DeepSpeed .* has no '{lacking}'.*requirements.lock"):
                layout_of_engine(DeepSpeedEngine(wrapper(kind, base, **present)), {})


def test_optimizers_of_deepspeed_that_are_not_known() -> None:
    base = Adan(nn.Linear(2, 2).parameters())
    with pytest.raises(
        UserError, match=r"what ZenFlowZeroOptimizer of DeepSpeedEngine .* holds cannot be saved; known"
    ):
        layout_of_engine(DeepSpeedEngine(wrapper("ZenFlowZeroOptimizer", base)), {})
    theirs = wrapper("OnebitAdam", None)
    with pytest.raises(UserError, match=r"DeepSpeed's own OnebitAdam cannot be saved; take torch's or ours"):
        layout_of_engine(DeepSpeedEngine(wrapper("DeepSpeedZeroOptimizer", theirs)), {})


def test_states_on_nvme() -> None:
    attributes: dict[str, Any] = {name: [] for name in RELIED_UPON["DeepSpeedZeroOptimizer_Stage3"]}
    base = Adan(nn.Linear(2, 2).parameters())
    made = wrapper("DeepSpeedZeroOptimizer_Stage3", base, **{**attributes, "swap_optimizer": True})
    with pytest.raises(UserError, match='states on NVMe cannot be saved; offload to "cpu"'):
        layout_of_engine(DeepSpeedEngine(made), {})


def test_what_accelerate_wraps() -> None:
    accelerate = pytest.importorskip("accelerate")
    model, optimizer = new(OPTIMIZERS["Adan"])
    try:
        prepared, wrapped = accelerate.Accelerator(cpu=True).prepare(model, optimizer)
        layout = fragments_of(prepared, wrapped)
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    assert layout.base is optimizer and wrapped is not optimizer and len(layout.fragments) == 6


def test_what_is_no_such_optimizer() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="DeepSpeedZeroOptimizer comes with DeepSpeed's engine, not with Linear"):
        fragments_of(model, wrapper("DeepSpeedZeroOptimizer", Adan(model.parameters())))

    class Sharded(nn.Parameter):
        pass

    model.weight = Sharded(torch.ones(2, 2))
    with pytest.raises(TypeError, match="weight is a Sharded"):
        fragments_of(model, Adan(model.parameters()))
