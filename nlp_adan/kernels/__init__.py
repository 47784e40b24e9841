"""Back ends of the update rule: compiled for the CPU, Triton for NVIDIA GPUs, eager for everything else.

All have `step(batch, coefficients, grad_factor, found_inf)`, described at `eager.step`, and agree within rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nlp_adan.kernels.operands import Operands
from nlp_adan.update import Coefficients

Step = Callable[[list[Operands], Coefficients, Tensor | None, Tensor | None], None]
FUSED_DEVICES = ("cpu", "cuda")


def fused_available(device: torch.device) -> bool:
    """Whether there is a fused back end for the device and this installation; on the CPU the first call builds it."""
    if device.type == "cpu":
        from nlp_adan.kernels import cpu

        return cpu.available()
    if device.type == "cuda":
        from nlp_adan.kernels import gpu

        return gpu.available()
    return False


def fused_step(operands: Operands) -> Step | None:
    """The fused back end for a parameter's tensors, None where only the eager one takes them."""
    if type(operands.param) not in (Tensor, torch.nn.Parameter) or not fused_available(operands.param.device):
        return None
    if operands.param.device.type == "cpu":
        from nlp_adan.kernels import cpu

        return cpu.step if cpu.takes(operands) else None
    from nlp_adan.kernels import gpu

    return gpu.step if gpu.takes(operands) else None
