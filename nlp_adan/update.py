"""Adan's update rule, written once: elementwise, on lists of tensors. What runs it faster is in `nlp_adan.kernels`.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", arXiv 2208.06677,
Algorithm 1, in the conventions of the authors' code, whose trajectory is our contract. Its betas are one minus the
paper's, all three averages start at 0 and are bias-corrected, and the first gradient difference is 0:

    d_k = g_k - g_{k-1}                                                       (0 at k = 1)
    m_k = β1 m_{k-1} + (1 - β1) g_k                                           exp_avg
    v_k = β2 v_{k-1} + (1 - β2) d_k                                           exp_avg_diff
    n_k = β3 n_{k-1} + (1 - β3) (g_k + β2 d_k)²                               exp_avg_sq
    u_k = [m_k / (1 - β1^k) + β2 v_k / (1 - β2^k)] / [sqrt(n_k / (1 - β3^k)) + ε]
    θ_k = (θ_{k-1} - η u_k) / (1 + λη)                                        proximal decay, the default
    θ_k = (1 - λη) θ_{k-1} - η u_k                                            no_prox: AdamW's decay

Both decays are computed as `θ - shrink θ - (a m + b v) / (c sqrt(n) + ε)`: a factor like 1 + λη, rounded to float32,
would lose most digits of λη.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

Number: TypeAlias = float | Tensor


@dataclass(frozen=True)
class Coefficients:
    """What the rule needs besides tensors, at one step: of all parameters (floats), or of each of `T` parameters.

    Computed in float64: of a β near 1 rounded to float32, `1 - β` keeps few digits. A field that differs between the
    parameters is a float64 tensor of shape (T,) on their device. The back ends know the order of the fields.
    """

    decay1: Number  # β1
    gain1: Number  # 1 - β1
    decay2: Number  # β2; also the weight of the gradient difference in n
    gain2: Number  # 1 - β2
    decay3: Number  # β3
    gain3: Number  # 1 - β3
    keep: Number  # 1; 0 at a first step, which takes no average and no previous gradient for known
    step_size: Number  # η / (1 - β1^k), for m
    step_size_diff: Number  # η β2 / (1 - β2^k), for v
    root_correction3: Number  # 1 / sqrt(1 - β3^k)
    eps: Number
    shrink: Number  # λη / (1 + λη), or λη with no_prox
    sign: Number  # of the gradient: -1 with maximize

    def values(self) -> list[Number]:
        """The fields, in their order."""
        return [getattr(self, field.name) for field in fields(self)]

    def packed(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The fields as a tensor of shape (T, 13), or (1, 13) if they are the same for all parameters."""
        values = self.values()
        count = max((value.numel() for value in values if isinstance(value, Tensor)), default=1)
        if count == 1 and not any(isinstance(value, Tensor) for value in values):
            return torch.tensor([values], dtype=dtype, device=device)
        columns = [
            value.expand(count)
            if isinstance(value, Tensor)
            else torch.full((count,), value, dtype=dtype, device=device)
            for value in values
        ]
        return torch.stack([column.to(device, dtype) for column in columns], dim=1)


def coefficients(step: Number, group: dict[str, Any]) -> Coefficients:
    """The coefficients of update number `step`, counted from 1, under the options of a parameter group.

    `step` is a number, or a float64 tensor of shape (T,) with one for each parameter. With `restart_interval` R every
    R-th update is the last before a restart: update R + 1 is a first step again.
    """
    beta1, beta2, beta3 = group["betas"]
    lr = group["lr"]
    if isinstance(lr, Tensor):
        lr = float(lr) if lr.device.type == "cpu" else lr.double().squeeze()
    if group["restart_interval"]:
        step = (step - 1) % group["restart_interval"] + 1
    keep = (step != 1).double() if isinstance(step, Tensor) else float(step != 1)
    decay = lr * group["weight_decay"]
    shrink = decay if group["no_prox"] else decay / (1.0 + decay)
    proximal = 1.0 if group["no_prox"] else 1.0 / (1.0 + decay)
    return Coefficients(
        decay1=beta1,
        gain1=1.0 - beta1,
        decay2=beta2,
        gain2=1.0 - beta2,
        decay3=beta3,
        gain3=1.0 - beta3,
        keep=keep,
        step_size=lr * proximal / (1.0 - beta1**step),
        step_size_diff=lr * proximal * beta2 / (1.0 - beta2**step),
        root_correction3=(1.0 - beta3**step) ** -0.5,
        eps=group["eps"],
        shrink=shrink,
        sign=-1.0 if group["maximize"] else 1.0,
    )


