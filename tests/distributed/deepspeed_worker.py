"""`deepspeed.initialize` with `"type": "Adan"` on two ranks: the cases of test_deepspeed.py."""

from __future__ import annotations

from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from nlp_adan import Adan
from nlp_adan.errors import ranks_leave_at_once
from nlp_adan.state_formats import STATE_NAMES
from tests.distributed.sharding_worker import network

OPTIONS: dict[str, Any] = {"lr": 1e-2, "betas": [0.9, 0.9, 0.99], "weight_decay": 0.1}


def groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    matrices = [param for param in model.parameters() if param.ndim > 1]
    vectors = [param for param in model.parameters() if param.ndim == 1]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def engine_of(model: torch.nn.Module, stage: int, **config: Any) -> Any:
    everything = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage, "sub_group_size": 40},
        "optimizer": {"type": config.pop("name", "Adan"), "params": {**OPTIONS, **config.pop("params", {})}},
        **config,
    }
    return deepspeed.initialize(model=model, model_parameters=groups(model), config=everything)[0]


def train(engine: Any, rank: int, dtype: torch.dtype = torch.float32, num_steps: int = 6) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        inputs = torch.randn(8, 7, generator=generator)[rank * 4 : rank * 4 + 4].to(dtype)
        engine.backward(engine(inputs).float().square().mean())
        engine.step()


def alone() -> tuple[torch.nn.Module, Adan]:
    """One process on the whole batch."""
    model = network()
    optimizer = Adan(groups(model), **{**OPTIONS, "betas": tuple(OPTIONS["betas"])})
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(8, 7, generator=generator)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def full_states(rank: int, stage: int) -> str:
    """Largest difference of a state from `safe_get_full_optimizer_state` to the one of one process."""
    from deepspeed.utils import safe_get_full_optimizer_state

    whole, optimizer = alone()
    model = network()
    train(engine_of(model, stage, name="adan"), rank)
    worst = 0.0
    for param, expected in zip(model.parameters(), whole.parameters(), strict=True):
        for name in STATE_NAMES:
            state = safe_get_full_optimizer_state(param, name)
            worst = max(worst, (state - optimizer.state[expected][name]).abs().max().item())
    return str(worst)


def bf16_weights(rank: int, stage: int) -> dict[str, torch.Tensor]:
    model = network()
    train(engine_of(model, stage, bf16={"enabled": True}), rank, torch.bfloat16)
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def bf16_stage_0(rank: int) -> str:
    """Largest difference to stage 2; before it, that an engine just made has changed nothing and counted nothing."""
    model = network()
    before = [param.detach().bfloat16().clone() for param in model.parameters()]
    engine = engine_of(model, 0, bf16={"enabled": True})
    masters = [param for group in engine.optimizer.optimizer.param_groups for param in group["params"]]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert isinstance(engine.optimizer.optimizer, Adan) and not engine.optimizer.optimizer.state, "a dummy step"
    assert len(masters) == len(before)
    first, second = bf16_weights(rank, 0), bf16_weights(rank, 2)
    return str(max((first[name] - second[name]).abs().max().item() for name in first))


def refusal(rank: int, **config: Any) -> str:
    try:
        engine_of(network(), 2, **config)
    except ValueError as error:
        return f"refused: {error}"
    return "accepted"


def main() -> None:
    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    results = {f"full states, stage {stage}": full_states(rank, stage) for stage in (1, 2, 3)}
    results["bf16, stage 0"] = bf16_stage_0(rank)
    results["two betas"] = refusal(rank, params={"betas": [0.9, 0.99]})
    results["max_grad_norm"] = refusal(rank, params={"max_grad_norm": 1.0})
    results["unknown key"] = refusal(rank, params={"beta": 1.0})
    results["a word for a number"] = refusal(rank, params={"lr": "1e-3"})
    for name, result in results.items():
        if rank == 0:
            print(f"CASE {name}: {result}", flush=True)


if __name__ == "__main__":
    with ranks_leave_at_once():
        main()
