"""Which range of which parameter lies where in the tensors that an optimizer works on.

A checkpoint stores the optimizer's state by parameter name, in slices of the flattened parameter. All that plain torch,
DDP and DeepSpeed's stages differ in is a list of `Fragment`; DeepSpeed's lists are made in `zero_fragments`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nlp_adan.errors import UserError


@dataclass(frozen=True, eq=False)
class Fragment:
    """Elements [begin, end) of the flattened parameter `name`, row by row, and where the optimizer works on them.

    They are the elements from `offset` on of `owner`, which is a key of the optimizer's `state`. Its state tensors have
    the owner's shape: either the parameter itself, or one flat tensor of the parts of many.
    """

    name: str
    begin: int
    end: int
    owner: Tensor
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        """The fragment's elements in a tensor of the owner's shape, 1-D: a view, or a copy of what is not dense."""
        return tensor.detach().reshape(-1)[self.offset : self.offset + self.end - self.begin]

    def put(self, tensor: Tensor, values: Tensor) -> None:
        """Write the fragment's elements, 1-D, into a tensor of the owner's shape."""
        if tensor.is_contiguous():
            tensor.detach().view(-1)[self.offset : self.offset + self.end - self.begin].copy_(values)
        else:  # a whole parameter in another order of memory
            tensor.detach().copy_(values.view(tensor.shape))


@dataclass(frozen=True)
class ParameterFacts:
    """What a checkpoint says about a parameter: of the whole, whatever part of it a rank holds."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Layout:
    """What this rank's optimizer holds.

    Attributes:
        base: the torch optimizer that steps.
        fragments: what this rank owns; every parameter that is trained, whole, where `replicated`.
        groups: names of the parameters of each of `base.param_groups`, in their order, over all ranks.
        parameters: every name in `groups`.
        replicated: whether every rank has everything. Each then writes its share of it.
        zero_stage: DeepSpeed's; None without DeepSpeed.
        engine: DeepSpeed's engine, which has counters and the loss scale; None without DeepSpeed.
    """

    base: torch.optim.Optimizer
    fragments: list[Fragment]
    groups: list[list[str]]
    parameters: Mapping[str, ParameterFacts]
    replicated: bool
    zero_stage: int | None = None
    engine: Any = None

    @property
    def masters(self) -> bool:
        """Whether the optimizer works on float32 copies of a model of lower precision."""
        return any(self.is_master(fragment) for fragment in self.fragments)

    def is_master(self, fragment: Fragment) -> bool:
        """Whether the fragment's owner is more precise than the model's parameter."""
        return fragment.owner.dtype != self.parameters[fragment.name].dtype

    def owners(self) -> Iterator[tuple[dict[str, Any], list[Fragment]]]:
        """The fragments of each owner, with the options of its parameter group."""
        group_of = {name: index for index, names in enumerate(self.groups) for name in names}
        by_owner: dict[int, list[Fragment]] = {}
        for fragment in self.fragments:
            by_owner.setdefault(id(fragment.owner), []).append(fragment)
        for fragments in by_owner.values():
            yield self.base.param_groups[group_of[fragments[0].name]], fragments


def fragments_of(model: nn.Module, optimizer: Any) -> Layout:
    """What this rank's optimizer holds of the model's parameters.

    Args:
        model: as it is trained: plain, compiled, in DistributedDataParallel, or DeepSpeed's engine.
        optimizer: torch's, DeepSpeed's, or accelerate's wrapper of one.

    Raises: UserError for what DeepSpeed does with an optimizer and checkpoints do not know; it says what to change.
    """
    while type(optimizer).__module__.startswith("accelerate."):
        optimizer = optimizer.optimizer
    engine = _deepspeed_engine(model)
    if engine is None:
        if type(optimizer).__module__.startswith("deepspeed."):
            raise TypeError(
                f"{type(optimizer).__name__} comes with DeepSpeed's engine, not with {type(model).__name__}"
            )
        return whole_parameters(optimizer, names_of(model))
    from nlp_adan.training.checkpoint.zero_fragments import layout_of_engine

    return layout_of_engine(engine, names_of(model))


def whole_parameters(base: torch.optim.Optimizer, names: Mapping[Tensor, str], **more: Any) -> Layout:
    """The layout of an optimizer that works on the model's own parameters. `more`: of `Layout`'s attributes."""
    fragments, groups, facts = [], [], {}
    for group in base.param_groups:
        trained = [param for param in group["params"] if _is_trained(param, base)]
        for param in trained:
            name = name_of(param, names)
            if type(param) not in (Tensor, nn.Parameter):
                raise TypeError(
                    f"{name} is a {type(param).__name__}, of which this rank may have a part: FSDP has files"
                )
            fragments.append(Fragment(name, 0, param.numel(), param, 0))
            facts[name] = ParameterFacts(tuple(param.shape), param.dtype)
        groups.append([names[param] for param in trained])
    return Layout(base, fragments, groups, facts, replicated=True, **more)


def _is_trained(param: Tensor, base: torch.optim.Optimizer) -> bool:
    """One without elements is not, as under ZeRO; one that was frozen on the way still has its state."""
    return param.numel() > 0 and (param.requires_grad or bool(base.state.get(param)))


def names_of(model: nn.Module) -> dict[Tensor, str]:
    """The name of each parameter in the model as it was before it was wrapped; of a tied one the first."""
    while True:
        if isinstance(model, DistributedDataParallel) or _deepspeed_engine(model) is not None:
            model = model.module
        elif hasattr(model, "_orig_mod"):  # compiled
            model = model._orig_mod
        else:
            return {param: name.replace("_orig_mod.", "") for name, param in model.named_parameters()}


def name_of(param: Tensor, names: Mapping[Tensor, str]) -> str:
    """A parameter's name. Raises UserError for one that the optimizer has and the model does not."""
    if param not in names:
        raise UserError(
            f"checkpoints: the optimizer has a parameter of shape {tuple(param.shape)} that the model does not have; "
            "give it the parameters of the model that is trained, after the last change of its layers"
        )
    return names[param]


def _deepspeed_engine(model: Any) -> Any:
    """The model, where it is DeepSpeed's engine."""
    if "deepspeed" not in sys.modules:
        return None
    from deepspeed import DeepSpeedEngine

    return model if isinstance(model, DeepSpeedEngine) else None
