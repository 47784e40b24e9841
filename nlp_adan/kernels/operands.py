"""What a back end works on: the tensors of one parameter, plain and local, and those of many."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """The tensors of one parameter's update, of one shape and on one device; all but `grad` are updated in place."""

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_diff: Tensor
    exp_avg_sq: Tensor
    neg_pre_grad: Tensor
    low_bits: Tensor | None  # int16, the lower half of the float32 value whose upper half is a bfloat16 `param`

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
