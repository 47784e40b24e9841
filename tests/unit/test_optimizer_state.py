"""The optimizer's state of a checkpoint, as slices by name: what is written is read back, bit by bit."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.state_formats import STATE_NAMES
from nlp_adan.training.checkpoint import optimizer_parts
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts, fragments_of
from nlp_adan.training.checkpoint.optimizer_state import load_optimizer_state, master_weights, read_whole_state, shares
from tests.unit.optimizer_checkpoints import OPTIMIZERS, assert_same, equal, flat, new, train, write


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


def test_before_the_first_step_there_is_no_state(tmp_path: Path) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"])
    write([fragments_of(model, optimizer)] * 2, tmp_path)
    assert read_whole_state(tmp_path) == {} and master_weights(tmp_path) == {}
    train(model, optimizer, range(1))
    load_optimizer_state(tmp_path, fragments_of(model, optimizer))
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 1e-2
