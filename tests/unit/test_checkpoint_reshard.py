"""Checkpoints cut anew for other ranks and ZeRO stages: nothing changes but who has which slice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.commands import main
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts, fragments_of
from nlp_adan.training.checkpoint.manifest import Manifest, verify
from nlp_adan.training.checkpoint.optimizer_parts import MASTER, OptimizerParts
from nlp_adan.training.checkpoint.optimizer_state import load_optimizer_state
from nlp_adan.training.checkpoint.resharding import cut, reshard
from tests.unit.checkpoint_folders import Small, make_checkpoint, train

Make = Callable[[nn.Module], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others use takes a tenth of a second and more for each sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [param for param in model.parameters() if param.ndim > 1]
    vectors = [param for param in model.parameters() if param.ndim <= 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


OPTIMIZERS: dict[str, Make] = {
    "Adan": lambda model: Adan(two_groups(model), lr=1e-2, fused=False),
    "Adan, bfloat16 states": lambda model: Adan(two_groups(model), lr=1e-2, fused=False, state_dtype="bfloat16"),
    "AdamW": lambda model: torch.optim.AdamW(two_groups(model), lr=1e-2),
    "SGD": lambda model: torch.optim.SGD(two_groups(model), lr=1e-2, momentum=0.9),
}


def everything(checkpoint: Path) -> dict[str, tuple[Any, ...]]:
    """All of an optimizer's state, to the bit and the type."""
    shapes = json.loads((checkpoint / "optimizer" / "optimizer.json").read_text())["parameters"]
    found: dict[str, tuple[Any, ...]] = {}
    with OptimizerParts(checkpoint) as parts:
        for name in parts.names():
            numel = torch.Size(shapes[name]["shape"]).numel()
            for state in [*parts.states_of(name), *([MASTER] if parts.has_master(name) else [])]:
                sliced = parts.is_sliced(state, name)
                value = parts.read(state, name, 0, numel) if sliced else parts.read_whole(state, name)
                if isinstance(value, Tensor):
                    bits = value.contiguous().reshape(-1).view(torch.uint8).tolist()
                    found[f"{state}/{name}"] = (sliced, value.dtype, tuple(value.shape), bits)
                else:
                    found[f"{state}/{name}"] = (sliced, type(value), value)
    return found


def content(part: Path) -> dict[str, Any]:
    """Shapes and metadata of a part; `everything` has the elements."""
    with safe_open(part, "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        return {**shapes, **{name: json.loads(text) for name, text in file.metadata().items()}}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_to_every_stage_and_back(name: str, tmp_path: Path) -> None:
    model = Small()
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, range(3))
    for param in list(optimizer.state):  # numbers keep their type
        optimizer.state[param] |= {"count": 2**40 + 1, "rate": 0.1, "on": True}
    first = make_checkpoint(tmp_path, 3, model, optimizer, ranks=2)
    expected = everything(first)
    assert expected["count/scale"] == (False, int, 2**40 + 1) and expected["rate/scale"] == (False, float, 0.1)
    assert expected["on/scale"] == (False, bool, True) and not any(key.endswith("unused") for key in expected)
    way: list[tuple[int, int | None]] = [(3, 2), (1, 3), (4, 1), (12, 3), (2, 0), (2, None)]
    folders = [first, *(tmp_path / f"{number}" for number in range(len(way)))]
    for (source, target), (world_size, stage) in zip(pairwise(folders), way, strict=True):
        reshard(source, target, world_size, stage)
        assert verify(target) == []
        manifest = Manifest.read(target)
        assert (manifest.world_size, manifest.zero_stage) == (world_size, stage)
        assert (manifest.step, manifest.sequences_per_step) == (3, 12)
        assert len(list((target / "optimizer").glob("part-*"))) == world_size
        assert everything(target) == expected
    before, after = Manifest.read(first).files, Manifest.read(folders[-1]).files
    assert before.keys() - after.keys() == {"rng_state_1.pth"}, "on the way there was one rank"
    for name, entry in after.items():
        if "/part-" in name:  # what two ranks hold without DeepSpeed
            assert content(first / name) == content(folders[-1] / name)
        else:
            assert before[name] == entry


