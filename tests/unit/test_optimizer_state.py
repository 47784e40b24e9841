"""The optimizer's state of a checkpoint, as slices by name: what is written, read back, and refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.state_formats import STATE_NAMES
from nlp_adan.training.checkpoint import optimizer_parts
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts, fragments_of
from nlp_adan.training.checkpoint.optimizer_state import (
    load_optimizer_state,
    master_weights,
    optimizer_files,
    read_whole_state,
    shares,
)
from nlp_adan.training.checkpoint.tensor_files import write_tensor_file
from nlp_adan.training.checkpoint.zero_fragments import RELIED_UPON, check_layout, layout_of_engine

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


class Odd(nn.Module):
    """Parameters of every kind: matrices and vectors, a scalar, a frozen one, one without gradient, one not dense."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 7, dtype=dtype)
        self.second = nn.Linear(7, 3, dtype=dtype)
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.unused = nn.Parameter(torch.ones(4, dtype=dtype))
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


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("ranks", [1, 3])
def test_training_goes_on_bit_by_bit(name: str, ranks: int, tmp_path: Path) -> None:
    """Plain torch and DDP: each rank writes its share of the parameters, and any number of ranks reads them."""
    model, optimizer = new(OPTIMIZERS[name])
    train(model, optimizer, range(3))
    write([fragments_of(model, optimizer)] * ranks, tmp_path)
    weights = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(3, 6))

    resumed, loaded = new(OPTIMIZERS[name])
    resumed.load_state_dict(weights)
    load_optimizer_state(tmp_path, fragments_of(resumed, loaded))
    assert resumed.unused not in loaded.state and resumed.frozen not in loaded.state
    train(resumed, loaded, range(3, 6))
    assert_same(optimizer, loaded)


def test_bits_that_a_bfloat16_parameter_lacks(tmp_path: Path) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"], torch.bfloat16)
    train(model, optimizer, range(3))
    write([fragments_of(model, optimizer)] * 2, tmp_path)
    resumed, loaded = new(OPTIMIZERS["Adan"], torch.bfloat16)
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    load_optimizer_state(tmp_path, fragments_of(resumed, loaded))
    assert_same(optimizer, loaded)
    assert loaded.state[resumed.first.weight]["param_low_bits"].any()
    train(model, optimizer, range(3, 6))
    train(resumed, loaded, range(3, 6))
    assert_same(optimizer, loaded)


def test_states_in_the_dtype_that_this_start_asks_for(tmp_path: Path) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"])
    train(model, optimizer, range(3))
    write([fragments_of(model, optimizer)], tmp_path)
    resumed, loaded = new(OPTIMIZERS["Adan, bfloat16 states"])
    load_optimizer_state(tmp_path, fragments_of(resumed, loaded))
    for param, state in loaded.state.items():
        assert state["exp_avg"].dtype == torch.bfloat16 and state["exp_avg_sq"].dtype == torch.float32
        assert loaded.param_groups[0]["state_dtype"] is torch.bfloat16
        assert state["step"] == 3 and state["exp_avg"].shape == param.shape
    expected = optimizer.state[model.first.weight]["neg_pre_grad"].bfloat16()
    assert torch.equal(loaded.state[resumed.first.weight]["neg_pre_grad"], expected)


def test_options_as_they_stood(tmp_path: Path) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"])
    train(model, optimizer, range(1))
    optimizer.param_groups[0] |= {"lr": 0.1 + 0.2, "initial_lr": 0.5, "betas": (0.5, 0.6, 0.7), "clip": math.inf}
    optimizer.param_groups[0] |= {"function": print}  # nothing that JSON knows
    optimizer.param_groups[1] |= {"lr": torch.tensor(0.1)}
    write([fragments_of(model, optimizer)], tmp_path)
    resumed, loaded = new(OPTIMIZERS["Adan, eager"])
    held = torch.tensor(7.0)
    loaded.param_groups[0] |= {"clip": 1.0}
    loaded.param_groups[1] |= {"lr": held}
    load_optimizer_state(tmp_path, fragments_of(resumed, loaded))
    first, second = loaded.param_groups
    assert (first["lr"], first["initial_lr"], first["betas"]) == (0.1 + 0.2, 0.5, (0.5, 0.6, 0.7))
    assert first["clip"] == math.inf and first["weight_decay"] == 0.1 and "function" not in first
    assert second["lr"] is held and equal(held, torch.tensor(0.1))  # what a schedule holds
    assert first["fused"] is False, "how this start runs is its own"


