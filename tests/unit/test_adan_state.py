"""Adan's state: narrow dtypes, the low bits of bfloat16 parameters, and checkpoints of other Adans."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from nlp_adan import Adan
from nlp_adan.state_formats import STATE_NAMES

BACK_ENDS: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}]


def steps(optimizer: Adan, params: list[torch.nn.Parameter], num_steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(torch.bfloat16).to(param.dtype)
        optimizer.step()


@pytest.mark.parametrize(
    ("param", "asked", "narrow", "wide"),
    [
        (torch.float32, None, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16, torch.float32),
        (torch.bfloat16, None, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32, torch.float32),
        (torch.float16, None, torch.float32, torch.float32),
        (torch.float64, torch.bfloat16, torch.float64, torch.float64),
        (torch.complex64, torch.bfloat16, torch.complex64, torch.complex64),
    ],
    ids=str,
)
def test_dtypes_of_the_states_also_after_loading(
    param: torch.dtype, asked: Any, narrow: torch.dtype, wide: torch.dtype
) -> None:
    weights = [torch.nn.Parameter(torch.ones(3, dtype=param)) for _ in range(2)]
    first, second = (Adan([weight], state_dtype=asked) for weight in weights)
    weights[0].grad = torch.full((3,), 0.3, dtype=param)
    first.step()
    second.load_state_dict(first.state_dict())
    for optimizer, weight in ((first, weights[0]), (second, weights[1])):
        state = optimizer.state[weight]
        assert [state[name].dtype for name in STATE_NAMES] == [narrow, narrow, wide, narrow]
        assert ("param_low_bits" in state) == (param == torch.bfloat16)
    for name in first.state[weights[0]]:
        assert torch.equal(first.state[weights[0]][name], second.state[weights[1]][name]), name


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_bfloat16_parameters_are_the_rounded_ones_of_a_float32_run(back_end: dict[str, Any]) -> None:
    """With the low bits kept, and states of the same dtype, nothing is lost: equal bit for bit after 300 steps."""
    start = torch.randn(1000).bfloat16()
    narrow, exact = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    options = {"lr": 1e-4, "weight_decay": 0.02, "state_dtype": torch.float32, **back_end}
    steps(Adan([narrow], **options), [narrow], 300)
    steps(Adan([exact], **options), [exact], 300)
    # Compiled code may fuse a product and a sum in one loop and not in the other: one unit in the last place, seldom.
    assert (narrow.float() != exact.bfloat16().float()).float().mean() <= 0.002


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_updates_below_the_spacing_of_bfloat16_add_up_only_with_low_bits(back_end: dict[str, Any]) -> None:
    """100 updates of 1e-4 move a weight of 1, whose neighbours in bfloat16 are 4e-3 away, by 1e-2; or not at all."""
    moved = []
    for keep_low_bits in (True, False):
        param = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
        optimizer = Adan([param], lr=1e-4, keep_low_bits=keep_low_bits, **back_end)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        moved.append(1.0 - param.float().mean().item())
    assert moved == [pytest.approx(1e-2, abs=2e-3), 0.0]


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_low_bits_of_extreme_values(back_end: dict[str, Any]) -> None:
    """A NaN stays one, the largest and the smallest numbers stay, signs too."""
    values = torch.tensor([float("nan"), 3.38e38, -3.38e38, 0.0, -0.0, 1e-40, 1.0, -1.5])
    param = torch.nn.Parameter(values.bfloat16())
    before = param.detach().clone()
    optimizer = Adan([param], lr=0.0, **back_end)
    for _ in range(2):
        param.grad = torch.ones_like(param)
        optimizer.step()
    assert torch.equal(param.isnan(), before.isnan())
    assert torch.equal(param.nan_to_num(), before.nan_to_num())


def test_a_bfloat16_run_goes_on_exactly_from_its_state() -> None:
    start = torch.randn(50).bfloat16()
    whole, resumed = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = Adan([whole], lr=1e-3)
    steps(one, [whole], 10)
    saved, weights = copy.deepcopy(one.state_dict()), whole.detach().clone()
    steps(one, [whole], 10, seed=1)
    with torch.no_grad():
        resumed.copy_(weights)
    two = Adan([resumed], lr=1e-3)
    two.load_state_dict(saved)
    steps(two, [resumed], 10, seed=1)
    assert torch.equal(whole, resumed)


def trained(**options: Any) -> tuple[list[torch.nn.Parameter], Adan]:
    params = [torch.nn.Parameter(torch.linspace(-1, 1, size)) for size in (3, 4)]
    groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "lr": 0.2}]
    optimizer = Adan(groups, lr=0.1, **options)
    steps(optimizer, params, 3)
    return params, optimizer


def of_the_authors(state_dict: dict[str, Any]) -> dict[str, Any]:
    """What the authors' code saves at the same point: one count of steps a group, none in the states."""
    groups = []
    for group in state_dict["param_groups"]:
        names = ("params", "lr", "betas", "eps", "weight_decay", "max_grad_norm", "no_prox")
        groups.append({**{name: group[name] for name in names}, "foreach": True, "fused": False, "step": 3})
    states = {
        number: {name: value.clone() for name, value in state.items() if name != "step"}
        for number, state in state_dict["state"].items()
    }
    return {"state": states, "param_groups": groups}


