"""Adan against steps computed by hand, and against the published algorithm written out in plain Python floats."""

from __future__ import annotations

import math

import pytest
import torch

from nlp_adan import Adan


def reference_trajectory(
    theta: float,
    gradients: list[float | None],
    *,
    lr: float,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
    no_prox: bool,
) -> list[float]:
    """One scalar parameter after each step, straight from the equations in `nlp_adan/update.py`."""
    beta1, beta2, beta3 = betas
    m = v = n = 0.0
    previous: float | None = None
    k = 0
    trajectory = []
    for g in gradients:
        if g is not None:
            k += 1
            d = 0.0 if previous is None else g - previous
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * d
            n = beta3 * n + (1 - beta3) * (g + beta2 * d) ** 2
            denominator = math.sqrt(n / (1 - beta3**k)) + eps
            u = (m / (1 - beta1**k) + beta2 * v / (1 - beta2**k)) / denominator
            decay = weight_decay * lr
            theta = (1 - decay) * theta - lr * u if no_prox else (theta - lr * u) / (1 + decay)
            previous = g
        trajectory.append(theta)
    return trajectory


def test_two_steps_by_hand() -> None:
    """θ0 = 1, g = 0.5 then 0.25, lr = 0.1, all betas 0.5, ε = 0, no decay.

    Step 1: m = 0.25, v = 0, n = 0.125; m̂ = 0.5, n̂ = 0.25: u = 0.5 / 0.5 = 1, θ1 = 0.9.
    Step 2: d = -0.25, m = 0.25, v = -0.125, look-ahead 0.25 - 0.125 = 0.125, n = 0.0625 + 0.0078125 = 0.0703125;
    m̂ = 0.25 / 0.75 = 1/3, v̂ = -0.125 / 0.75 = -1/6, n̂ = 0.0703125 / 0.75 = 0.09375;
    u = (1/3 - 1/12) / 0.30618622 = 0.81649658, θ2 = 0.81835034.
    """
    param = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = Adan([param], lr=0.1, betas=(0.5, 0.5, 0.5), eps=0.0)
    param.grad = torch.tensor([0.5], dtype=torch.float64)
    optimizer.step()
    assert param.item() == pytest.approx(0.9, abs=1e-15)
    param.grad = torch.tensor([0.25], dtype=torch.float64)
    optimizer.step()
    assert param.item() == pytest.approx(0.9 - 0.1 * (1 / 3 - 1 / 12) / math.sqrt(0.09375), abs=1e-15)
    assert param.item() == pytest.approx(0.8183503, abs=1e-7)


def test_decay_by_hand() -> None:
    """A zero gradient leaves the decay alone: λη = 0.1 x 0.5 = 0.05, so 1/1.05 with prox and 0.95 without."""
    for no_prox, expected in ((False, 1 / 1.05), (True, 0.95)):
        param = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        param.grad = torch.zeros_like(param)
        Adan([param], lr=0.1, weight_decay=0.5, no_prox=no_prox).step()
        assert param.item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("no_prox", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("betas", [(0.98, 0.92, 0.99), (0.9, 0.9, 0.999), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("gap", [False, True])
def test_scalar_trajectory(no_prox: bool, weight_decay: float, betas: tuple[float, float, float], gap: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    gradients: list[float | None] = torch.randn(50, generator=generator, dtype=torch.float64).tolist()
    if gap:
        gradients[:3] = [None, None, None]
        gradients[20:25] = [None] * 5
    settings = {"lr": 3e-2, "betas": betas, "eps": 1e-8, "weight_decay": weight_decay, "no_prox": no_prox}
    expected = reference_trajectory(0.7, gradients, **settings)  # type: ignore[arg-type]

    param = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    other = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))  # steps every time: counters are per parameter
    optimizer = Adan([param, other], **settings)  # type: ignore[arg-type]
    for gradient, value in zip(gradients, expected, strict=True):
        param.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
        other.grad = torch.tensor(1.0, dtype=torch.float64)
        optimizer.step()
        assert param.item() == pytest.approx(value, rel=1e-12)


def test_clip_scales_the_gradients_of_all_groups_and_changes_none() -> None:
    """‖g‖ = sqrt(3² + 4²) = 5, clipped to 1: the step is that of g / 5."""
    a, b = (torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64)) for _ in range(2))
    expected_a, expected_b = (torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64)) for _ in range(2))
    clipped = Adan([{"params": [a]}, {"params": [b], "lr": 0.2}], lr=0.1, max_grad_norm=1.0, eps=1e-12)
    plain = Adan([{"params": [expected_a]}, {"params": [expected_b], "lr": 0.2}], lr=0.1, eps=1e-12)
    for scale in (1.0, -0.5, 0.1):
        a.grad, b.grad = torch.tensor([3.0]).double() * scale, torch.tensor([4.0]).double() * scale
        factor = min(1.0, 1.0 / (5.0 * abs(scale)))
        expected_a.grad, expected_b.grad = a.grad * factor, b.grad * factor
        clipped.step()
        plain.step()
        assert a.grad.item() == 3.0 * scale and b.grad.item() == 4.0 * scale
        assert a.item() == pytest.approx(expected_a.item(), abs=1e-10)
        assert b.item() == pytest.approx(expected_b.item(), abs=1e-10)
