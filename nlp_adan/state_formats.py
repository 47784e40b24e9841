"""Checkpoints of Adan: of ours, of the authors' code and of timm's copy of it, and one that the authors' code loads.

All name a parameter's tensors alike. The other two count steps once a parameter group, in `group["step"]`; ours once a
parameter, in its state, as torch's own optimizers do.
"""

from __future__ import annotations

from typing import Any

import torch

from nlp_adan.options import RUN_OPTIONS

STATE_NAMES = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad")
OFFICIAL_OPTIONS = ("lr", "betas", "eps", "weight_decay", "max_grad_norm", "no_prox")


def to_ours(state_dict: dict[str, Any], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """A state dict of any of the three kinds as one of ours; the given one is left as it is.

    `param_groups` are the optimizer's: how it runs (back end, dtypes of the states) is not taken from a checkpoint.
    Raises ValueError for a checkpoint of another optimizer, or of timm's Adan with `caution`.
    """
    groups, states = [], dict(state_dict["state"])
    for index, saved in enumerate(state_dict["param_groups"]):
        if saved.get("caution"):
            raise ValueError("Adan: this checkpoint was trained with timm's caution=True, which changes the steps")
        if len(saved.get("betas", ())) not in (0, 3):
            raise ValueError(f"Adan: this is another optimizer's checkpoint: its betas are {saved['betas']!r}")
        mine = param_groups[index] if index < len(param_groups) else {}
        group = {name: value for name, value in saved.items() if name not in ("step", "caution")}
        groups.append({**mine, **group, **{name: mine[name] for name in RUN_OPTIONS if name in mine}})
        for number in saved["params"]:
            if number in states:
                states[number] = _state_to_ours(states[number], saved.get("step"), number)
    return {**state_dict, "state": {key: state for key, state in states.items() if state}, "param_groups": groups}


def _state_to_ours(state: dict[str, Any], group_step: Any, number: Any) -> dict[str, Any]:
    if not state or ("neg_pre_grad" not in state and group_step is not None):
        return {}  # the authors' restart_opt makes such a state for a parameter that never had a gradient
    missing = [name for name in STATE_NAMES if name not in state]
    step = state.get("step", group_step)
    if missing or step is None:
        named = ", ".join([*missing, *(["step"] if step is None else [])])
        raise ValueError(f"Adan: the state of parameter {number} in this checkpoint lacks {named}; is it Adan's?")
    return {**state, "step": torch.tensor(float(step), dtype=torch.float32)}  # one for each parameter


def official(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Our state dict as one that `load_state_dict` of the authors' code takes.

    Their one count of steps a group is the largest of ours in it. Raises ValueError for `maximize`, which it lacks.
    """
    states = dict(state_dict["state"])
    groups = []
    for saved in state_dict["param_groups"]:
        if saved["maximize"]:
            raise ValueError("Adan: maximize=True has no counterpart in the authors' code")
        steps = [int(states[number]["step"]) for number in saved["params"] if states.get(number)]
        step = max(steps, default=0)
        if saved["restart_interval"]:
            step %= saved["restart_interval"]
        ours = (*RUN_OPTIONS, "maximize", "restart_interval", "differentiable")
        group = {name: value for name, value in saved.items() if name not in ours}
        groups.append({**group, "foreach": True, "fused": False, "step": step})
        for number in saved["params"]:
            if states.get(number):
                state = {name: states[number][name] for name in STATE_NAMES}
                fresh = step == 0  # the next update is a first one: of the averages nothing is kept
                states[number] = {name: torch.zeros_like(value) if fresh else value for name, value in state.items()}
    return {"state": states, "param_groups": groups}
