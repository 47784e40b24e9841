"""optimizer.json of a checkpoint: which optimizer, how its parameters are grouped, with which options, which counters.

{"optimizer": "Adan", "groups": [{"options": {"lr": 0.001, ...}, "parameters": ["a.weight", ...]}, ...],
 "parameters": {"a.weight": {"shape": [2, 3], "dtype": "float32"}, ...}, "engine": {"global_steps": 7, ...} or null}
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlp_adan.errors import UserError
from nlp_adan.options import RUN_OPTIONS
from nlp_adan.training.checkpoint.fragments import Layout
from nlp_adan.training.checkpoint.optimizer_parts import DESCRIPTION, FOLDER

Description = dict[str, Any]

# Options that say how a run goes, not what it computes, and names: what this start was given stays.
_STAYING_OPTIONS = {*RUN_OPTIONS, "differentiable", "params", "param_names"}
_COUNTERS = ("global_steps", "global_samples", "skipped_steps", "micro_steps")
# Of a dynamic loss scale, what changes from step to step; the rest is configuration.
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def describe(layout: Layout) -> Description:
    """The content of optimizer.json; the same on all ranks."""
    groups = [
        {"options": _encoded_options(group), "parameters": names}
        for group, names in zip(layout.base.param_groups, layout.groups, strict=True)
    ]
    parameters = {
        name: {"shape": list(facts.shape), "dtype": str(facts.dtype).removeprefix("torch.")}
        for name, facts in layout.parameters.items()
    }
    engine = None if layout.engine is None else _engine_state(layout.engine)
    return {"optimizer": type(layout.base).__name__, "groups": groups, "parameters": parameters, "engine": engine}


def read_description(checkpoint: Path) -> Description:
    """The content of a checkpoint's optimizer.json. UserError where it cannot be read."""
    path = checkpoint / FOLDER / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"optimizer", "groups", "parameters", "engine"} <= found.keys():
            raise ValueError("it is no description of an optimizer")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); resume from another checkpoint") from error
    return found


def check_same(description: Description, layout: Layout, checkpoint: Path) -> None:
    """Raise a UserError where the checkpoint is of another optimizer or model, or its parameters are grouped otherwise.

    What has no part in it, such as ranks, stage and back end, may differ.
    """
    path = checkpoint / FOLDER / DESCRIPTION
    here = type(layout.base).__name__
    if description["optimizer"] != here:
        raise UserError(
            f"{path}: the checkpoint's optimizer is {description['optimizer']!r} and this start's is {here!r}; resume "
            "with the `--optim` that the run began with, or begin another run in another `--output_dir`"
        )
    remedy = "resume with the model that the run began with, or begin another run in another `--output_dir`"
    for name, facts in layout.parameters.items():
        saved = description["parameters"].get(name)
        if saved is None:
            raise UserError(f"{path}: it has no parameter {name!r}, which this start trains; {remedy}")
        if tuple(saved["shape"]) != facts.shape:
            raise UserError(
                f"{path}: {name!r} has the shape {tuple(saved['shape'])} there and {facts.shape} here; {remedy}"
            )
    for names in filter(None, layout.groups):
        _saved_group(description, names, path)


def _saved_group(description: Description, names: list[str], path: Path) -> dict[str, Any]:
    """The checkpoint's group of these parameters, whatever their order."""
    wanted = set(names)
    for group in description["groups"]:
        if wanted == set(group["parameters"]):
            return dict(group)
    theirs: list[str] = next(
        (group["parameters"] for group in description["groups"] if names[0] in group["parameters"]), []
    )
    other = sorted(wanted ^ set(theirs))[0]
    raise UserError(
        f"{path}: the parameters are in other groups there: {names[0]!r} and {other!r} are in one group in only one of "
        "checkpoint and start; resume with the groups (weight decay, frozen layers) that the run began with"
    )


def restore_groups(description: Description, layout: Layout, checkpoint: Path) -> None:
    """Give each parameter group the options that it had, such as the learning rate as it stood."""
    path = checkpoint / FOLDER / DESCRIPTION
    for group, names in zip(layout.base.param_groups, layout.groups, strict=True):
        if not names:
            continue
        for option, value in _saved_group(description, names, path)["options"].items():
            if option not in _STAYING_OPTIONS:
                group[option] = _decoded(value, group.get(option))


def _encoded_options(group: dict[str, Any]) -> dict[str, Any]:
    """A group's options as JSON; those that JSON cannot say are left out."""
    encoded = {}
    for option, value in group.items():
        if option not in ("params", "param_names"):
            value = _encoded(value)
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                continue
            encoded[option] = value
    return encoded


def _encoded(value: Any) -> Any:
    """A tensor of one element as its number, a dtype by its name, infinities and NaN as words."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_encoded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _decoded(value: Any, present: Any) -> Any:
    """A saved option, of the kind that the present value has: a tensor is filled, so that who holds it sees it."""
    if isinstance(present, Tensor) and not isinstance(value, list):
        present.detach().fill_(float(value) if isinstance(value, str) else value)
        return present
    if isinstance(present, float) and isinstance(value, str):
        return float(value)  # "inf"
    if isinstance(value, list) and isinstance(present, (tuple, list)) and len(present) == len(value):
        return type(present)(_decoded(item, old) for item, old in zip(value, present, strict=True))
    return value


def _engine_state(engine: Any) -> dict[str, Any]:
    """DeepSpeed's counters and, where it is dynamic, its loss scale."""
    state = {name: getattr(engine, name) for name in _COUNTERS}
    state["gradient_accumulation_steps"] = engine.gradient_accumulation_steps()
    scaler = _dynamic_scaler(engine)
    if scaler is not None:
        state["loss_scale"] = {name: value for name, value in vars(scaler).items() if name in _SCALE}
    autocast = getattr(engine.optimizer, "torch_autocast_gradscaler", None)
    if autocast is not None:
        state["autocast_scaler"] = autocast.state_dict()
    return state


def restore_engine(saved: dict[str, Any] | None, layout: Layout) -> None:
    """Set DeepSpeed's counters and loss scale to what they were, where both the checkpoint and this start have them."""
    engine = layout.engine
    if engine is None:
        return
    if hasattr(engine.optimizer, "_hp_optimizer_states_linked"):
        engine.optimizer._hp_optimizer_states_linked = (
            False  # DeepSpeed's own accessors find the new states after a step
        )
    if saved is None:
        return
    for name in _COUNTERS:
        setattr(engine, name, saved[name])
    # They decide where a step ends: with another number of ranks a step has another number of them.
    steps, rest = divmod(saved["micro_steps"], saved["gradient_accumulation_steps"])
    if rest == 0:
        engine.micro_steps = steps * engine.gradient_accumulation_steps()
    scaler = _dynamic_scaler(engine)
    if scaler is not None:
        for name, value in saved.get("loss_scale", {}).items():
            if hasattr(scaler, name):  # stage 0 has no hysteresis
                setattr(scaler, name, value)
    autocast = getattr(engine.optimizer, "torch_autocast_gradscaler", None)
    if autocast is not None and saved.get("autocast_scaler"):
        autocast.load_state_dict(saved["autocast_scaler"])


def _dynamic_scaler(engine: Any) -> Any:
    """What holds a loss scale that changes, under any stage; None where it is fixed."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)  # ZeRO
    if scaler is not None:
        return scaler if scaler.dynamic else None
    scaler = getattr(engine.optimizer, "loss_scale_config", None)  # stage 0
    return scaler if scaler is not None and scaler.dynamic_loss_scale else None
