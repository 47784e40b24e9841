"""The optimizer's state of a checkpoint: written by name from whatever layout it has, and read into any other.

    optimizer/optimizer.json                        see `optimizer_description`
    optimizer/part-00000-of-00002.safetensors       what rank 0 of 2 owned, see `optimizer_parts`

Nothing is copied to write, and only what a rank owns is read. No file holds a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nlp_adan.adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.state_formats import STATE_NAMES
from nlp_adan.training.checkpoint.fragments import Fragment, Layout
from nlp_adan.training.checkpoint.optimizer_description import (
    check_same,
    describe,
    read_description,
    restore_engine,
    restore_groups,
)
from nlp_adan.training.checkpoint.optimizer_parts import MASTER, OptimizerParts, part_path
from nlp_adan.training.checkpoint.tensor_files import DTYPE_NAMES, TensorFile

STEP = "step"
_PLAIN = (Tensor, torch.nn.Parameter)


def optimizer_files(layout: Layout, rank: int, world_size: int) -> tuple[list[TensorFile], dict[str, Any]]:
    """What a rank writes of the optimizer's state: its part, of the live tensors, and the content of optimizer.json.

    The latter is the same on all ranks. Raises UserError for a state that is neither a plain tensor nor a number.
    """
    mine = shares(layout.fragments, world_size)[rank] if layout.replicated else layout.fragments
    tensors: dict[str, Tensor] = {}
    slices: dict[str, tuple[int, int]] = {}
    numbers: dict[str, str] = {}
    for fragment in mine:
        for state, value in layout.base.state.get(fragment.owner, {}).items():
            key = f"{state}/{fragment.name}"
            if value is None:
                continue
            _check_writable(layout, fragment, key, value)
            if _has_elements(state, value, fragment.owner):
                tensors[key] = fragment.of(value)
                slices[key] = (fragment.begin, fragment.end)
            elif fragment.begin == 0:  # once a parameter: by the rank that has its beginning
                tensors[key] = (
                    value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=_KINDS[type(value)])
                )
                if not isinstance(value, Tensor):
                    numbers[key] = type(value).__name__
        if layout.is_master(fragment):
            key = f"{MASTER}/{fragment.name}"
            tensors[key] = fragment.of(fragment.owner)
            slices[key] = (fragment.begin, fragment.end)
    metadata = {"slices": json.dumps(slices), "numbers": json.dumps(numbers)}
    return [TensorFile(part_path(rank, world_size), tensors, metadata)], describe(layout)


# Python numbers are kept in the dtype that has all their values.
_KINDS = {bool: torch.bool, int: torch.int64, float: torch.float64}


def _has_elements(state: str, value: Any, owner: Tensor) -> bool:
    """Whether a state has an element for each of the owner's. A counter has not, where that is a scalar either."""
    return isinstance(value, Tensor) and state != STEP and value.shape == owner.shape


def _check_writable(layout: Layout, fragment: Fragment, key: str, value: Any) -> None:
    if type(value) in _KINDS:
        return
    optimizer = type(layout.base).__name__
    if type(value) not in _PLAIN or value.dtype not in DTYPE_NAMES:
        kind = f"a tensor of {value.dtype}" if type(value) in _PLAIN else type(value).__name__
        raise UserError(
            f"checkpoints: {optimizer} keeps {key} as {kind}, and only plain tensors and numbers can be saved; take "
            "another `--optim`, such as adan or adamw_torch"
        )
    whole = fragment.owner.shape == layout.parameters[fragment.name].shape
    if value.ndim and not whole and not _has_elements(key.partition("/")[0], value, fragment.owner):
        raise UserError(
            f"checkpoints: under ZeRO stage {layout.zero_stage} {optimizer} keeps {key} in the shape "
            f"{tuple(value.shape)}, of which no parameter has a part; take another `--optim`, or no ZeRO"
        )


def shares(fragments: Iterable[Fragment], world_size: int) -> list[list[Fragment]]:
    """Whole parameters dealt out to the ranks, the largest first, each to the one that has least."""
    dealt: list[list[Fragment]] = [[] for _ in range(world_size)]
    sizes = [0] * world_size
    for fragment in sorted(fragments, key=lambda fragment: fragment.begin - fragment.end):
        rank = sizes.index(min(sizes))
        dealt[rank].append(fragment)
        sizes[rank] += fragment.end - fragment.begin
    return dealt


