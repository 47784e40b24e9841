"""Adan against two independent implementations: torch-optimi's and pytorch-optimizer's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nlp_adan import Adan

NUM_STEPS = 50
# Measured: at most 4.8e-7 in float32. The gradients have a mean: with an aimless walk the rounding of parameters of
# size 1 alone is 1e-6 of the little way that they go.
TOLERANCE = 1e-6
SHAPES = [(17, 5), (64,), (3, 4, 2), (1,)]


def run(optimizer_class: Any, dtype: torch.dtype, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters before and after `NUM_STEPS` steps on one fixed stream of gradients."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
    params = [torch.nn.Parameter(value.clone()) for value in start]
    optimizer = optimizer_class(params, **options)
    for _ in range(NUM_STEPS):
        for param in params:
            noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            param.grad = (1.0 + 0.5 * noise).to(dtype)
        optimizer.step()
    return start, [param.detach() for param in params]


def relative_update_difference(ours: list[Tensor], theirs: list[Tensor], start: list[Tensor]) -> float:
    return max(
        float((a.double() - b.double()).norm() / (b.double() - s.double()).norm())
        for a, b, s in zip(ours, theirs, start, strict=True)
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("betas", [(0.98, 0.92, 0.99), (0.9, 0.9, 0.999)])
def test_torch_optimi(weight_decay: float, betas: tuple[float, float, float]) -> None:
    """The proximal decay only: torch-optimi 0.3 documents `adam_wd` (our no_prox) but drops it in `step`."""
    optimi = pytest.importorskip("optimi")
    start, ours = run(Adan, torch.float32, lr=1e-2, betas=betas, weight_decay=weight_decay)
    _, theirs = run(
        optimi.Adan, torch.float32, lr=1e-2, betas=betas, eps=1e-8, weight_decay=weight_decay, foreach=False
    )
    assert relative_update_difference(ours, theirs, start) <= TOLERANCE


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("no_prox", [False, True])
def test_pytorch_optimizer(weight_decay: float, no_prox: bool) -> None:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    start, ours = run(Adan, torch.float32, lr=1e-2, weight_decay=weight_decay, no_prox=no_prox)
    _, theirs = run(
        pytorch_optimizer.Adan, torch.float32, lr=1e-2, betas=(0.98, 0.92, 0.99), eps=1e-8,
        weight_decay=weight_decay, weight_decouple=no_prox,
    )  # fmt: skip
    assert relative_update_difference(ours, theirs, start) <= TOLERANCE
