"""Adan's update rule, written once: elementwise, on one tensor or on many.

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
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """What the rule needs besides tensors, for one parameter at one step.

    Computed in float64: of a β near 1 rounded to float32, `1 - β` keeps few digits.
    """

    beta1: float
    beta2: float
    beta3: float
    one_minus_beta1: float
    one_minus_beta2: float
    one_minus_beta3: float
    step_size: float  # η / (1 - β1^k), for m
    step_size_diff: float  # η β2 / (1 - β2^k), for v
    root_bias_correction3: float  # sqrt(1 - β3^k)
    eps: float
    decay_before: float  # factor of θ before the step: 1 - λη with no_prox, else 1
    decay_after: float  # divisor of θ after the step: 1 + λη, or 1 with no_prox


def coefficients(
    step: int, *, lr: float, betas: tuple[float, float, float], eps: float, weight_decay: float, no_prox: bool
) -> Coefficients:
    """The coefficients of step `step` (counted from 1) of one parameter."""
    beta1, beta2, beta3 = betas
    return Coefficients(
        beta1=beta1,
        beta2=beta2,
        beta3=beta3,
        one_minus_beta1=1.0 - beta1,
        one_minus_beta2=1.0 - beta2,
        one_minus_beta3=1.0 - beta3,
        step_size=lr / (1.0 - beta1**step),
        step_size_diff=lr * beta2 / (1.0 - beta2**step),
        root_bias_correction3=math.sqrt(1.0 - beta3**step),
        eps=eps,
        decay_before=1.0 - lr * weight_decay if no_prox else 1.0,
        decay_after=1.0 if no_prox else 1.0 + lr * weight_decay,
    )


def update_(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_diff: Tensor, exp_avg_sq: Tensor, neg_pre_grad: Tensor,
    c: Coefficients,
) -> None:  # fmt: skip
    """One step of one parameter, in place. All tensors have the shape of `param`; `grad` is not changed.

    `neg_pre_grad` holds minus the previous gradient when it comes, minus this one when it goes.
    """
    diff = neg_pre_grad.add_(grad)  # g_k - g_{k-1}, in the memory of the previous gradient
    exp_avg.mul_(c.beta1).add_(grad, alpha=c.one_minus_beta1)
    exp_avg_diff.mul_(c.beta2).add_(diff, alpha=c.one_minus_beta2)
    look_ahead = diff.mul_(c.beta2).add_(grad)  # g_k + β2 (g_k - g_{k-1})
    exp_avg_sq.mul_(c.beta3).addcmul_(look_ahead, look_ahead, value=c.one_minus_beta3)
    denominator = exp_avg_sq.sqrt().div_(c.root_bias_correction3).add_(c.eps)

    if c.decay_before != 1.0:
        param.mul_(c.decay_before)
    param.addcdiv_(exp_avg, denominator, value=-c.step_size)
    param.addcdiv_(exp_avg_diff, denominator, value=-c.step_size_diff)
    if c.decay_after != 1.0:
        param.div_(c.decay_after)
    torch.neg(grad, out=neg_pre_grad)
