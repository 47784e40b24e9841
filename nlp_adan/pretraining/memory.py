"""What a model's parameters, gradients and optimizer states take of a rank's memory, by ZeRO stage.

Arithmetic, for a plan; ds_configs/README.md has the reasons for the formulas. N is the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nlp_adan.integrations.huggingface import adan_options

# Bytes of an optimizer's states per parameter. Adan: exp_avg, exp_avg_sq, exp_avg_diff and neg_pre_grad; of these
# `state_dtype=bfloat16` halves three.
_ADAN_BYTES, _ADAN_LOW_BYTES = 16, 10
_STATE_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "rmsprop": 4, "adagrad": 4, "sgd": 0}
# Without DeepSpeed, N > 1: DistributedDataParallel's buckets are a second copy of the gradients.
_DDP_BUCKET_BYTES = 4


@dataclass(frozen=True)
class StateMemory:
    """Bytes that one rank holds of parameters, gradients and optimizer states."""

    device_bytes: float
    host_bytes: float = 0.0


def optimizer_state_bytes(optim: str, optim_args: str | None) -> int | None:
    """Bytes of the optimizer's states per parameter; None for an optimizer that is not known here.

    optim, optim_args: as in `--optim`, `--optim_args`.
    """
    if optim == "adan":
        return _ADAN_LOW_BYTES if adan_options(optim_args).get("state_dtype") == "bfloat16" else _ADAN_BYTES
    return _STATE_BYTES.get(optim)


# Bytes per parameter, (device, host), of (states, N, bf16). Least sharded first: the order in which to try them.
_Formula = Callable[[int, int, bool], tuple[float, float]]
_FORMULAS: dict[str, _Formula] = {
    # bf16 is autocast there: float32 parameters and gradients, and the casts of the weights besides.
    "none": lambda states, n, bf16: (8 + states + 2 * bf16 + (_DDP_BUCKET_BYTES if n > 1 else 0), 0),
    "zero1": lambda states, n, bf16: (4 + (4 + states) / n if bf16 else 8 + states / n, 0),
    "zero2": lambda states, n, bf16: (2 + (6 + states) / n if bf16 else 4 + (4 + states) / n, 0),
    "zero3": lambda states, n, bf16: ((8 + states) / n, 0),
    # The host holds float32 gradients beside the states, and under bf16 the masters.
    "zero2_offload": lambda states, n, bf16: (2 + 2 / n, (8 + states) / n) if bf16 else (4 + 4 / n, (4 + states) / n),
    "zero3_offload": lambda states, n, bf16: (0, ((10 if bf16 else 8) + states) / n),
}
DS_CONFIGS = tuple(_FORMULAS)


def state_memory(
    num_parameters: int, states_per_parameter: int, world_size: int, bf16: bool = False
) -> dict[str, StateMemory]:
    """What a rank holds with each file of ds_configs/ (`none`: without DeepSpeed), without buffers.

    bf16: whether the run has --bf16 (fp16 costs the same). Of zero3_offload's device, what is gathered for the layers
    at hand is left out.
    """
    found = {}
    for name, formula in _FORMULAS.items():
        device, host = formula(states_per_parameter, world_size, bf16)
        found[name] = StateMemory(num_parameters * device, num_parameters * host)
    return found