@torch.no_grad()
def load_optimizer_state(checkpoint: Path, layout: Layout) -> None:
    """Give the optimizer of this start the state, options and counters that a checkpoint's had.

    The model's weights must have been loaded before it was wrapped (`master_weights` over the model's file). A
    parameter that the checkpoint has no state of gets none; beside others in one flat tensor, zeros.

    Raises: UserError for a part or a slice that is missing, for another optimizer, other parameters or other groups,
        and for parameters with different steps that are to share one counter.
    """
    description = read_description(checkpoint)
    check_same(description, layout, checkpoint)
    with OptimizerParts(checkpoint) as parts:
        for name in parts.names():
            if name not in layout.parameters and parts.states_of(name):
                raise UserError(
                    f"{parts.folder}: it has state of {name!r}, which this start does not train; resume with the model "
                    "and the frozen layers that the run began with"
                )
        layout.base.state.clear()
        for group, fragments in layout.owners():
            state = _state_of(layout.base, group, fragments, parts, description)
            if state:
                layout.base.state[fragments[0].owner] = state
        for fragment in layout.fragments:
            _restore_master(checkpoint, layout, fragment, parts)
    restore_groups(description, layout, checkpoint)
    restore_engine(description["engine"], layout)


def _state_of(
    base: torch.optim.Optimizer,
    group: dict[str, Any],
    fragments: list[Fragment],
    parts: OptimizerParts,
    description: dict[str, Any],
) -> dict[str, Any]:
    """The state of one owner, from what the parts have of the parameters in it."""
    owner = fragments[0].owner
    held = [fragment for fragment in fragments if parts.states_of(fragment.name)]
    if not held:
        return {}
    states = parts.states_of(held[0].name)
    for fragment in held:
        if parts.states_of(fragment.name) != states:
            raise UserError(
                f"{parts.folder}: there are {', '.join(states)} of {held[0].name} and "
                f"{', '.join(parts.states_of(fragment.name))} of {fragment.name}; resume from another checkpoint"
            )
    # Adan's dtypes go by its options; what an option of this start leaves out is not taken over.
    fresh = Adan._new_state(owner, group) if isinstance(base, Adan) else None
    for name in () if fresh is None else (STEP, *STATE_NAMES):
        if name not in states:
            raise UserError(f"{parts.folder}: there is no {name} of {held[0].name}; resume from another checkpoint")
    found: dict[str, Any] = {}
    for name in states:
        if fresh is not None and name not in fresh:
            if owner.dtype != torch.bfloat16:  # or it is this start that does without (`keep_low_bits`)
                raise UserError(
                    f"{parts.folder}: there is {name} of {held[0].name}, which only a parameter in bfloat16 has; "
                    "resume in that precision and without DeepSpeed"
                )
            continue
        template = None if fresh is None else fresh[name]
        if parts.is_sliced(name, held[0].name):
            found[name] = _elements(name, held, parts, template, description)
        else:
            shape = torch.Size(description["parameters"][held[0].name]["shape"])
            found[name] = _once(name, held, parts, group, template, shape)
    return found if fresh is None else {**fresh, **found}


def _elements(
    state: str, held: list[Fragment], parts: OptimizerParts, template: Tensor | None, description: dict[str, Any]
) -> Tensor:
    """A state that has an element for each of the owner's; 0 where the checkpoint has none."""
    filled = template
    for fragment in held:
        values = parts.read(state, fragment.name, fragment.begin, fragment.end)
        if filled is None:
            # In the parameter's dtype where it was so, else in its own.
            saved = description["parameters"][fragment.name]["dtype"]
            was = torch.float32 if parts.has_master(fragment.name) else getattr(torch, saved)
            dtype = fragment.owner.dtype if values.dtype == was else values.dtype
            filled = torch.zeros_like(fragment.owner, dtype=dtype, requires_grad=False)
        fragment.put(filled, values)
    assert filled is not None
    return filled


