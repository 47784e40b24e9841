"""Trying a back end out before its first use: one small update by it and by the eager rule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import _disable_current_modes

from nlp_adan.kernels import eager
from nlp_adan.kernels.operands import Operands
from nlp_adan.update import Coefficients, coefficients

OPTIONS = {
    "lr": 0.1, "betas": (0.9, 0.8, 0.7), "eps": 1e-8, "weight_decay": 0.1, "no_prox": False, "maximize": False,
    "restart_interval": 0,
}  # fmt: skip


def check(run: Callable[[list[Operands], Coefficients], None], device: torch.device) -> None:
    """Raise OSError if `run` computes something else than the eager rule does. What `run` raises is passed on.

    Default dtypes and devices do not matter, nor modes such as one that makes tensors without memory.
    """
    c = coefficients(2, OPTIONS)
    with _disable_current_modes():
        values = torch.linspace(0.1, 1.0, 37, dtype=torch.float32, device=device)
        ours, theirs = (Operands._make([*(values.roll(shift) for shift in range(6)), None]) for _ in range(2))
        run([ours], c)
        eager.step([theirs], c, None, None)
        if not all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(ours[:6], theirs[:6], strict=True)):
            raise OSError("the compiled step computes other values than the eager one")