def test_a_share_each_of_about_one_size() -> None:
    sizes = [1000, 400, 300, 300, 20, 3]
    dealt = shares([Fragment(str(size), 0, size, torch.empty(0), 0) for size in sizes], 2)
    assert sorted(fragment.end for share in dealt for fragment in share) == sorted(sizes)
    assert [sum(fragment.end for fragment in share) for share in dealt] == [1020, 1003]


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


@st.composite
def two_cuttings(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[list[int]], list[list[int]]]:
    shapes = draw(st.lists(st.lists(st.integers(1, 5), max_size=2).map(tuple), min_size=1, max_size=4))

    def cutting() -> list[list[int]]:
        """Of each parameter, where each rank's part begins, and its end."""
        ranks = draw(st.integers(1, 4))
        inner = [
            draw(st.lists(st.integers(0, math.prod(shape)), min_size=ranks - 1, max_size=ranks - 1)) for shape in shapes
        ]
        return [[0, *sorted(cuts), math.prod(shape)] for cuts, shape in zip(inner, shapes, strict=True)]

    return shapes, cutting(), cutting()


@given(two_cuttings(), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cutting_into_any_other(
    tmp_path_factory: pytest.TempPathFactory, cuttings: Any, padding: int, other_padding: int
) -> None:
    shapes, before, after = cuttings
    source, target = flat(before, shapes, padding), flat(after, shapes, other_padding)
    for rank, layout in enumerate(source):
        for param in layout.base.param_groups[0]["params"]:
            with torch.no_grad():
                param.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(rank)))
            param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(rank))
        layout.base.step()
    checkpoint = write(source, tmp_path_factory.mktemp("source"))
    whole = read_whole_state(checkpoint)
    assert whole.keys() == source[0].parameters.keys()
    for layout in source:  # what was read is what was written
        for fragment in layout.fragments:
            states = {**layout.base.state[fragment.owner], "master": fragment.owner}
            assert states.keys() == whole[fragment.name].keys() == {*STATE_NAMES, "step", "master"}
            for state in states.keys() - {"step"}:
                assert whole[fragment.name][state].shape == layout.parameters[fragment.name].shape
                mine = whole[fragment.name][state].reshape(-1)[fragment.begin : fragment.end]
                assert torch.equal(mine, fragment.of(states[state]))
    for layout in target:
        load_optimizer_state(checkpoint, layout)
        for fragment in layout.fragments:
            assert layout.base.state[fragment.owner]["step"] == 1
    again = read_whole_state(write(target, tmp_path_factory.mktemp("target")))
    for name, states in whole.items():
        assert states.keys() == again[name].keys()
        for state, value in states.items():
            assert equal(value, again[name][state])
    assert master_weights(checkpoint).keys() == whole.keys()


def test_only_what_a_rank_owns_is_read_and_nothing_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = flat([[0, 600, 1000]], [(10, 100)], 0)
    for layout in source:
        layout.base.param_groups[0]["params"][0].grad = torch.ones_like(layout.fragments[0].owner)
        layout.base.step()
    write(source, tmp_path)
    asked: list[int] = []

    class Slice:
        def __init__(self, found: Any) -> None:
            self.found = found

        def __getitem__(self, wanted: slice) -> Tensor:
            values: Tensor = self.found[wanted]
            asked.append(values.numel())
            return values

    class File:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = safe_open(*args, **kwargs)

        def __enter__(self) -> File:
            self.file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_slice(self, key: str) -> Slice:
            return Slice(self.file.get_slice(key))

        def get_tensor(self, key: str) -> Tensor:
            value: Tensor = self.file.get_tensor(key)
            asked.append(value.numel())
            return value

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(optimizer_parts, "safe_open", File)
    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    target = flat([[0, 550, 650, 1000]], [(10, 100)], 0)[1]  # from both parts
    load_optimizer_state(tmp_path, target)
    assert sum(asked) == 5 * 100 + 1, "four states and the master of 100 elements, and a step"


