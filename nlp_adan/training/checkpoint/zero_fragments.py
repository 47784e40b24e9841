"""Where DeepSpeed keeps the parts of parameters that its ranks own: at stage 0 in bf16 or fp16, and under ZeRO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts, name_of, whole_parameters

# DeepSpeed's wrappers of an optimizer, by their exact class (a subclass may keep things elsewhere), and what of theirs
# is relied upon. DeepSpeed promises none of it: a missing one is told before training.
RELIED_UPON: dict[str, tuple[str, ...]] = {
    "DeepSpeedZeroOptimizer": ("bit16_groups", "single_partition_of_fp32_groups", "partition_gradients", "loss_scaler"),
    "BF16_Optimizer": ("bf16_groups", "fp32_groups_flat_partition"),
    "DeepSpeedZeroOptimizer_Stage3": (
        "fp16_groups", "fp32_partitioned_groups_flat", "grad_position", "get_param_id", "sub_group_to_group_id",
        "swap_optimizer", "params_in_nvme_and_cpu", "loss_scaler",
    ),
    "FP16_UnfusedOptimizer": ("fp16_groups", "fp32_groups", "loss_scale_config"),
    "FP16_Optimizer": ("fp16_groups", "fp32_groups_flat", "loss_scale_config"),
}  # fmt: skip
ENGINE_RELIED_UPON = (
    "module", "optimizer", "zero_optimization_stage", "gradient_accumulation_steps", "global_steps", "global_samples",
    "skipped_steps", "micro_steps",
)  # fmt: skip
PARAMETER_RELIED_UPON = {
    "DeepSpeedZeroOptimizer": ("_hp_mapping",),
    "BF16_Optimizer": ("_hp_mapping",),
    "DeepSpeedZeroOptimizer_Stage3": ("ds_shape", "ds_numel", "ds_process_group"),
}


def layout_of_engine(engine: Any, names: Mapping[Tensor, str]) -> Layout:
    """What this rank's optimizer holds, from a DeepSpeed engine. UserError for a class or a version not known."""
    _require(engine, ENGINE_RELIED_UPON)
    wrapper = engine.optimizer
    more = {"engine": engine, "zero_stage": int(engine.zero_optimization_stage())}
    if isinstance(wrapper, torch.optim.Optimizer) and not type(wrapper).__module__.startswith("deepspeed."):
        return whole_parameters(wrapper, names, **more)
    kind = type(wrapper).__name__
    if kind not in RELIED_UPON or type(engine).__name__ != "DeepSpeedEngine":
        raise UserError(
            f"checkpoints: what {kind} of {type(engine).__name__} (DeepSpeed {version('deepspeed')}) holds cannot be "
            "saved; known are ZeRO stages 0 to 3 with a torch optimizer, as in ds_configs/"
        )
    base = wrapper.optimizer
    if type(base).__module__.startswith("deepspeed."):
        raise UserError(
            f"checkpoints: the state of DeepSpeed's own {type(base).__name__} cannot be saved; take torch's or ours "
            '(`--optim adan`, `--optim adamw_torch`), with `"zero_force_ds_cpu_optimizer": false` under offload'
        )
    _require(wrapper, RELIED_UPON[kind])
    fragments, members = _FRAGMENTS[kind](wrapper, names)
    groups: list[list[str]] = [[] for _ in base.param_groups]
    facts: dict[str, ParameterFacts] = {}
    for index, params in members:
        for param in params:
            name = name_of(param, names)
            groups[index].append(name)
            facts[name] = ParameterFacts(tuple(getattr(param, "ds_shape", param.shape)), param.dtype)
    replicated = kind in ("FP16_UnfusedOptimizer", "FP16_Optimizer")
    return Layout(base, fragments, groups, facts, replicated, **more)


# The fragments of this rank, and the parameters of the base optimizer's groups by their number.
Found = tuple[list[Fragment], Iterable[tuple[int, Sequence[Tensor]]]]