def test_a_start_goes_on_from_it(tmp_path: Path) -> None:
    model = Small()
    optimizer = OPTIMIZERS["Adan"](model)
    train(model, optimizer, range(3))
    make_checkpoint(tmp_path, 3, model, optimizer, ranks=2)
    assert main(["reshard", str(tmp_path), f"--output_dir={tmp_path / 'other'}", "--world_size=3", "--stage=3"]) == 0
    resumed = Small()
    resumed.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()})
    loaded = OPTIMIZERS["Adan"](resumed)
    load_optimizer_state(tmp_path / "other", fragments_of(resumed, loaded))
    train(model, optimizer, range(3, 6))
    train(resumed, loaded, range(3, 6))
    for param, twin in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(param, twin)


def test_masters_and_their_slices(tmp_path: Path) -> None:
    """Of a rank at each stage, its own file and nothing else; float32 weights of a bfloat16 model go along."""
    weights = {"a": torch.randn(5), "b": torch.randn(3), "c": torch.randn(2)}
    model = nn.ParameterDict({name: nn.Parameter(weight.bfloat16()) for name, weight in weights.items()})
    owners = [torch.cat([weights["a"], weights["b"]]), weights["c"].clone()]
    facts = {name: ParameterFacts(tuple(weight.shape), torch.bfloat16) for name, weight in weights.items()}
    base = Adan([{"params": [owner]} for owner in owners], fused=False)
    for owner in owners:
        owner.grad = torch.randn(owner.shape)
    base.step()
    fragments = [
        Fragment("a", 0, 5, owners[0], 0),
        Fragment("b", 0, 3, owners[0], 5),
        Fragment("c", 0, 2, owners[1], 0),
    ]
    layout = Layout(base, fragments, [["a", "b"], ["c"]], facts, replicated=False, zero_stage=2)
    path = make_checkpoint(tmp_path, 1, model, [layout], ranks=1, stage=2)
    slices: dict[tuple[int, int | None], list[dict[str, list[int]]]] = {
        (2, 1): [{"a": [0, 4], "c": [0, 2]}, {"a": [4, 5], "b": [0, 3]}],
        (2, 3): [{"a": [0, 3], "b": [0, 2], "c": [0, 1]}, {"a": [3, 5], "b": [2, 3], "c": [1, 2]}],
        (2, None): [{"a": [0, 5]}, {"b": [0, 3], "c": [0, 2]}],
    }
    for (world_size, stage), expected in slices.items():
        target = tmp_path / f"stage-{stage}"
        reshard(path, target, world_size, stage)
        assert everything(target) == everything(path)
        for rank, own in enumerate(expected):
            with safe_open(target / "optimizer" / f"part-{rank:05}-of-{world_size:05}.safetensors", "pt") as file:
                found = json.loads(file.metadata()["slices"])
                keys = set(file.keys())
            assert {key.partition("/")[2]: ends for key, ends in found.items() if key.startswith("master/")} == own
            assert {key for key in keys if key.startswith("step/")} == {
                f"step/{name}" for name, (begin, _) in own.items() if begin == 0
            }


