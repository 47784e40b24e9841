"""What users and engines do to an optimizer behind its back: nothing may corrupt memory or numbers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from nlp_adan import Adan
from nlp_adan.kernels import cpu

BACK_ENDS: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}]


def parameter(value: torch.Tensor | None = None) -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.linspace(-1, 1, 70_001) if value is None else value)
    param.grad = torch.ones_like(param)
    return param


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_state_given_another_dtype_is_read_as_what_it_is(name: str, dtype: torch.dtype) -> None:
    param, twin = parameter(), parameter()
    optimizers = [Adan([param], lr=0.1), Adan([twin], lr=0.1, foreach=True)]
    for tensor, optimizer in zip((param, twin), optimizers, strict=True):
        optimizer.step()
        optimizer.state[tensor][name] = optimizer.state[tensor][name].to(dtype)
        optimizer.step()
    torch.testing.assert_close(param, twin, rtol=0, atol=1e-5)


def test_memory_given_back_is_an_error() -> None:
    param = parameter()
    optimizer = Adan([param])
    optimizer.step()
    param.grad.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="given back"):
        optimizer.step()


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("second", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_a_module_given_another_dtype_goes_on(first: Any, second: Any, back_end: dict[str, Any]) -> None:
    """A constant gradient: each step goes lr far."""
    model = torch.nn.Linear(40_000, 2).to(first)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = Adan(model.parameters(), lr=0.125, **back_end)
    for dtype in (first, second, second):
        model.to(dtype)
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()
    torch.testing.assert_close(model.weight.float(), torch.full((2, 40_000), 0.625), rtol=0, atol=0.01)


@pytest.mark.parametrize("state_dtype", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep_low_bits", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_tensors_of_several_pieces(dtype: torch.dtype, state_dtype: Any, keep_low_bits: bool) -> None:
    """70 001 elements are three pieces of work and a tail: the addresses of each are right, for every dtype."""
    start = torch.randn(70_001).to(dtype)
    fused, eager = parameter(start.clone()), parameter(start.clone())
    options = {"lr": 0.01, "state_dtype": state_dtype, "keep_low_bits": keep_low_bits}
    optimizers = [Adan([fused], fused=True, **options), Adan([eager], foreach=True, **options)]
    for _ in range(3):
        grad = (1.0 + 0.2 * torch.randn(70_001)).to(dtype)
        for param, optimizer in zip((fused, eager), optimizers, strict=True):
            param.grad = grad.clone()
            optimizer.step()
    spacing = {torch.float32: 1e-3, torch.bfloat16: 2**-6, torch.float16: 2**-8}[dtype]
    torch.testing.assert_close(fused, eager, rtol=spacing, atol=1e-3)
    for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"):
        ours, theirs = (o.state[p][name] for o, p in zip(optimizers, (fused, eager), strict=True))
        torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=1e-3)


def test_a_gradient_that_is_negative_by_a_flag_only() -> None:
    a, b = (torch.nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    (torch.complex(a, b).conj() * (2 + 3j)).real.backward()
    assert b.grad is not None and b.grad.is_neg() and b.grad == 3
    Adan([a, b], lr=0.1).step()
    assert b.item() == pytest.approx(0.9)


@pytest.mark.parametrize("back_end", [*BACK_ENDS, {"foreach": True, "capturable": True}], ids=str)
@pytest.mark.parametrize("how", ["restart", "restart_interval"])
def test_a_restart_forgets_a_nan(back_end: dict[str, Any], how: str) -> None:
    param = parameter(torch.ones(3))
    optimizer = Adan([param], lr=0.1, restart_interval=1 if how == "restart_interval" else 0, **back_end)
    param.grad = torch.tensor([float("nan"), 1.0, 1.0])
    optimizer.step()
    with torch.no_grad():
        param.fill_(1.0)
    if how == "restart":
        optimizer.restart()
    param.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize("found_inf", [torch.tensor(1.0), torch.tensor([1.0]), torch.tensor(2.0)], ids=str)
@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_a_skipped_step_is_not_counted_whatever_found_inf_looks_like(found_inf: Any, back_end: dict[str, Any]) -> None:
    param, empty = parameter(torch.ones(3)), parameter(torch.ones(0))
    optimizer: Any = Adan([param, empty], **back_end)
    optimizer.step()
    before = param.detach().clone()
    optimizer.found_inf = found_inf
    optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"] == optimizer.state[empty]["step"] == 1


def test_fake_tensors_leave_nothing_behind() -> None:
    with FakeTensorMode():
        param = parameter(torch.ones(3))
        Adan([param], foreach=True, capturable=True).step()
        with pytest.raises(DataDependentOutputException):  # as torch's own: the counter has no value to read
            Adan([param]).step()
    real = parameter(torch.ones(3))
    Adan([real], lr=0.1).step()
    torch.testing.assert_close(real.detach(), torch.full((3,), 0.9))


def test_the_first_build_does_not_mind_the_default_dtype_and_device() -> None:
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    try:
        cpu._library.cache_clear()
        assert cpu.available()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_a_graph_that_saved_a_parameter_knows_that_it_has_changed() -> None:
    param = parameter(torch.ones(3))
    loss = param.square().sum()
    loss.backward(retain_graph=True)
    Adan([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_old_pickle_lacks_the_younger_options() -> None:
    param = parameter(torch.ones(3))
    optimizer = Adan([param], lr=0.1)
    for options in (optimizer.defaults, optimizer.param_groups[0]):
        for name in ("capturable", "keep_low_bits", "restart_interval"):
            del options[name]
    other = pickle.loads(pickle.dumps(optimizer))
    other.param_groups[0]["params"][0].grad = torch.ones(3)
    other.step()
    assert other.param_groups[0]["params"][0][0].item() == pytest.approx(0.9)


def test_looking_at_a_state_that_is_not_there() -> None:
    seen, other = parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    optimizer = Adan([seen, other])
    optimizer.step()
    assert not optimizer.state[other]  # which makes an empty one
    optimizer.restart()
    assert optimizer.official_state_dict()["param_groups"][0]["step"] == 0
    Adan([seen, other]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("step", [3, 3.0, torch.tensor(3), torch.tensor([3.0]), torch.tensor([3])], ids=repr)
@pytest.mark.parametrize("capturable", [False, True])
def test_a_step_in_a_checkpoint_may_look_like_this(step: Any, capturable: bool) -> None:
    params = [parameter(torch.ones(3)), parameter(torch.ones(2))]
    optimizer = Adan(params, capturable=capturable)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        del state["step"]
    saved["param_groups"][0]["step"] = step
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [4, 4]
    assert saved["param_groups"][0]["step"] is step and float(step) == 3


def test_hooks_of_others_see_and_change_what_is_loaded() -> None:
    param = parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = Adan([param])
    optimizer.step()
    saved, seen = copy.deepcopy(optimizer.state_dict()), []

    def unwrap(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        inner = copy.deepcopy(given["wrapped"])
        inner["state"][0]["exp_avg"].fill_(0.5)
        inner["state"][0]["exp_avg_sq"].fill_(0.25)
        return inner

    optimizer.register_load_state_dict_pre_hook(unwrap)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state[param]["exp_avg_sq"].dtype))
    optimizer.load_state_dict({"wrapped": saved})
    state = optimizer.state[param]
    assert torch.all(state["exp_avg"] == 0.5) and torch.all(state["exp_avg_sq"] == 0.25)
    assert seen == [torch.float32]


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer = Adan([parameter(torch.ones(3))], fused=True)
    with pytest.raises(ValueError, match="meta"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, device="meta"))]})
    assert len(optimizer.param_groups) == 1
