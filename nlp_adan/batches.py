"""The parameters of a group, sorted by what can go through a back end at once.

This is all the Python of a step, some microseconds a parameter: with many small ones it is what a step costs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlp_adan.clipping import local_part
from nlp_adan.kernels import Step, eager, fused_back_end
from nlp_adan.kernels.operands import Operands, in_layout_of


class Batch(NamedTuple):
    """Parameters that share back end, device, dtypes and, unless it is read on the device, their number of updates."""

    operands: list[Operands]
    steps: list[Tensor]
    number: float | None  # of this update; None where the counters say it on the device
    run: Step

    def update_number(self) -> float | Tensor:
        """One number for all, or those of each on the device, shape (T,), float64."""
        if self.number is not None:
            return self.number
        steps = torch.stack(self.steps)
        return steps if steps.device.type == "mps" else steps.double()  # Apple's GPUs have no float64


def wants_fused(group: dict[str, Any]) -> bool:
    """Whether the options of a group leave room for a fused back end."""
    return bool(group["fused"]) or (group["fused"] is None and group["foreach"] is None)


def sort_into_batches(params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> list[Batch]:
    """Batches of parameters that have a gradient, with counters that are advanced already. Empty ones are left out."""
    batches: dict[Any, Batch] = {}
    fusing, together = wants_fused(group), bool(group["foreach"])
    step_name = "capturable_step" if group["capturable"] else "step"
    for param, state in zip(params, states, strict=True):
        operands = _operands(param, state)
        local, device, step = operands.param, operands.param.device, state["step"]
        if local.numel() == 0:
            continue
        back_end = fused_back_end(device) if fusing and operands.on_one_device() else None
        fused = back_end is not None and back_end.takes(operands)
        run = getattr(back_end, step_name) if fused else eager.step
        number = None if group["capturable"] or step.device.type != "cpu" else step.item()
        apart = not fused and not together and (group["foreach"] is False or device.type == "cpu")
        low_bits = operands.low_bits is not None
        dtypes = (local.dtype, operands.grad.dtype, operands.exp_avg.dtype, low_bits)
        key = (run, number, device, dtypes, len(batches) if apart else None)
        if key not in batches:
            batches[key] = Batch([], [], number, run)
        batches[key].operands.append(operands)
        batches[key].steps.append(step)
    on_host = any(batch.number is not None and batch.operands[0].param.is_cuda for batch in batches.values())
    if on_host and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("Adan: a step inside a CUDA graph would repeat one count of steps; pass capturable=True")
    return list(batches.values())


def _operands(param: Tensor, state: dict[str, Tensor]) -> Operands:
    """Plain local tensors: of a DTensor this rank's part, of a complex one its real view."""
    grad = param.grad
    assert grad is not None
    tensors = [
        param, grad, state["exp_avg"], state["exp_avg_diff"], state["exp_avg_sq"], state["neg_pre_grad"],
        state.get("param_low_bits"),
    ]  # fmt: skip
    if hasattr(param, "placements"):
        if grad.placements != param.placements:
            tensors[1] = grad.redistribute(placements=param.placements)
        tensors = [None if tensor is None else local_part(tensor) for tensor in tensors]
    if param.is_complex():
        tensors[1] = tensors[1].resolve_conj()
        tensors = [None if tensor is None else torch.view_as_real(tensor) for tensor in tensors]
    tensors[1] = tensors[1].resolve_neg()  # autograd may hand out a view that is negative by a flag only
    if tensors[6] is not None:
        tensors[6] = tensors[6].view(torch.int16)
    operands = Operands._make(tensors)
    if not operands.grad.is_contiguous():
        return operands._replace(grad=in_layout_of(operands.grad, operands.param))
    return operands