def test_one_counter_for_parameters_with_other_counts_is_refused(tmp_path: Path) -> None:
    """Without ZeRO each counts its own updates; in a flat tensor they share one."""
    model = nn.Linear(3, 2)
    optimizer = Adan(model.parameters())
    for _ in range(2):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    model.bias.grad = torch.ones_like(model.bias)
    optimizer.step()
    write([fragments_of(model, optimizer)], tmp_path)
    owner = torch.zeros(8)
    fragments = [Fragment("weight", 0, 6, owner, 0), Fragment("bias", 0, 2, owner, 6)]
    facts = {"weight": ParameterFacts((2, 3), torch.float32), "bias": ParameterFacts((2,), torch.float32)}
    target = Layout(Adan([owner]), fragments, [["weight", "bias"]], facts, replicated=False, zero_stage=2)
    with pytest.raises(UserError, match=r"step is 3.0 of weight and 1.0 of bias.*resume with the stage"):
        load_optimizer_state(tmp_path, target)


def test_a_parameter_without_state_is_zeros_beside_others(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = Adan(model.parameters())
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    write([fragments_of(model, optimizer)], tmp_path)
    assert read_whole_state(tmp_path).keys() == {"weight"}
    owner = torch.zeros(8)
    fragments = [Fragment("bias", 0, 2, owner, 0), Fragment("weight", 0, 6, owner, 2)]
    facts = {"weight": ParameterFacts((2, 3), torch.float32), "bias": ParameterFacts((2,), torch.float32)}
    target = Layout(Adan([owner]), fragments, [["bias", "weight"]], facts, replicated=False, zero_stage=2)
    load_optimizer_state(tmp_path, target)
    state = target.base.state[owner]
    assert state["step"] == 1 and not state["exp_avg"][:2].any() and state["exp_avg"][2:].all()


def test_a_matrix_of_its_own_shape_has_no_part_in_a_flat_tensor(tmp_path: Path) -> None:
    """Adafactor keeps sums of rows and columns."""
    model = nn.Linear(5, 7, bias=False)
    optimizer = torch.optim.Adafactor(model.parameters())
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    write([fragments_of(model, optimizer)], tmp_path)
    owner = torch.zeros(20)
    facts = {"weight": ParameterFacts((7, 5), torch.float32)}
    base = torch.optim.Adafactor([owner])
    layout = Layout(base, [Fragment("weight", 0, 20, owner, 0)], [["weight"]], facts, replicated=False, zero_stage=1)
    with pytest.raises(UserError, match=r"col_var of weight has the shape \(1, 5\).*resume without DeepSpeed"):
        load_optimizer_state(tmp_path, layout)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, optimizer = new(OPTIMIZERS["Adan"])
    train(model, optimizer, range(2))
    return write([fragments_of(model, optimizer)] * 3, tmp_path)


def load(checkpoint: Path, make: Make = OPTIMIZERS["Adan"]) -> None:
    model, optimizer = new(make)
    load_optimizer_state(checkpoint, fragments_of(model, optimizer))


def rewrite(part: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    with safe_open(part, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        slices = json.loads(file.metadata()["slices"])
    change(tensors, slices)
    save_file(tensors, part, {"slices": json.dumps(slices)})


def part_with(checkpoint: Path, key: str) -> Path:
    for part in (checkpoint / "optimizer").glob("part*"):
        with safe_open(part, "pt") as file:
            if key in file.keys():  # noqa: SIM118
                return part
    raise AssertionError(key)


def test_a_part_that_is_missing(saved: Path) -> None:
    (saved / "optimizer" / "part-00001-of-00003.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"part-00001-of-00003.safetensors is missing, 2 of 3 parts .*another checkpoint"
    ):
        load(saved)


def test_parts_of_two_checkpoints(saved: Path) -> None:
    part = saved / "optimizer" / "part-00001-of-00003.safetensors"
    part.rename(part.with_name("part-00001-of-00002.safetensors"))
    with pytest.raises(UserError, match="parts of several checkpoints"):
        load(saved)


def test_no_parts_and_no_description(saved: Path) -> None:
    for part in (saved / "optimizer").glob("part*"):
        part.unlink()
    with pytest.raises(UserError, match="no parts of an optimizer's state"):
        load(saved)
    (saved / "optimizer" / "optimizer.json").write_text("[]")
    with pytest.raises(UserError, match=r"optimizer.json cannot be read .*resume from another checkpoint"):
        load(saved)


def test_a_part_that_is_cut_off(saved: Path) -> None:
    part = saved / "optimizer" / "part-00000-of-00003.safetensors"
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"part-00000-of-00003.safetensors cannot be read"):
        load(saved)


def test_a_slice_that_no_part_has(saved: Path) -> None:
    def shorten(tensors: dict[str, Tensor], slices: dict[str, Any]) -> None:
        tensors["exp_avg_diff/first.weight"] = tensors["exp_avg_diff/first.weight"][:30].clone()
        slices["exp_avg_diff/first.weight"] = (0, 30)

    rewrite(part_with(saved, "exp_avg_diff/first.weight"), shorten)
    with pytest.raises(UserError, match=r"no part has elements 30 to 34 of exp_avg_diff of first.weight"):
        load(saved)


def test_a_state_that_is_missing(saved: Path) -> None:
    key = "neg_pre_grad/first.bias"

    def remove(tensors: dict[str, Tensor], slices: dict[str, Any]) -> None:
        del tensors[key], slices[key]

    rewrite(part_with(saved, key), remove)
    with pytest.raises(UserError, match=r"no neg_pre_grad of first.bias"):
        load(saved)


def test_another_optimizer(saved: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer is 'Adan' and this start's is 'AdamW'; resume with the `--optim`"):
        load(saved, OPTIMIZERS["AdamW"])


def test_another_model(saved: Path) -> None:
    model = nn.ModuleDict({"first": nn.Linear(5, 8)})
    with pytest.raises(UserError, match=r"'first.weight' has the shape \(7, 5\) there and \(8, 5\) here"):
        load_optimizer_state(saved, fragments_of(model, Adan(model.parameters())))
    model = nn.ModuleDict({"third": nn.Linear(5, 8)})
    with pytest.raises(UserError, match=r"no parameter 'third.weight', which this start trains"):
        load_optimizer_state(saved, fragments_of(model, Adan(model.parameters())))


def test_parameters_that_are_frozen_now(saved: Path) -> None:
    model = Odd()
    weights = [model.first.weight, model.second.weight]
    with pytest.raises(UserError, match=r"state of 'first.bias', which this start does not train"):
        load_optimizer_state(saved, fragments_of(model, Adan(weights)))


def test_other_groups(saved: Path) -> None:
    model = Odd()
    with pytest.raises(UserError, match=r"other groups there: 'scale' and 'first.weight' are in one group in only one"):
        load_optimizer_state(saved, fragments_of(model, Adan(model.parameters())))


def test_a_parameter_that_is_not_the_models() -> None:
    with pytest.raises(UserError, match=r"a parameter of shape \(3,\) that the model does not have"):
        fragments_of(nn.Linear(2, 2), Adan([nn.Parameter(torch.ones(3))]))


def test_a_state_that_is_no_tensor() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Tensor:
        loss: Tensor = model(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(UserError, match=r"LBFGS keeps .* as list,.* take another `--optim`"):
        optimizer_files(fragments_of(model, optimizer), 0, 1)


def test_names_are_the_models_own() -> None:
    """Compiled as a whole, and of it a layer by itself; torch.compile wraps so, and takes seconds to be imported."""

    class Compiled(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = Adan(model.parameters())
    model[0] = Compiled(model[0])
    assert fragments_of(Compiled(model), optimizer).groups == [["0.weight", "0.bias", "1.weight", "1.bias"]]


def engine(**more: Any) -> Any:
    counters = {"global_steps": 0, "global_samples": 0, "skipped_steps": 0, "micro_steps": 0}
    scaler = SimpleNamespace(dynamic=True, cur_scale=65536.0, cur_iter=0, last_overflow_iter=-1, scale_window=1000)
    optimizer = SimpleNamespace(loss_scaler=scaler, _hp_optimizer_states_linked=True)
    made = {"optimizer": optimizer, "gradient_accumulation_steps": lambda: 2, **counters, **more}
    return SimpleNamespace(**made)


@pytest.mark.parametrize(("accumulation", "micro_steps"), [(2, 14), (4, 28), (1, 7)])
def test_counters_and_loss_scale_of_deepspeed(tmp_path: Path, accumulation: int, micro_steps: int) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"])
    train(model, optimizer, range(1))
    before = engine(global_steps=7, global_samples=56, skipped_steps=2, micro_steps=14)
    vars(before.optimizer.loss_scaler).update(cur_scale=128.0, cur_iter=7, last_overflow_iter=3, scale_window=5)
    layout = fragments_of(model, optimizer)
    write([Layout(**{**vars(layout), "engine": before})], tmp_path)
    now = engine(gradient_accumulation_steps=lambda: accumulation)
    load_optimizer_state(tmp_path, Layout(**{**vars(layout), "engine": now}))
    assert (now.global_steps, now.global_samples, now.skipped_steps, now.micro_steps) == (7, 56, 2, micro_steps)
    scaler = now.optimizer.loss_scaler
    assert (scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter) == (128.0, 7, 3)
    assert scaler.scale_window == 1000, "configuration is this start's own"
    assert now.optimizer._hp_optimizer_states_linked is False


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
            'offload_optimizer.*write "cpu"',
        ),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, 'offload_param.*write "cpu"'),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu", "super_offload": True}}}, "super_offload"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}}, "ratio is 0.5"),
        ({"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}}, "zenflow"),
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}}, "zero_hpz_partition_size is 8"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "zero_quantized_weights is True"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_gradients": True}}, "zero_quantized_gradients is True"),
        ({"zero_optimization": {"stage": 3, "mics_shard_size": 4}}, "mics_shard_size is 4"),
        ({"tensor_parallel": {"autotp_size": 2}}, "autotp_size is 2"),
        ({"expert_parallel": {"enabled": True}}, "expert_parallel.enabled"),
    ],
)
def test_what_a_checkpoint_could_not_hold_is_refused_before_training(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"--deepspeed: zero.json: .*{words}"):
        check_layout(config, "zero.json")


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json")), ids=lambda p: p.stem
)
def test_our_configurations_can_be_saved(path: Path) -> None:
    check_layout(json.loads(path.read_text()), path.name)


