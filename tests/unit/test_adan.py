"""Adan as an optimizer: options, state, groups, restart, serialisation, and the gradients it must not touch."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

from nlp_adan import Adan
from nlp_adan.adan import STATE_NAMES
from nlp_adan.param_groups import decay_groups


def parameter(*values: float) -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.tensor(values))
    param.grad = torch.full_like(param, 0.5)
    return param


def test_official_state_names_and_a_step_per_parameter() -> None:
    often, seldom = parameter(1.0, 2.0), parameter(3.0)
    optimizer = Adan([often, seldom])
    optimizer.step()
    seldom.grad = None
    optimizer.step()
    assert set(optimizer.state[often]) == {"step", *STATE_NAMES}
    assert optimizer.state[often]["step"] == 2 and optimizer.state[seldom]["step"] == 1
    assert torch.equal(optimizer.state[often]["neg_pre_grad"], -torch.full((2,), 0.5))


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1, 100.0])
def test_the_gradient_is_not_changed(max_grad_norm: float) -> None:
    param = parameter(1.0, -2.0)
    optimizer = Adan([param], max_grad_norm=max_grad_norm)
    for _ in range(3):
        optimizer.step()
        assert param.grad is not None and torch.equal(param.grad, torch.full((2,), 0.5))


@pytest.mark.parametrize(
    "option", [{"lr": 0.5}, {"betas": (0.5, 0.5, 0.5)}, {"eps": 1.0}, {"weight_decay": 0.5},
               {"weight_decay": 0.5, "no_prox": True}, {"max_grad_norm": 0.1}],
)  # fmt: skip
def test_every_option_changes_the_trajectory(option: dict[str, Any]) -> None:
    """Also as an option of a group, on a stream of gradients that is not constant."""
    results = []
    for place in ("default", "constructor", "group"):
        param = parameter(1.0, -2.0)
        group = {"params": [param], **(option if place == "group" else {})}
        optimizer = Adan([group], **(option if place == "constructor" else {}))
        for gradient in (0.5, -0.1, 2.0):
            param.grad = torch.tensor([gradient, 0.3])
            optimizer.step()
        results.append(param.detach().clone())
    assert not torch.allclose(results[0], results[1], rtol=1e-7, atol=0)
    assert torch.equal(results[1], results[2])


def test_restart_makes_the_next_step_a_first_step() -> None:
    param, fresh = parameter(1.0), parameter(1.0)
    optimizer = Adan([param])
    for _ in range(3):
        optimizer.step()
    optimizer.restart_opt()
    with torch.no_grad():
        param.fill_(1.0)
    param.grad = torch.tensor([-0.7])
    fresh.grad = torch.tensor([-0.7])
    optimizer.step()
    Adan([fresh]).step()
    assert torch.equal(param, fresh)


@pytest.mark.parametrize("how", ["state_dict", "torch.save", "pickle", "deepcopy"])
def test_a_saved_optimizer_goes_on_exactly(how: str) -> None:
    param = parameter(1.0, -2.0)
    optimizer = Adan([param], lr=0.1, weight_decay=0.02)
    optimizer.step()
    if how == "pickle":
        other = pickle.loads(pickle.dumps(optimizer))
    elif how == "deepcopy":
        other = copy.deepcopy(optimizer)
    else:
        state = copy.deepcopy(optimizer.state_dict())
        if how == "torch.save":
            buffer = io.BytesIO()
            torch.save(state, buffer)
            buffer.seek(0)
            state = torch.load(buffer, weights_only=True)
        twin = torch.nn.Parameter(param.detach().clone())
        other = Adan([twin], lr=0.7)
        other.load_state_dict(state)
    twin = other.param_groups[0]["params"][0]
    assert twin is not param
    for p, o in ((param, optimizer), (twin, other)):
        p.grad = torch.tensor([0.25, -1.0])
        o.step()
    assert torch.equal(param, twin)


def test_closure_scheduler_and_added_group() -> None:
    first, second = parameter(1.0), parameter(1.0)
    optimizer = Adan([first], lr=0.1)
    optimizer.add_param_group({"params": [second], "lr": 0.2})
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    assert optimizer.step(lambda: 42) == 42
    scheduler.step()
    assert first.item() == pytest.approx(0.9) and second.item() == pytest.approx(0.8)
    optimizer.step()  # the gradient is constant: each step moves by its learning rate
    assert first.item() == pytest.approx(0.85) and second.item() == pytest.approx(0.7)


def test_sparse_gradients_are_refused() -> None:
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        Adan(embedding.parameters()).step()


def test_decay_groups() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    model.append(torch.nn.Linear(3, 5))
    model[3].weight = model[0].weight  # tied
    model[1].bias.requires_grad_(False)
    decayed, others = decay_groups(model, 0.02)
    assert [p.shape for p in decayed["params"]] == [(5, 3), (3, 3)] and decayed["weight_decay"] == 0.02
    assert len(others["params"]) == 3 and others["weight_decay"] == 0.0