def _of_flat_partitions(
    owners: Sequence[Tensor], groups: Sequence[Sequence[Tensor]], names: Mapping[Tensor, str]
) -> Found:
    """ZeRO 1 and 2: the parameters of a group one after the other, cut into as many equal parts as there are ranks."""
    fragments = []
    for owner, params in zip(owners, groups, strict=True):
        for param in params:
            _require(param, PARAMETER_RELIED_UPON["DeepSpeedZeroOptimizer"])
            mapping: Any = param._hp_mapping
            if mapping is not None:  # this rank has a part of it
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                name = name_of(param, names)
                fragments.append(Fragment(name, here.start, here.start + here.numel, owner, there.start))
    return fragments, enumerate(groups)


def _of_stage_3(wrapper: Any, names: Mapping[Tensor, str]) -> Found:
    """ZeRO 3: each parameter cut into equal parts, padded at the end; those of a sub-group one after the other."""
    if wrapper.swap_optimizer or wrapper.params_in_nvme_and_cpu:
        raise UserError('checkpoints: states on NVMe cannot be saved; offload to "cpu" in the DeepSpeed configuration')
    fragments = []
    for params in wrapper.fp16_groups:
        for param in params:
            _require(param, PARAMETER_RELIED_UPON["DeepSpeedZeroOptimizer_Stage3"])
            sub_group, offset, length = wrapper.grad_position[wrapper.get_param_id(param)]
            begin = dist.get_rank(group=param.ds_process_group) * length
            end = min(begin + length, param.ds_numel)
            if begin < end:  # not padding alone
                owner = wrapper.fp32_partitioned_groups_flat[sub_group]
                fragments.append(Fragment(name_of(param, names), begin, end, owner, offset))
    return fragments, ((wrapper.sub_group_to_group_id[index], group) for index, group in enumerate(wrapper.fp16_groups))


def _of_whole_masters(wrapper: Any, names: Mapping[Tensor, str]) -> Found:
    """Stage 0 in bf16 or fp16: a float32 copy of each parameter."""
    pairs = zip(wrapper.fp32_groups, wrapper.fp16_groups, strict=True)
    fragments = [
        Fragment(name_of(param, names), 0, param.numel(), master, 0)
        for masters, params in pairs
        for master, param in zip(masters, params, strict=True)
    ]
    return fragments, enumerate(wrapper.fp16_groups)


def _of_flat_masters(wrapper: Any, names: Mapping[Tensor, str]) -> Found:
    """Stage 0 in bf16 or fp16 with a fused optimizer: the float32 copies of a group one after the other."""
    fragments = []
    for owner, params in zip(wrapper.fp32_groups_flat, wrapper.fp16_groups, strict=True):
        offset = 0
        for param in params:
            fragments.append(Fragment(name_of(param, names), 0, param.numel(), owner, offset))
            offset += param.numel()
    return fragments, enumerate(wrapper.fp16_groups)


_FRAGMENTS: dict[str, Callable[[Any, Mapping[Tensor, str]], Found]] = {
    "DeepSpeedZeroOptimizer": lambda wrapper, names: _of_flat_partitions(
        wrapper.single_partition_of_fp32_groups, wrapper.bit16_groups, names
    ),
    "BF16_Optimizer": lambda wrapper, names: _of_flat_partitions(
        wrapper.fp32_groups_flat_partition, wrapper.bf16_groups, names
    ),
    "DeepSpeedZeroOptimizer_Stage3": _of_stage_3,
    "FP16_UnfusedOptimizer": _of_whole_masters,
    "FP16_Optimizer": _of_flat_masters,
}


def _require(found: Any, attributes: Iterable[str]) -> None:
    """Raise a UserError where this version of DeepSpeed lacks something that is relied upon."""
    for attribute in attributes:
        if not hasattr(found, attribute):
            raise UserError(
                f"checkpoints: {type(found).__name__} of DeepSpeed {version('deepspeed')} has no {attribute!r}, by "
                "which an optimizer's state is saved; install the version of requirements.lock"
            )