class DeepSpeedEngine:
    """Of DeepSpeed's, what is relied upon."""

    global_steps = global_samples = skipped_steps = micro_steps = 0
    module = None

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def zero_optimization_stage(self) -> int:
        return 3

    def gradient_accumulation_steps(self) -> int:
        return 1


def wrapper(kind: str, base: Any, **attributes: Any) -> Any:
    """An optimizer of DeepSpeed's of that name."""
    made: Any = type(kind, (), {"__module__": "deepspeed.runtime", **attributes})()
    made.optimizer = base
    return made


def test_a_version_of_deepspeed_that_lacks_what_is_relied_upon() -> None:
    base = Adan(nn.Linear(2, 2).parameters())
    for kind, attributes in RELIED_UPON.items():
        for lacking in attributes:
            present: dict[str, Any] = {name: [] for name in attributes if name != lacking}
            with pytest.raises(UserError, match=rf"{kind} of DeepSpeed .* has no '{lacking}'.*requirements.lock"):
                layout_of_engine(DeepSpeedEngine(wrapper(kind, base, **present)), {})


def test_optimizers_of_deepspeed_that_are_not_known() -> None:
    base = Adan(nn.Linear(2, 2).parameters())
    with pytest.raises(
        UserError, match=r"what ZenFlowZeroOptimizer of DeepSpeedEngine .* holds cannot be saved; known"
    ):
        layout_of_engine(DeepSpeedEngine(wrapper("ZenFlowZeroOptimizer", base)), {})
    theirs = wrapper("OnebitAdam", None)
    with pytest.raises(UserError, match=r"DeepSpeed's own OnebitAdam cannot be saved; take torch's or ours"):
        layout_of_engine(DeepSpeedEngine(wrapper("DeepSpeedZeroOptimizer", theirs)), {})


def test_states_on_nvme() -> None:
    attributes: dict[str, Any] = {name: [] for name in RELIED_UPON["DeepSpeedZeroOptimizer_Stage3"]}
    base = Adan(nn.Linear(2, 2).parameters())
    made = wrapper("DeepSpeedZeroOptimizer_Stage3", base, **{**attributes, "swap_optimizer": True})
    with pytest.raises(UserError, match='states on NVMe cannot be saved; offload to "cpu"'):
        layout_of_engine(DeepSpeedEngine(made), {})


def test_what_accelerate_wraps() -> None:
    accelerate = pytest.importorskip("accelerate")
    model, optimizer = new(OPTIMIZERS["Adan"])
    try:
        prepared, wrapped = accelerate.Accelerator(cpu=True).prepare(model, optimizer)
        layout = fragments_of(prepared, wrapped)
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    assert layout.base is optimizer and wrapped is not optimizer and len(layout.fragments) == 6