@given(
    st.lists(st.lists(st.integers(1, 30), max_size=4), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from([None, 0, 1, 2, 3]),
)
@settings(max_examples=200, deadline=None)
def test_every_element_once(numels: list[list[int]], world_size: int, stage: int | None) -> None:
    groups = [[f"{group}.{index}" for index in range(len(sizes))] for group, sizes in enumerate(numels)]
    sizes = {f"{group}.{index}": numel for group, each in enumerate(numels) for index, numel in enumerate(each)}
    parts = cut(groups, sizes, world_size, stage)
    assert len(parts) == world_size
    elements = [(name, element) for part in parts for name, begin, end in part for element in range(begin, end)]
    assert len(elements) == len(set(elements)) == sum(sizes.values())
    assert all(begin < end for part in parts for _, begin, end in part)
    assert {name for name, _ in elements} == set(sizes) and all(element < sizes[name] for name, element in elements)


def test_what_cannot_go_along_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Small()
    optimizer = OPTIMIZERS["Adan"](model)
    train(model, optimizer, range(1))
    path = make_checkpoint(tmp_path, 1, model, optimizer, ranks=2)

    def command(source: Path, target: str, world_size: int) -> tuple[list[str], set[str]]:
        output = tmp_path / target
        main(["reshard", str(source), f"--output_dir={output}", f"--world_size={world_size}", "--stage=2"])
        told = capsys.readouterr().out.splitlines()
        return told, {file.name for file in output.iterdir() if file.name.startswith(("rng", "memory"))}

    memories = {"memory-00000.safetensors", "memory-00001.safetensors"}
    (line,), files = command(path, "four", 4)
    assert "as of 4 ranks at ZeRO stage 2, verified; random states are drawn anew by ranks 2 to 3" in line
    assert "recurrent memories go along as they are" in line
    assert files == {"rng_state_0.pth", "rng_state_1.pth", *memories}
    (line,), files = command(path, "one", 1)
    assert "random states of rank 1 are left out" in line and files == {"rng_state.pth", *memories}
    assert (tmp_path / "one" / "rng_state.pth").read_bytes() == (path / "rng_state_0.pth").read_bytes()
    (line,), files = command(tmp_path / "one", "two", 2)
    assert "drawn anew by rank 1" in line and files == {"rng_state_0.pth", *memories}
    (line,), _ = command(path, "same", 2)
    assert line.endswith("as of 2 ranks at ZeRO stage 2, verified"), "nothing is lost, nothing is said"


def test_what_no_start_could_go_on_with(tmp_path: Path) -> None:
    model = Small()
    optimizer = OPTIMIZERS["Adan"](model)
    train(model, optimizer, range(2))
    optimizer.state[model.scale]["step"] += 1
    path = make_checkpoint(tmp_path, 2, model, optimizer)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"step is 3.0 of scale and 2.0 of first.bias, and ZeRO counts them together"):
        reshard(path, out, 2, 1)
    with pytest.raises(UserError, match=r"--world_size: 5 ranks cannot share the 12 sequences of a step equally"):
        reshard(path, out, 5, None)
    with pytest.raises(UserError, match=r"checkpoint-7' is the name of a checkpoint of step 7, and this one is of st"):
        reshard(path, tmp_path / "checkpoint-7", 2, None)
    del optimizer.state[model.scale]["exp_avg"]
    path = make_checkpoint(tmp_path, 3, model, optimizer)
    with pytest.raises(UserError, match=r"there are .* of scale and .* of first.bias, which ZeRO holds together"):
        reshard(path, out, 2, 3)
    reshard(path, out, 3, 0)
    assert everything(out) == everything(path)

    nadam = torch.optim.NAdam(model.parameters())  # of a scalar its mu_product looks like an element's
    train(model, nadam, range(1))
    with pytest.raises(UserError, match=r"only one of scale and first.weight has mu_product for each element"):
        reshard(make_checkpoint(tmp_path, 5, model, nadam), tmp_path / "nadam", 2, 1)

    adafactor = torch.optim.Adafactor([model.first.weight, model.second.weight])
    train(model, adafactor, range(1))
    path = make_checkpoint(tmp_path, 4, model, adafactor)
    with pytest.raises(UserError, match=r"has the shape \(.*\), of which ZeRO can take no part; write `--stage none`"):
        reshard(path, tmp_path / "other", 2, 3)
    reshard(path, tmp_path / "other", 3, None)
    assert everything(tmp_path / "other") == everything(path)
