"""Adan on random shapes, dtypes, streams of gradients and options: back ends agree, invariants hold."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from nlp_adan import Adan

shapes = st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4)
betas = st.tuples(*[st.sampled_from([0.0, 0.3, 0.9, 0.92, 0.98, 0.999])] * 3)
options = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-4, 0.1),
        "betas": betas,
        "eps": st.sampled_from([1e-8, 1e-3, 0.1]),
        "weight_decay": st.sampled_from([0.0, 0.02, 0.5]),
        "no_prox": st.booleans(),
        "maximize": st.booleans(),
        "max_grad_norm": st.sampled_from([0.0, 0.5, 100.0]),
        "restart_interval": st.sampled_from([0, 1, 3]),
        "capturable": st.booleans(),
    }
)
# Which parameters have a gradient at which of the steps.
presence = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8)


def run(sizes: list[list[int]], present: list[list[bool]], dtype: torch.dtype, **arguments: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter((0.1 * torch.randn(size, generator=generator)).to(dtype)) for size in sizes]
    optimizer = Adan(params, **arguments)
    for step in present:
        for param, has_gradient in zip(params, step, strict=False):
            # Between 0.8 and 1.2: with beta1 = beta3 = 0 a look-ahead gradient near 0 would magnify rounding at will.
            grad = (0.8 + 0.4 * torch.rand(param.shape, generator=generator)).bfloat16().to(dtype)
            param.grad = grad if has_gradient else None
        grads = [None if param.grad is None else param.grad.clone() for param in params]
        optimizer.step()
        for param, grad in zip(params, grads, strict=True):
            assert (grad is None and param.grad is None) or torch.equal(param.grad, grad), "gradients are left alone"
    for index, param in enumerate(params):
        count = sum(step[index] for step in present)
        assert (param in optimizer.state) == (count > 0)
        assert not count or optimizer.state[param]["step"] == count
    return [param.detach() for param in params]


@settings(max_examples=150, deadline=None)
@given(shapes, presence, options)
def test_back_ends_agree_with_the_float64_oracle(
    sizes: list[list[int]], present: list[list[bool]], arguments: dict[str, Any]
) -> None:
    oracle = run(sizes, present, torch.float64, **arguments, foreach=False)
    for back_end in ({"fused": True}, {"foreach": True}, {"foreach": False}):
        ours = run(sizes, present, torch.float32, **arguments, **back_end)
        for a, b in zip(ours, oracle, strict=True):
            # A step goes about lr far, with up to three times that from look-ahead and bias correction.
            scale = b.abs().max().item() + arguments["lr"] * len(present) if b.numel() else 1.0
            torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(
    shapes, presence, options,
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([None, torch.float32, torch.bfloat16]),
    st.booleans(),
)  # fmt: skip
def test_narrow_dtypes_agree_between_back_ends(
    sizes: list[list[int]], present: list[list[bool]], arguments: dict[str, Any], dtype: torch.dtype,
    state_dtype: torch.dtype | None, keep_low_bits: bool,
) -> None:  # fmt: skip
    arguments = {**arguments, "state_dtype": state_dtype, "keep_low_bits": keep_low_bits}
    fused, eager = (
        run(sizes, present, dtype, **arguments, **back_end) for back_end in ({"fused": True}, {"foreach": True})
    )
    spacing = {torch.float32: 2**-23, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    for a, b in zip(fused, eager, strict=True):
        # A state that is rounded to the other side moves the step by 2^-8 of itself, a few times in a run.
        far = arguments["lr"] * len(present)
        scale = b.abs().max().item() + far if b.numel() else 1.0
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=len(present) * spacing * scale + 2**-6 * far)


@settings(max_examples=50, deadline=None)
@given(shapes, presence, options)
def test_order_and_grouping_of_the_parameters_do_not_matter(
    sizes: list[list[int]], present: list[list[bool]], arguments: dict[str, Any]
) -> None:
    """Elementwise but for the norm: without clipping a parameter's way is its own, bit for bit."""
    arguments = {**arguments, "max_grad_norm": 0.0}
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(size, generator=generator) for size in sizes]
    together = [torch.nn.Parameter(start.clone()) for start in starts]
    apart = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizers = [Adan(together, **arguments), *(Adan([param], **arguments) for param in reversed(apart))]
    for step in present:
        for a, b, has_gradient in zip(together, apart, step, strict=False):
            grad = torch.randn(a.shape, generator=generator)
            a.grad, b.grad = (grad.clone(), grad.clone()) if has_gradient else (None, None)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, apart, strict=True):
        assert torch.equal(a, b)
