"""Every back end against the float64 oracle, and against two independent Adans: torch-optimi's and pytorch-optimizer's.

The independent ones run in float64. In float32 they are up to 6e-6 off themselves as soon as weights decay: they
multiply by 1 + λη rounded to float32, which keeps few digits of λη.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nlp_adan import Adan

NUM_STEPS = 200
# Measured over all cases below: at most 1.2e-6 in float32. The gradients have a mean: with an aimless walk the
# rounding of parameters of size 1 alone is 1e-6 of the little way that they go.
TOLERANCE = 2e-6
SHAPES = [(17, 5), (64,), (3, 4, 2), (1,), (), (33_001,)]
BACK_ENDS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "one by one": {"foreach": False}}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"betas": (0.9, 0.9, 0.999)},
    {"betas": (0.0, 0.0, 0.0)},
    {"weight_decay": 0.02},
    {"weight_decay": 0.02, "no_prox": True},
    {"eps": 0.1, "weight_decay": 0.5},
    {"max_grad_norm": 1.0},
    {"maximize": True, "weight_decay": 0.02},
    {"restart_interval": 7},
    {"capturable": True, "weight_decay": 0.02, "restart_interval": 50},
    {"capturable": True, "lr": torch.tensor(1e-2)},
]


def run(optimizer_class: Any, dtype: torch.dtype, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters before and after `NUM_STEPS` steps on one fixed stream of gradients."""
    generator = torch.Generator().manual_seed(0)
    start = [0.1 * torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    params = [torch.nn.Parameter(value.clone()) for value in start]
    optimizer = optimizer_class(params, **{"lr": 1e-2, **options})
    for _ in range(NUM_STEPS):
        for param in params:
            noise = torch.randn(param.shape, generator=generator)
            param.grad = (1.0 + 0.5 * noise).to(dtype)
        optimizer.step()
    return start, [param.detach() for param in params]


def relative_update_difference(ours: list[Tensor], theirs: list[Tensor], start: list[Tensor]) -> float:
    """Largest over the tensors of ‖p - p_oracle‖ / ‖p_oracle - p_0‖."""
    return max(
        float((a.double() - b.double()).norm() / (b.double() - s.double()).norm())
        for a, b, s in zip(ours, theirs, start, strict=True)
    )


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_float64_oracle(back_end: str, options: dict[str, Any]) -> None:
    start, ours = run(Adan, torch.float32, **options, **BACK_ENDS[back_end])
    _, oracle = run(Adan, torch.float64, **options, foreach=False)
    assert relative_update_difference(ours, oracle, start) <= TOLERANCE


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("betas", [(0.98, 0.92, 0.99), (0.9, 0.9, 0.999)])
def test_torch_optimi(back_end: str, weight_decay: float, betas: tuple[float, float, float]) -> None:
    """The proximal decay only: torch-optimi 0.3 documents `adam_wd` (our no_prox) but drops it in `step`."""
    optimi = pytest.importorskip("optimi")
    start, ours = run(Adan, torch.float32, betas=betas, weight_decay=weight_decay, **BACK_ENDS[back_end])
    _, theirs = run(optimi.Adan, torch.float64, betas=betas, eps=1e-8, weight_decay=weight_decay, foreach=False)
    assert relative_update_difference(ours, theirs, start) <= TOLERANCE


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("no_prox", [False, True])
def test_pytorch_optimizer(back_end: str, weight_decay: float, no_prox: bool) -> None:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    start, ours = run(Adan, torch.float32, weight_decay=weight_decay, no_prox=no_prox, **BACK_ENDS[back_end])
    _, theirs = run(
        pytorch_optimizer.Adan, torch.float64, betas=(0.98, 0.92, 0.99), eps=1e-8,
        weight_decay=weight_decay, weight_decouple=no_prox,
    )  # fmt: skip
    assert relative_update_difference(ours, theirs, start) <= TOLERANCE
