"""Optimizers with a state to save, what saves it, and how they are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts
from nlp_adan.training.checkpoint.optimizer_state import optimizer_files
from nlp_adan.training.checkpoint.tensor_files import write_tensor_file
from tests.unit.checkpoint_folders import Small

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

ADAN: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.8, 0.95)}
OPTIMIZERS: dict[str, Make] = {
    "Adan": lambda groups: Adan(groups, **ADAN),
    "Adan, eager": lambda groups: Adan(groups, fused=False, **ADAN),
    "Adan, bfloat16 states": lambda groups: Adan(groups, state_dtype="bfloat16", **ADAN),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9)),
    "AdamW, lr in a tensor": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(1e-2)),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=1e-2),
    "Adafactor": lambda groups: torch.optim.Adafactor(groups, lr=1e-2),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
}


class Odd(Small):
    """Parameters of every kind: besides `Small`'s one without entries, a frozen one and one that is not dense."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.empty = nn.Parameter(torch.ones(0, 3, dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(7, dtype=dtype), requires_grad=False)
        self.second.weight.data = self.second.weight.data.t().contiguous().t()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)) * self.frozen) * self.scale


def new(make: Make, dtype: torch.dtype = torch.float32) -> tuple[Odd, torch.optim.Optimizer]:
    model = Odd(dtype)
    matrices = [param for param in model.parameters() if param.ndim > 1]
    vectors = [param for param in model.parameters() if param.ndim <= 1]
    return model, make([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}])


def train(model: Odd, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(4, 5, generator=generator).to(model.scale.dtype)
        optimizer.zero_grad()
        model(inputs).float().square().mean().backward()
        for group in optimizer.param_groups:  # a schedule
            if isinstance(group["lr"], Tensor):
                group["lr"].mul_(0.9)
            else:
                group["lr"] *= 0.9
        optimizer.step()


def write(layouts: list[Layout], checkpoint: Path) -> Path:
    """What so many ranks write."""
    for rank, layout in enumerate(layouts):
        files, description = optimizer_files(layout, rank, len(layouts))
        for file in files:
            write_tensor_file(checkpoint, file)
    (checkpoint / "optimizer" / "optimizer.json").write_text(json.dumps(description, allow_nan=False))
    return checkpoint


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return type(one) is type(other) and one == other


def assert_same(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    """Parameters, states and options, bit by bit."""
    for group, twin in zip(one.param_groups, other.param_groups, strict=True):
        assert group.keys() == twin.keys()
        for name in group.keys() - {"params"}:
            assert equal(group[name], twin[name]), name
        for param, double in zip(group["params"], twin["params"], strict=True):
            assert torch.equal(param, double)
            assert dict(one.state.get(param, {})).keys() == dict(other.state.get(double, {})).keys()
            for name, value in one.state.get(param, {}).items():
                assert equal(value, other.state[double][name]), name


def flat(cuts: list[list[int]], shapes: list[tuple[int, ...]], padding: int) -> list[Layout]:
    """One rank each of an engine that cuts parameters anywhere and works on its pieces in one flat tensor a group."""
    names = [f"layer.{index}" for index in range(len(shapes))]
    facts = {name: ParameterFacts(shape, torch.bfloat16) for name, shape in zip(names, shapes, strict=True)}
    layouts = []
    for rank in range(len(cuts[0]) - 1):
        lengths = [cut[rank + 1] - cut[rank] for cut in cuts]
        owner = torch.zeros(sum(lengths) + padding)
        fragments, offset = [], padding // 2
        for name, cut, length in zip(names, cuts, lengths, strict=True):
            if length:
                fragments.append(Fragment(name, cut[rank], cut[rank + 1], owner, offset))
            offset += length
        layouts.append(Layout(Adan([owner]), fragments, [names], facts, replicated=False, zero_stage=2))
    return layouts