def _once(
    state: str,
    held: list[Fragment],
    parts: OptimizerParts,
    group: dict[str, Any],
    template: Tensor | None,
    shape: torch.Size,
) -> Tensor | float:
    """What an owner keeps once, such as `step`: the same for all parameters in it. `shape`: of the first of them."""
    first, owner = held[0], held[0].owner
    value = parts.read_whole(state, first.name)
    if isinstance(value, Tensor) and value.ndim and owner.shape != shape:
        raise UserError(
            f"{parts.folder}: {state} of {first.name} has the shape {tuple(value.shape)}, of which this ZeRO stage can "
            "take no part; resume without DeepSpeed"
        )
    for fragment in held[1:]:
        other = parts.read_whole(state, fragment.name)
        same = torch.equal(value, other) if isinstance(value, Tensor) and isinstance(other, Tensor) else value == other
        if not same:
            raise UserError(
                f"{parts.folder}: {state} is {_said(value)} of {first.name} and {_said(other)} of {fragment.name}, and "
                "this ZeRO stage counts them together; resume with the stage that the run had, or without DeepSpeed"
            )
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        if template is not None:
            return template.copy_(value)
        # Where torch's optimizers have their counters.
        return value.to(owner.device) if group.get("capturable") or group.get("fused") else value
    return value.to(owner.device)


def _said(value: Tensor | float) -> str:
    return str(value.tolist() if isinstance(value, Tensor) else value)


def _restore_master(checkpoint: Path, layout: Layout, fragment: Fragment, parts: OptimizerParts) -> None:
    """The float32 weights that the optimizer works on, where the model's are of lower precision."""
    name, mine = fragment.name, fragment.of(fragment.owner)
    if parts.has_master(name):
        saved = parts.read(MASTER, name, fragment.begin, fragment.end)
        if layout.is_master(fragment):
            fragment.put(fragment.owner, saved)
        elif not torch.equal(mine.cpu(), saved.to(mine.dtype)):
            raise RuntimeError(f"load master_weights(checkpoint) into the model before it is wrapped: {name} differs")
    elif layout.is_master(fragment):
        whole = _weight(checkpoint, name)  # this run was trained in float32 before
        fragment.put(fragment.owner, whole.reshape(-1)[fragment.begin : fragment.end])


def _weight(checkpoint: Path, name: str) -> Tensor:
    """A parameter from the model's files. UserError where they do not have it."""
    index = checkpoint / "model.safetensors.index.json"
    try:
        shard = (
            json.loads(index.read_text(encoding="utf-8"))["weight_map"][name] if index.exists() else "model.safetensors"
        )
        with safe_open(checkpoint / shard, framework="pt", device="cpu") as file:
            weight: Tensor = file.get_tensor(name)
            return weight
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{checkpoint}: it has no float32 weight of {name} for this start's lower precision ({error}); resume with "
            "the precision that the run had (`--bf16`, `--fp16`)"
        ) from error


def master_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The float32 weights of a run whose model had a lower precision, by name and in shape; none for other runs."""
    parameters = read_description(checkpoint)["parameters"]
    with OptimizerParts(checkpoint) as parts:
        shapes = {name: torch.Size(parameters[name]["shape"]) for name in parts.names() if parts.has_master(name)}
        return {name: parts.read(MASTER, name, 0, shape.numel()).view(shape) for name, shape in shapes.items()}


def read_whole_state(checkpoint: Path) -> dict[str, dict[str, Tensor]]:
    """All of an optimizer's state, by parameter and state, in the parameter's shape: also of ranks that are not here.

    "master" is a float32 weight; what is kept once a parameter, such as `step`, is as it was, numbers as tensors.
    Raises UserError for what is missing.
    """
    parameters = read_description(checkpoint)["parameters"]
    whole: dict[str, dict[str, Tensor]] = {}
    with OptimizerParts(checkpoint) as parts:
        for name in parts.names():
            shape = torch.Size(parameters[name]["shape"])
            states = [*parts.states_of(name), *([MASTER] if parts.has_master(name) else [])]
            whole[name] = {
                state: parts.read(state, name, 0, shape.numel()).view(shape)
                if parts.is_sliced(state, name)
                else torch.as_tensor(parts.read_whole(state, name))
                for state in states
            }
    return whole