def update_(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_diffs: list[Tensor],
    exp_avg_sqs: list[Tensor], neg_pre_grads: list[Tensor], c: Coefficients,
) -> None:  # fmt: skip
    """One step of T parameters, in place, with `grads` left as they are. All tensors are of one floating dtype.

    The tensors of one parameter have one shape. `neg_pre_grads` hold minus the previous gradient when they come, minus
    this one, signed, when they go.
    """
    c = replace(c, **{name: list(value.unbind()) for name, value in vars(c).items() if _differs(value)})
    if c.sign != 1.0:
        grads = torch._foreach_mul(grads, c.sign)
    diffs = neg_pre_grads  # g_k - g_{k-1}, in the memory of the previous gradient
    torch._foreach_add_(diffs, grads)
    _forget_(c.keep, exp_avgs, exp_avg_diffs, exp_avg_sqs, diffs)
    _average_(exp_avgs, c.decay1, grads, c.gain1)
    _average_(exp_avg_diffs, c.decay2, diffs, c.gain2)
    look_aheads = diffs  # g_k + β2 (g_k - g_{k-1}), in the same memory
    torch._foreach_mul_(look_aheads, c.decay2)
    torch._foreach_add_(look_aheads, grads)
    torch._foreach_mul_(exp_avg_sqs, c.decay3)
    torch._foreach_addcmul_(exp_avg_sqs, look_aheads, look_aheads, value=c.gain3)

    denominators = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_mul_(denominators, c.root_correction3)
    torch._foreach_add_(denominators, c.eps)
    if isinstance(c.shrink, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(params, c.shrink))
    elif c.shrink != 0.0:
        torch._foreach_add_(params, params, alpha=-c.shrink)
    _subtract_quotients_(params, exp_avgs, denominators, c.step_size)
    _subtract_quotients_(params, exp_avg_diffs, denominators, c.step_size_diff)

    torch._foreach_copy_(neg_pre_grads, grads)
    torch._foreach_neg_(neg_pre_grads)


def _differs(value: Number) -> bool:
    """Whether a coefficient has a value for each parameter."""
    return isinstance(value, Tensor) and value.ndim == 1


def _forget_(keep: Number | list[Tensor], *states: list[Tensor]) -> None:
    """Zero the states where `keep` is 0, whatever they hold: a NaN times 0 would stay."""
    for tensors in states:
        if isinstance(keep, list):
            for tensor, flag in zip(tensors, keep, strict=True):
                tensor.masked_fill_(flag == 0, 0)
        elif keep == 0:
            torch._foreach_zero_(tensors)


def _subtract_quotients_(
    params: list[Tensor], numerators: list[Tensor], denominators: list[Tensor], factor: Number
) -> None:
    """params ← params - factor · numerators / denominators."""
    if isinstance(factor, float):
        torch._foreach_addcdiv_(params, numerators, denominators, value=-factor)
        return
    quotients = torch._foreach_mul(numerators, factor)
    torch._foreach_div_(quotients, denominators)
    torch._foreach_sub_(params, quotients)


def _average_(averages: list[Tensor], decay: Number, values: list[Tensor], gain: Number) -> None:
    """averages ← decay · averages + gain · values."""
    torch._foreach_mul_(averages, decay)
    torch._foreach_add_(averages, values, alpha=gain)
