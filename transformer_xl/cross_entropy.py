"""Cross-entropy of a linear layer over a whole vocabulary, in one piece with that layer.

Kept apart, the two hold a (tokens, vocab) matrix four times: logits, log-probabilities, and the gradients of both. Here
the gradient is made where the logits stood: that much less memory, and on a CPU that many fewer passes over it.

Suffixes of names are their axes: n tokens, d width, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED_LABEL = -100
# Logits worked on at a time: on a CPU as many as its caches hold (2 MB), on a GPU enough to keep it busy.
CPU_BLOCK, GPU_BLOCK = 2**19, 2**26
ROWS_WITHOUT_GRADIENT = 512  # whose logits are in memory at a time where no backward pass follows


def linear_cross_entropy(hidden_nd: Tensor, weight_vd: Tensor, bias_v: Tensor, labels_n: Tensor) -> Tensor:
    """-log softmax(hidden weight^T + bias)[label] of each token; 0 where the label is -100.

    Args:
        hidden_nd, weight_vd, bias_v: of one floating type; in autocast they are cast to its type.
        labels_n: (n,) int64; one that is neither -100 nor below v is an error of torch's indexing.

    Returns: (n,) float32, or float64 for that; first derivatives only.
    """
    device = hidden_nd.device.type
    if torch.is_autocast_enabled(device) and hidden_nd.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        hidden_nd, weight_vd, bias_v = hidden_nd.to(dtype), weight_vd.to(dtype), bias_v.to(dtype)
    losses: Tensor = _LinearCrossEntropy.apply(hidden_nd, weight_vd, bias_v, labels_n, torch.is_grad_enabled())
    return losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_nd: Tensor, weight_vd: Tensor, bias_v: Tensor, labels_n: Tensor, keep: bool) -> Tensor:
        """keep: whether a backward pass may follow."""
        is_scored_n = labels_n != IGNORED_LABEL
        labels_n1 = torch.where(is_scored_n, labels_n, 0)[:, None]
        losses = []
        rows = max(len(hidden_nd), 1) if keep else ROWS_WITHOUT_GRADIENT
        for hidden, labels in zip(hidden_nd.split(rows), labels_n1.split(rows), strict=True):
            logits_nv = torch.addmm(bias_v, hidden, weight_vd.t())
            losses.append(_to_gradient(logits_nv, labels))
        if keep:
            ctx.save_for_backward(hidden_nd, weight_vd, logits_nv, is_scored_n)
        return torch.cat(losses).masked_fill_(~is_scored_n, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_nd, weight_vd, gradient_nv, is_scored_n = ctx.saved_tensors
        # What comes in scales rows: it goes to the narrow factors, not to the (n, v) one.
        scale_n1 = (gradients[0] * is_scored_n)[:, None].to(hidden_nd.dtype)
        hidden = (gradient_nv @ weight_vd) * scale_n1 if ctx.needs_input_grad[0] else None
        weight = gradient_nv.t() @ (hidden_nd * scale_n1) if ctx.needs_input_grad[1] else None
        bias = (scale_n1.t() @ gradient_nv)[0] if ctx.needs_input_grad[2] else None
        return hidden, weight, bias, None, None


def _to_gradient(logits_nv: Tensor, labels_n1: Tensor) -> Tensor:
    """The losses, (n,), of logits that become d loss / d logits = softmax - onehot(label) in place."""
    wide = torch.promote_types(logits_nv.dtype, torch.float32)
    rows = max((CPU_BLOCK if logits_nv.device.type == "cpu" else GPU_BLOCK) // logits_nv.shape[1], 1)
    losses = []
    for logits, labels in zip(logits_nv.split(rows), labels_n1.split(rows), strict=True):
        block = logits.to(wide)  # the logits themselves where they are so wide
        label_logits = block.gather(1, labels)
        largest = block.amax(dim=1, keepdim=True)
        sums = block.sub_(largest).exp_().sum(dim=1, keepdim=True)
        losses.append(sums.log() + largest - label_logits)
        block.div_(sums).scatter_add_(1, labels, block.new_full((len(block), 1), -1.0))
        if block is not logits:
            logits.copy_(block)
    return torch.cat(losses)[:, 0]
