"""Which parameters decay: weight matrices and embeddings do, biases and normalisation scales do not."""

from __future__ import annotations

from typing import Any

from torch import nn


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to.

    A parameter of two or more dimensions decays unless it belongs to a normalisation layer; one of fewer (a bias, a
    scale) does not. A tied parameter has its first name only. Parameters that ZeRO-3 has already partitioned count
    with the shape they had.
    """
    names: list[str] = []
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, param in module.named_parameters(prefix=prefix, recurse=False):
            num_dimensions = len(getattr(param, "ds_shape", param.shape))
            if param not in seen and num_dimensions >= 2 and not is_norm:
                names.append(name)
            seen.add(param)
    return names


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups for an optimizer: the decayed parameters, then the others with weight decay 0.

    Frozen parameters are left out, and a group that would be empty is not made.
    """
    decayed_names = set(decay_parameter_names(model))
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, param in model.named_parameters():
        if param.requires_grad:
            groups[0 if name in decayed_names else 1]["params"].append(param)
    return [group for group in groups if group["params"]]
