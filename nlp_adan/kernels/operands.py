"""What a back end works on: the tensors of one parameter, plain and local, and those of many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)
STATE_DTYPES = (torch.float32, torch.bfloat16)  # of the states that may be narrow, where the rule runs in float32


class Operands(NamedTuple):
    """The tensors of one parameter's update, of one shape and on one device; all but `grad` are updated in place."""

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_diff: Tensor
    exp_avg_sq: Tensor
    neg_pre_grad: Tensor
    low_bits: Tensor | None  # int16, the lower half of the float32 value whose upper half is a bfloat16 `param`

    def on_one_device(self) -> bool:
        """Whether all are plain tensors on one device. What a subclass's memory means is not known here."""
        p, g, m, v, n, h, low = self
        d = p.device
        plain = type(p) in _PLAIN and type(g) in _PLAIN and type(m) in _PLAIN and type(v) in _PLAIN
        if not (plain and type(n) in _PLAIN and type(h) in _PLAIN):
            return False
        same = g.device == d and m.device == d and v.device == d and n.device == d and h.device == d
        return same and (low is None or low.device == d)

    def addresses(self) -> tuple[int, ...]:
        """The first byte of each; 0 in the place of low bits that are not there. Raises where memory was given back."""
        p, g, m, v, n, h, low = self
        found = (p.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), n.data_ptr(), h.data_ptr())
        if 0 in found:
            raise RuntimeError("Adan: the memory of a parameter, its gradient or its state has been given back")
        return (*found, 0 if low is None else low.data_ptr())

    def same_layout(self) -> bool:
        """Whether the tensors are of one shape, dense, and of one order of elements, so that index i is i in all."""
        p, g, m, v, n, h, low = self
        sizes = p.is_same_size(g) and p.is_same_size(m) and p.is_same_size(v) and p.is_same_size(n)
        if not (sizes and p.is_same_size(h) and (low is None or p.is_same_size(low))):
            return False
        contiguous = p.is_contiguous() and g.is_contiguous() and m.is_contiguous() and v.is_contiguous()
        if contiguous and n.is_contiguous() and h.is_contiguous() and (low is None or low.is_contiguous()):
            return True
        strides = p.stride()
        return is_dense(p) and all(tensor.stride() == strides for tensor in self if tensor is not None)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory without holes or overlap, in whatever order of dimensions."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != extent:
            return False
        extent *= size
    return True


def in_layout_of(tensor: Tensor, param: Tensor) -> Tensor:
    """The tensor, copied only if its elements lie in another order than those of a dense `param`."""
    if tensor.stride() == param.stride() or (tensor.is_contiguous() and param.is_contiguous()) or not is_dense(param):
        return tensor
    return torch.empty_like(param, dtype=tensor.dtype).copy_(tensor)
