"""What torch promises of its own fused optimizers, asked of Adan: compiled steps, GradScaler, capturable, layouts."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from nlp_adan import Adan

BACK_ENDS: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}, {"foreach": False}]


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))


def train(model: torch.nn.Module, optimizer: Adan, num_steps: int = 5, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 5, generator=generator)
        model(inputs.to(next(model.parameters()).dtype)).float().square().mean().backward()
        optimizer.step()
    return [param.detach().clone() for param in model.parameters()]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-6) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"foreach": True}], ids=str)
def test_compiled_training_step(options: dict[str, Any]) -> None:
    plain, compiled = network(), network()
    inputs = torch.randn(8, 5)

    def step_of(model: torch.nn.Module) -> Any:
        optimizer = Adan(model.parameters(), lr=1e-2, weight_decay=0.02, **options)

        def step() -> None:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()

        return step

    first, second = step_of(plain), torch.compile(step_of(compiled), backend="eager")
    for _ in range(4):
        first()
        second()
    assert_close(list(compiled.parameters()), list(plain.parameters()), tolerance=0)


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
def test_grad_scaler(back_end: dict[str, Any], max_grad_norm: float) -> None:
    """A scaled run equals an unscaled one; a step with an infinite gradient changes nothing and is not counted."""
    scaled, plain = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    options = {"lr": 1e-2, "max_grad_norm": max_grad_norm, **back_end}
    optimizer, reference = Adan(scaled.parameters(), **options), Adan(plain.parameters(), **options)
    assert optimizer._step_supports_amp_scaling == ("fused" in back_end)
    for number in range(5):
        inputs = torch.randn(8, 5)
        optimizer.zero_grad()
        scaler.scale(scaled(inputs).square().mean()).backward()
        before = [param.detach().clone() for param in scaled.parameters()]
        if number == 2:
            scaled[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if number == 2:
            assert_close(list(scaled.parameters()), before, tolerance=0)
            continue
        reference.zero_grad()
        plain(inputs).square().mean().backward()
        reference.step()
    assert_close(list(scaled.parameters()), list(plain.parameters()))
    assert all(state["step"] == 4 for state in optimizer.state.values())
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_complex_parameters_are_pairs_of_real_ones(back_end: dict[str, Any]) -> None:
    value = torch.randn(4, 3, dtype=torch.complex64)
    param, twin = torch.nn.Parameter(value.clone()), torch.nn.Parameter(torch.view_as_real(value).clone())
    optimizers = [Adan([tensor], lr=0.1, weight_decay=0.1, max_grad_norm=0.5, **back_end) for tensor in (param, twin)]
    for _ in range(3):
        param.grad = torch.randn(4, 3, dtype=torch.complex64)
        twin.grad = torch.view_as_real(param.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    assert_close([torch.view_as_real(param.detach())], [twin.detach()])


def layouts() -> dict[str, Tensor]:
    base = torch.randn(6, 4, 4, 2)
    return {
        "channels last": base.clone().contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(5, 9).t(),
        "with holes": torch.randn(10, 8)[:, ::2],
        "unaligned slice": torch.randn(40)[3:30],
        "empty": torch.randn(0, 3),
        "scalar": torch.randn(()),
    }


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
@pytest.mark.parametrize("grad_as_param", [True, False])
@pytest.mark.parametrize("name", layouts())
def test_layouts(back_end: dict[str, Any], grad_as_param: bool, name: str) -> None:
    value = layouts()[name]
    param, twin = torch.nn.Parameter(value.clone(memory_format=torch.preserve_format)), value.clone().contiguous()
    if name == "with holes":
        param = torch.nn.Parameter(torch.empty(10, 8)[:, ::2].copy_(value))
        assert not param.is_contiguous()
    twin = torch.nn.Parameter(twin)
    optimizers = [Adan([tensor], lr=0.1, weight_decay=0.1, **back_end) for tensor in (param, twin)]
    for _ in range(3):
        grad = torch.randn(value.shape)
        param.grad = torch.empty_like(param).copy_(grad) if grad_as_param else grad.clone()
        twin.grad = grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert_close([param.detach()], [twin.detach()])
    state = copy.deepcopy(optimizers[1].state_dict())  # of another layout than the parameter it is loaded for
    optimizers[0].load_state_dict(state)
    for tensor, optimizer in zip((param, twin), optimizers, strict=True):
        tensor.grad = torch.ones(value.shape)
        optimizer.step()
    assert_close([param.detach()], [twin.detach()])


def test_capturable_counts_each_parameter_by_itself() -> None:
    """With the counters read on the device, parameters of different age share one pass."""
    runs = []
    for capturable in (False, True):
        often, seldom = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(4))
        optimizer = Adan([often, seldom], lr=torch.tensor(0.1), weight_decay=0.1, capturable=capturable)
        for number in range(6):
            often.grad = torch.full((3,), 1.0 + number)
            seldom.grad = torch.full((4,), 2.0 - number) if number % 2 else None
            optimizer.step()
        assert optimizer.state[seldom]["step"] == 3
        runs.append([often.detach(), seldom.detach()])
    assert_close(runs[0], runs[1])


def test_maximize_goes_up() -> None:
    down, up = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    optimizers = [Adan([down], lr=0.1), Adan([up], lr=0.1, maximize=True)]
    for _ in range(3):
        grad = torch.randn(3)
        down.grad, up.grad = grad.clone(), grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(up.grad, grad)
    assert torch.equal(up, -down)


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=str)
def test_restart_interval_is_restart_every_so_often(back_end: dict[str, Any]) -> None:
    by_option, by_hand = network(), network()
    automatic = Adan(by_option.parameters(), lr=1e-2, restart_interval=3, **back_end)
    manual = Adan(by_hand.parameters(), lr=1e-2, **back_end)
    for seed in range(8):
        if seed and seed % 3 == 0:
            manual.restart()
        assert_close(train(by_option, automatic, 1, seed), train(by_hand, manual, 1, seed), tolerance=0)


def test_default_takes_the_fused_back_end_and_the_others_agree() -> None:
    results = [train(model := network(), Adan(model.parameters(), lr=1e-2, **options)) for options in ({}, *BACK_ENDS)]
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    for result in results[2:]:
        assert_close(result, results[0])


@pytest.mark.parametrize("how", [pickle.loads, copy.deepcopy])
def test_copies_keep_every_option_and_go_on(how: Any) -> None:
    model = network().bfloat16()
    options = {"state_dtype": torch.bfloat16, "restart_interval": 4, "max_grad_norm": 1.0, "capturable": True}
    optimizer = Adan(model.parameters(), lr=1e-2, **options)
    train(model, optimizer)
    pair = (model, optimizer)
    model_copy, optimizer_copy = how(pickle.dumps(pair)) if how is pickle.loads else how(pair)
    assert optimizer_copy.param_groups[0]["params"][0] is next(model_copy.parameters())
    assert_close(train(model_copy, optimizer_copy), train(model, optimizer), tolerance=0)
    assert optimizer_copy.defaults.items() >= optimizer.defaults.items()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": -1.0}, "lr.*-1.0"),
        ({"lr": float("nan")}, "lr.*nan"),
        ({"lr": None}, "lr.*None"),
        ({"lr": 1j}, "lr.*1j"),
        ({"eps": -1e-8}, "eps.*-1e-08"),
        ({"weight_decay": -0.1}, "weight_decay.*-0.1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm.*-1.0"),
        ({"betas": (0.9, 0.99)}, "three"),
        ({"betas": (0.9, 1.0, 0.99)}, "beta2.*1.0"),
        ({"betas": (0.9, 0.9, -0.1)}, "beta3.*-0.1"),
        ({"betas": (None, 0.9, 0.9)}, "beta1.*None"),
        ({"state_dtype": torch.float16}, "float16"),
        ({"state_dtype": "int8"}, "int8"),
        ({"foreach": True, "fused": True}, "exclude"),
        ({"fused": True, "device": "meta"}, "meta"),
        ({"fused": "yes"}, "yes"),
        ({"restart_interval": -1}, "-1"),
        ({"restart_interval": 2.5}, "2.5"),
        ({"no_prox": "false"}, "no_prox.*'false'"),
        ({"lr": torch.ones(2)}, "lr"),
        ({"lr": "1e-3"}, "lr.*'1e-3'"),
        ({"betas": 0.9}, "three"),
        ({"weight_decay": float("inf")}, "weight_decay"),
    ],
    ids=str,
)
def test_invalid_options_are_named(options: dict[str, Any], named: str) -> None:
    param = torch.nn.Parameter(torch.ones(2, device=options.pop("device", "cpu")))
    with pytest.raises(ValueError, match=named):
        Adan([param], **options)
    with pytest.raises(ValueError, match=named):
        Adan([{"params": [param], **options}])


def test_one_norm_for_all_groups() -> None:
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    with pytest.raises(ValueError, match="max_grad_norm"):
        Adan([{"params": params[:1], "max_grad_norm": 1.0}, {"params": params[1:]}])
