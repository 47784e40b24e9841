"""Back ends of the update rule: compiled for the CPU, Triton for NVIDIA GPUs, eager for everything else.

All have `step(batch, coefficients, grad_factor, found_inf)`, described at `eager.step`, and agree within rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from nlp_adan.kernels.operands import Operands
from nlp_adan.update import Coefficients

Step = Callable[[list[Operands], Coefficients, Tensor | None, Tensor | None], None]
FUSED_DEVICES = ("cpu", "cuda")


@functools.cache
def fused_back_end(device: torch.device) -> ModuleType | None:
    """The fused back end for a device: a module with `step`, `capturable_step` and `takes`; None if there is none here.

    On the CPU the first call builds it.
    """
    if device.type == "cpu":
        from nlp_adan.kernels import cpu

        return cpu if cpu.available() else None
    if device.type == "cuda":
        from nlp_adan.kernels import gpu

        return gpu if gpu.available(device) else None
    return None


def fused_available(device: torch.device) -> bool:
    """Whether there is a fused back end for the device in this installation."""
    return fused_back_end(device) is not None
