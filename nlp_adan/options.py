"""What may be asked of Adan: every option is checked here, at construction and for each parameter group."""

from __future__ import annotations

from typing import Any, SupportsFloat

import torch
from torch import Tensor

from nlp_adan.kernels import FUSED_DEVICES, fused_available
from nlp_adan.kernels.operands import STATE_DTYPES

# How a run goes, not what it computes: a loaded checkpoint does not change these.
RUN_OPTIONS = ("foreach", "fused", "capturable", "state_dtype", "keep_low_bits")


def check_options(options: dict[str, Any]) -> None:
    """Raise ValueError naming the first value that is out of range."""
    if isinstance(options["lr"], Tensor) and options["lr"].numel() != 1:
        raise ValueError(f"Adan: lr must be one number, got a tensor of shape {tuple(options['lr'].shape)}")
    for name in ("lr", "eps", "weight_decay", "max_grad_norm"):
        value = options[name]
        if not isinstance(value, SupportsFloat) or isinstance(value, bool) or not 0 <= float(value) < float("inf"):
            raise ValueError(f"Adan: {name} must be a number, 0 or more, got {value!r}")
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 3:
        raise ValueError(f"Adan: betas must be three numbers (beta1, beta2, beta3), got {betas!r}")
    for index, beta in enumerate(betas, 1):
        if not isinstance(beta, SupportsFloat) or not 0 <= float(beta) < 1:
            raise ValueError(f"Adan: beta{index} must be in [0, 1), got {beta!r}")
    for name in ("no_prox", "maximize", "capturable", "keep_low_bits"):
        if not isinstance(options[name], bool):
            raise ValueError(f"Adan: {name} must be True or False, got {options[name]!r}")
    for name in ("foreach", "fused"):
        if options[name] not in (None, True, False):
            raise ValueError(f"Adan: {name} must be True, False or None, got {options[name]!r}")
    interval = options["restart_interval"]
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 0:
        raise ValueError(f"Adan: restart_interval must be a number of steps, 0 for no restarts, got {interval!r}")
    if options["foreach"] and options["fused"]:
        raise ValueError("Adan: foreach=True and fused=True exclude each other; leave one out")


def state_dtype_of(value: Any) -> torch.dtype | None:
    """`state_dtype` as a dtype; None stays None. "float32" and "bfloat16" are taken too. ValueError for others."""
    dtype = getattr(torch, value, value) if isinstance(value, str) else value
    if dtype is not None and dtype not in STATE_DTYPES:
        raise ValueError(f"Adan: state_dtype must be torch.float32 or torch.bfloat16 (or None), got {value!r}")
    return dtype


def check_device(param: Tensor, options: dict[str, Any]) -> None:
    """Raise ValueError where a parameter's device cannot do what the options ask of it."""
    if options["fused"] and param.device.type not in FUSED_DEVICES:
        raise ValueError(
            f"Adan: fused=True, but a parameter is on {param.device}, which has no fused back end "
            f"(there is one for {' and '.join(FUSED_DEVICES)}); leave fused out"
        )
    if options["fused"] and not fused_available(param.device):
        needs = "a C++ compiler" if param.device.type == "cpu" else "triton"
        raise ValueError(f"Adan: fused=True on {param.device} needs {needs}, which was not found; install it")
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.device.type != "cpu" and not options["capturable"]:
        raise ValueError(f"Adan: lr is a tensor on {lr.device}, which takes capturable=True (or pass a number)")
