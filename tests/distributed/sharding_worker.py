"""What Adan does with sharded parameters, on two ranks: the cases of test_adan_sharded.py. Prints a line a case."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from nlp_adan import Adan
from nlp_adan.errors import ranks_leave_at_once

OPTIONS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.02}


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 15), torch.nn.Tanh(), torch.nn.Linear(15, 3))


def train(model: torch.nn.Module, optimizer: Adan, rank: int | None) -> None:
    """Ten steps on batches of 8, or on this rank's half of them."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        inputs = torch.randn(8, 7, generator=generator)
        optimizer.zero_grad()
        model(inputs if rank is None else inputs[rank * 4 : rank * 4 + 4]).square().mean().backward()
        optimizer.step()


def fsdp2(rank: int, max_grad_norm: float) -> str:
    """Largest difference of a parameter to one process on the whole batch."""
    whole, sharded = network(), network()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (sharded[0], sharded[2], sharded):
        fully_shard(layer, mesh=mesh)
    for model, part in ((whole, None), (sharded, rank)):
        train(model, Adan(model.parameters(), max_grad_norm=max_grad_norm, **OPTIONS), part)
    pairs = zip(whole.parameters(), sharded.parameters(), strict=True)
    return str(max((a - b.full_tensor()).abs().max().item() for a, b in pairs))


def fsdp1(rank: int, use_orig_params: bool) -> str:
    """The refusal of max_grad_norm."""
    model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    try:
        train(model, Adan(model.parameters(), max_grad_norm=0.1, **OPTIONS), rank)
    except ValueError as error:
        return f"refused: {error}"
    return "accepted"


def deepspeed(rank: int, stage: int) -> str:
    """The refusal of max_grad_norm, in an optimizer that DeepSpeed was handed ready-made."""
    import deepspeed

    model = network()
    config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": stage}}
    adan = Adan(model.parameters(), max_grad_norm=0.1, **OPTIONS)
    engine, *_ = deepspeed.initialize(model=model, optimizer=adan, config=copy.deepcopy(config))
    try:
        engine.backward(engine(torch.ones(4, 7) * (rank + 1)).square().mean())
        engine.step()
    except ValueError as error:
        return f"refused: {error}"
    return "accepted"


CASES: dict[str, Callable[[int], str]] = {
    "fsdp2": lambda rank: fsdp2(rank, 0.0),
    "fsdp2 clipped": lambda rank: fsdp2(rank, 0.05),
    "fsdp1 flat": lambda rank: fsdp1(rank, False),
    "fsdp1 original parameters": lambda rank: fsdp1(rank, True),
    "zero 1": lambda rank: deepspeed(rank, 1),
    "zero 2": lambda rank: deepspeed(rank, 2),
    "zero 3": lambda rank: deepspeed(rank, 3),
}


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, case in CASES.items():
        result = case(rank)
        if rank == 0:
            print(f"CASE {name}: {result}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with ranks_leave_at_once():
        main()
