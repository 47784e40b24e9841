"""The norm of all gradients together, where Adan clips by itself; and where it cannot, because it sees a shard."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

REMEDY = {
    "an engine such as DeepSpeed": 'let the engine clip: "gradient_clipping" in a DeepSpeed configuration',
    "FSDP 1": "call clip_grad_norm_ of the FSDP module before the step",
}


def clip_factor(grads: list[Tensor], max_grad_norm: float, eps: float, scale: Tensor | None) -> Tensor:
    """min(1, max_grad_norm / (‖g‖ + ε)) with ‖g‖ the 2-norm of all `grads` together; a scalar, float32 or wider.

    The gradients are divided by `scale`, where it is given. Norms are taken in float32 at least: one rounded to
    bfloat16 would be off by up to 0.4 %. The norm of DTensors is that of the whole tensors, over all ranks.
    """
    device = local_part(grads[0]).device
    norms = [local_part(norm).to(device) for norm in map(_norm, _by_mesh(grads))]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if scale is not None:
        norm = norm / scale.to(device)
    return torch.clamp(max_grad_norm / (norm + eps), max=1.0)


def _by_mesh(grads: list[Tensor]) -> Iterable[list[Tensor]]:
    """Gradients that can be stacked: of one mesh of ranks, or of one device."""
    groups: dict[object, list[Tensor]] = {}
    for grad in grads:
        groups.setdefault(getattr(grad, "device_mesh", grad.device), []).append(grad)
    return groups.values()


def _norm(grads: list[Tensor]) -> Tensor:
    """The 2-norm of tensors of one device or mesh; for DTensors one reduction over the ranks."""
    grads = [torch.view_as_real(grad.resolve_conj()) if grad.is_complex() else grad for grad in grads]
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in grads]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def local_part(tensor: Tensor) -> Tensor:
    """Of a DTensor this rank's part; any other tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def refuse_shards(params: Iterable[Tensor], own: dict[int, weakref.ref[Tensor]]) -> None:
    """Raise ValueError if any parameter is a piece of what the user handed in, so that no norm can be known here.

    `own` holds every parameter that the optimizer was given, by its `id`. DeepSpeed's ZeRO puts flat shards of its own
    in their place; FSDP 1 marks its flat parameters and the views of them. DTensors know the whole.
    """
    for param in params:
        engine = None
        if getattr(param, "_fsdp_flattened", False) or type(param).__name__ == "FlatParameter":
            engine = "FSDP 1"
        elif not hasattr(param, "full_tensor") and (id(param) not in own or own[id(param)]() is not param):
            engine = "an engine such as DeepSpeed"
        if engine is not None:
            raise ValueError(
                f"Adan: max_grad_norm cannot be right on this rank: {engine} has put shards in the place of the "
                f"parameters, and a shard does not know the norm of all gradients. Set max_grad_norm=0 and "
                f"{REMEDY[engine]}."
            )
