"""The rule run by torch's own operations: the oracle of the other back ends, and what runs where they cannot.

Works for every floating dtype, layout and device, on temporaries of the size of the parameters that it is handed at
once. Narrow dtypes are widened to float32 for the arithmetic and rounded when they are stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nlp_adan.kernels.operands import Operands
from nlp_adan.update import Coefficients, update_


def step(batch: list[Operands], c: Coefficients, grad_factor: Tensor | None, found_inf: Tensor | None) -> None:
    """One update of each parameter of `batch`; all of one tuple of dtypes.

    Args:
        batch: T parameters with their states.
        c: coefficients of all, or of each.
        grad_factor: scalar by which every gradient enters multiplied, None for 1.
        found_inf: scalar; where it is not 0 nothing is changed. Asking it waits for the device.
    """
    if found_inf is not None and bool(found_inf):
        return
    dtype = torch.promote_types(batch[0].param.dtype, torch.float32)
    params = [_master(operands) for operands in batch]
    grads = [operands.grad.to(dtype) for operands in batch]
    if grad_factor is not None:
        grads = torch._foreach_mul(grads, grad_factor.to(dtype))
    states = [[getattr(operands, name).to(dtype) for operands in batch] for name in Operands._fields[2:6]]
    exp_avgs, exp_avg_diffs, exp_avg_sqs, neg_pre_grads = states
    update_(params, grads, exp_avgs, exp_avg_diffs, exp_avg_sqs, neg_pre_grads, c)
    for operands, master in zip(batch, params, strict=True):
        _store_master(operands, master)
    for name, values in zip(Operands._fields[2:6], states, strict=True):
        for operands, value in zip(batch, values, strict=True):
            _store(getattr(operands, name), value)


def _master(operands: Operands) -> Tensor:
    """The parameter in the dtype of the arithmetic: itself, widened, or with its low bits."""
    param, low_bits = operands.param, operands.low_bits
    if low_bits is None:
        return param.to(torch.promote_types(param.dtype, torch.float32))
    high = param.view(torch.int16).to(torch.int32) << 16
    return (high + low_bits.to(torch.int32)).view(torch.float32)


def _store_master(operands: Operands, master: Tensor) -> None:
    if operands.low_bits is None:
        _store(operands.param, master)
        return
    # To the nearest bfloat16, ties away from zero: what is left then always fits int16. A NaN must stay one.
    bits = master.view(torch.int32)
    high = torch.where(master.isnan(), 0x7FC0, (bits + 0x8000) >> 16)
    low = torch.where(master.isnan(), 0, bits - (high << 16))
    operands.param.copy_(high.to(torch.int16).view(torch.bfloat16))
    operands.low_bits.copy_(low)


def _store(target: Tensor, value: Tensor) -> None:
    if target is not value:
        target.copy_(value)
