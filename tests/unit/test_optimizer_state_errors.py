"""Optimizer states that cannot be read or written: refused, naming what differs and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.state_formats import STATE_NAMES
from nlp_adan.training.checkpoint.fragments import Fragment, Layout, ParameterFacts, fragments_of
from nlp_adan.training.checkpoint.optimizer_state import load_optimizer_state, optimizer_files
from tests.unit.optimizer_checkpoints import ADAN, OPTIMIZERS, Make, Odd, new, train, write


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


def test_low_bits_that_would_be_lost_are_refused(tmp_path: Path) -> None:
    model, optimizer = new(OPTIMIZERS["Adan"], torch.bfloat16)
    train(model, optimizer, range(1))
    write([fragments_of(model, optimizer)], tmp_path)
    model, optimizer = new(OPTIMIZERS["Adan"])
    with pytest.raises(UserError, match=r"param_low_bits of first.weight, which only a parameter in bfloat16 has"):
        load_optimizer_state(tmp_path, fragments_of(model, optimizer))
    model, optimizer = new(lambda groups: Adan(groups, keep_low_bits=False, **ADAN), torch.bfloat16)
    load_optimizer_state(tmp_path, fragments_of(model, optimizer))  # this start does without them
    assert optimizer.state[model.first.weight].keys() == {"step", *STATE_NAMES}