@pytest.mark.parametrize("kind", ["authors", "timm", "ours", "official_state_dict"])
def test_checkpoints_of_other_adans_go_on(kind: str) -> None:
    params, optimizer = trained()
    if kind == "official_state_dict":
        saved = copy.deepcopy(optimizer.official_state_dict())
        expected = of_the_authors(optimizer.state_dict())
        assert saved["param_groups"] == expected["param_groups"]
        assert saved["state"].keys() == expected["state"].keys()
        for number, state in expected["state"].items():
            assert saved["state"][number].keys() == state.keys()
            assert all(torch.equal(saved["state"][number][name], value) for name, value in state.items())
    elif kind == "ours":
        saved = copy.deepcopy(optimizer.state_dict())
    else:
        saved = of_the_authors(optimizer.state_dict())
        if kind == "timm":
            for group in saved["param_groups"]:
                del group["fused"], group["max_grad_norm"]
                group.update(caution=False, foreach=None)
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = Adan([{"params": twins[:1]}, {"params": twins[1:]}])
    given = copy.deepcopy(saved)
    other.load_state_dict(saved)
    assert str(saved) == str(given), "the caller's dict is left as it is"
    assert other.param_groups[0]["foreach"] is None, "a checkpoint does not choose the back end"
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.2]
    steps(optimizer, params, 3, seed=1)
    steps(other, twins, 3, seed=1)
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)


def test_official_state_dict_counts_the_steps_of_the_parameter_that_took_most() -> None:
    params, optimizer = trained()
    params[0].grad = None
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    seldom = optimizer.param_groups[2]["params"]
    optimizer.param_groups[0]["params"] += seldom
    del optimizer.param_groups[2]
    seldom[0].grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 3 and optimizer.state[seldom[0]]["step"] == 1
    assert [group["step"] for group in optimizer.official_state_dict()["param_groups"]] == [3, 4]


def test_official_state_dict_after_a_restart_starts_anew() -> None:
    _, optimizer = trained(restart_interval=3)
    saved = optimizer.official_state_dict()
    assert all(group["step"] == 0 for group in saved["param_groups"])
    assert all(not state["exp_avg"].any() for state in saved["state"].values())
    _, optimizer = trained(maximize=True)
    with pytest.raises(ValueError, match="maximize"):
        optimizer.official_state_dict()


def test_checkpoints_that_are_not_adans_are_refused() -> None:
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    adam = torch.optim.AdamW([param])
    adam.step()
    with pytest.raises(ValueError, match="another optimizer"):
        Adan([param]).load_state_dict(adam.state_dict())
    momentum = torch.optim.SGD([param], momentum=0.9)
    momentum.step()
    with pytest.raises(ValueError, match="lacks exp_avg"):
        Adan([param]).load_state_dict(momentum.state_dict())
    _, optimizer = trained()
    cautious = of_the_authors(optimizer.state_dict())
    cautious["param_groups"][0]["caution"] = True
    with pytest.raises(ValueError, match="caution"):
        trained()[1].load_state_dict(cautious)


def test_a_gap_without_gradients_is_spanned_by_the_next_difference() -> None:
    """Steps with grad None neither count nor move: the run equals one that never had them."""
    results: list[Tensor] = []
    for gap in (0, 3):
        param, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))
        optimizer = Adan([param, other], lr=0.1)
        for grad in (1.0, *[None] * gap, 2.0):
            param.grad = None if grad is None else torch.full((2,), grad)
            other.grad = torch.ones(1)
            optimizer.step()
        assert optimizer.state[param]["step"] == 2 and optimizer.state[other]["step"] == 2 + gap
        results.append(param.detach())
    assert torch.equal(*results)
