"""The Adan optimizer: its options, its state and the order of a step. The rule itself is in `nlp_adan.update`."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nlp_adan import state_formats
from nlp_adan.batches import sort_into_batches, wants_fused
from nlp_adan.clipping import clip_factor, refuse_shards
from nlp_adan.kernels import fused_available
from nlp_adan.kernels.operands import in_layout_of
from nlp_adan.options import check_device, check_options, state_dtype_of
from nlp_adan.state_formats import STATE_NAMES
from nlp_adan.update import coefficients


class Adan(Optimizer):
    """Adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677), on the trajectory of the authors' code.

    Args:
        params: parameters, or dicts of parameter groups with their own values of the options below.
        lr: learning rate η; a number or a scalar tensor. Coming from AdamW, start at 5 to 10 times its value.
        betas: (β1, β2, β3), decay rates of the averages of the gradient, of the gradient's difference and of the
            squared look-ahead gradient; each in [0, 1). They are one minus the paper's. Runs of less than some
            thousand steps want (0.9, 0.9, 0.999).
        eps: ε, added to the root of the bias-corrected second moment.
        weight_decay: λ, decoupled. The authors use 0.02.
        max_grad_norm: largest 2-norm of all gradients together; larger ones enter the step scaled down to it, and
            `p.grad` is left as it is. 0 means no clipping. For plain torch, DDP and DTensor parameters (FSDP2); an
            engine that hands out shards (DeepSpeed's ZeRO, FSDP 1) has its own option for it, and this one is refused.
        no_prox: decay by `θ ← (1 - λη) θ` before the step, as AdamW does, instead of `θ ← θ / (1 + λη)` after it.
        maximize: go up the gradient instead of down.
        foreach: True for torch's operations on all tensors at once, False for one tensor at a time; both are the
            eager rule, slower and with temporaries. None leaves the choice to `fused`.
        fused: the whole update in one pass over memory: compiled C++ on the CPU, Triton on NVIDIA GPUs. None takes it
            where it is to be had, True insists on it (and keeps the counters on the GPU, as torch's optimizers do, so
            that a GradScaler need not wait for it), False never takes it. Tensors that it does not know (other
            layouts, dtypes and classes) go the eager way.
        capturable: keep the step counters on the parameters' device, so that a step can be part of a CUDA graph and
            `lr` a tensor there.
        state_dtype: dtype of exp_avg, exp_avg_diff and neg_pre_grad: torch.bfloat16 halves them; exp_avg_sq is float32
            always. None means the parameter's own dtype (float32 for float16).
        keep_low_bits: of a bfloat16 parameter keep, as the state `param_low_bits`, the 16 bits that it lacks to its
            float32 value (with the dtype bfloat16, which can be communicated, but no numbers: view them as int16).
            Updates then lose nothing: the parameter is the rounded value of an exact one.
        restart_interval: forget averages and bias correction after every so many updates of a parameter (the restart
            of the paper's Algorithm 1); 0 for never. See also `restart`.

    State of each parameter: `step` (a float32 scalar, the number of this parameter's updates; on the CPU unless
    `capturable` or `fused=True`), `exp_avg`, `exp_avg_diff`, `exp_avg_sq` and `neg_pre_grad` (minus the previous
    gradient), of the parameter's shape and device. A parameter whose gradient is None at a step is left alone, its
    counter too; its next gradient difference then spans the gap, from the last gradient it had, as in the authors'
    code. Complex parameters are updated as pairs of real ones.

    Raises:
        ValueError: an option out of range, or one that a parameter's device does not have; the message names it.
        RuntimeError: a sparse gradient at `step`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        no_prox: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        state_dtype: torch.dtype | str | None = None,
        keep_low_bits: bool = True,
        restart_interval: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "no_prox": no_prox,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "state_dtype": state_dtype_of(state_dtype),
            "keep_low_bits": keep_low_bits,
            "restart_interval": restart_interval,
        }
        check_options(defaults)
        self._own_params: dict[int, weakref.ref[Tensor]] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its own option values are checked as the constructor's are."""
        options = {**self.defaults, **param_group}
        check_options(options)
        if "state_dtype" in param_group:
            param_group["state_dtype"] = state_dtype_of(param_group["state_dtype"])
        if self.param_groups and options["max_grad_norm"] != self.param_groups[0]["max_grad_norm"]:
            raise ValueError(
                f"Adan: max_grad_norm={options['max_grad_norm']!r} in one group and "
                f"{self.param_groups[0]['max_grad_norm']!r} in another: there is one norm, of all gradients together"
            )
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for param in group["params"]:
                check_device(param, group)
        except ValueError:
            self.param_groups.pop()
            raise
        self._remember(group["params"])

    def _remember(self, params: Iterable[Tensor]) -> None:
        self._own_params.update((id(param), weakref.ref(param)) for param in params)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name, parameter in inspect.signature(Adan).parameters.items():
            if name != "params":  # an option that is younger than what is being loaded
                self.defaults.setdefault(name, parameter.default)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        if "_own_params" not in vars(self):  # a copy or an unpickled one; load_state_dict comes here too
            self._own_params = {}
            for group in self.param_groups:
                self._remember(group["params"])

    @torch.no_grad()
    def restart(self) -> None:
        """Forget all averages and counters, keep the parameters: the restart of the paper's Algorithm 1.

        The next step is a first step: its gradient difference is 0.
        """
        for state in filter(None, self.state.values()):
            for name in ("step", *STATE_NAMES):
                state[name].zero_()

    def restart_opt(self) -> None:
        """The authors' name for `restart`."""
        self.restart()

    def official_state_dict(self) -> dict[str, Any]:
        """The state as a dict that `load_state_dict` of the authors' code takes; low bits of parameters are left out.

        Their code counts steps once a group: it gets the largest count of the group's parameters.
        """
        return state_formats.official(self.state_dict())

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of ours, of the authors' code or of timm's Adan.

        Back end and dtypes of the states stay those that this optimizer was made with.
        """
        converted: dict[str, Any] = {}

        def convert(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            converted.update(state_formats.to_ours(given, self.param_groups))
            return converted

        def place(_: Optimizer) -> None:
            numbers = [number for group in converted["param_groups"] for number in group["params"]]
            params = [(param, group) for group in self.param_groups for param in group["params"]]
            for number, (param, group) in zip(numbers, params, strict=True):
                if number in converted["state"]:
                    self._place_state(param, group, converted["state"][number])

        # After the hooks of others that change what is loaded, before those that look at what was.
        hooks = [
            self.register_load_state_dict_pre_hook(convert),
            self.register_load_state_dict_post_hook(place, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)  # casts every state to its parameter's dtype
        finally:
            for hook in hooks:
                hook.remove()

    def _place_state(self, param: Tensor, group: dict[str, Any], saved: dict[str, Any]) -> None:
        """Give the loaded state of a parameter the dtypes, the device and the layout that a new one would have."""
        loaded, fresh = self.state[param], self._new_state(param, group)
        for name, wanted in fresh.items():
            value = loaded.get(name)
            if value is not None and value.dtype == wanted.dtype and value.device == wanted.device:
                wanted = in_layout_of(value, param) if name != "step" else value
            elif name in saved:
                wanted.copy_(saved[name])
            loaded[name] = wanted
        for name in set(loaded) - set(fresh):
            del loaded[name]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Returns the closure's value, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update_all()
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler may leave unscaling and skipping to `step`: it sets `grad_scale` and `found_inf`.

        So it is with a fused back end whose counters can be set back without waiting for the device.
        """
        return all(
            wants_fused(group)
            and (param.device.type == "cpu" or _steps_on_device(group, param))
            and fused_available(param.device)
            for group in self.param_groups
            for param in group["params"]
        )

    @torch._disable_dynamo  # a compiled training step calls this as it is: one pass already
    def _update_all(self) -> None:
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None:  # a sum over devices or ranks, of shape () or (1,)
            found_inf = (found_inf.reshape(()) != 0).float()
        factors = _GradFactors(self)
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            states = [self._state_of(param, group) for param in params]
            all_steps = [state["step"] for state in states]
            _count(all_steps, 1.0)
            for batch in sort_into_batches(params, states, group):
                device = batch.operands[0].param.device
                c = coefficients(batch.update_number(), group)
                batch.run(batch.operands, c, factors.on(device), None if found_inf is None else found_inf.to(device))
            # What saved a parameter for its backward pass is to know that it has changed.
            torch.autograd.graph.increment_version(params)
            if found_inf is not None:  # where it is 1 nothing was changed: count that step back
                _count(all_steps, -found_inf)

    def _state_of(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        if param.grad.is_sparse:
            raise RuntimeError("Adan does not take sparse gradients: build the embedding with sparse=False")
        state = self.state[param]
        if not state:
            state.update(self._new_state(param, group))
        elif ("param_low_bits" in state) != _keeps_low_bits(param, group):  # the module was given another dtype
            state.pop("param_low_bits", None)
            if _keeps_low_bits(param, group):
                state["param_low_bits"] = torch.zeros_like(param)
        return state

    @staticmethod
    def _new_state(param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """Zeros, in the dtypes that the options ask for and in the layout of the parameter."""
        real = not param.is_complex() and param.dtype != torch.float64
        narrow = group["state_dtype"] if real else None
        narrow = narrow or (torch.float32 if param.dtype == torch.float16 else param.dtype)
        wide = torch.promote_types(param.dtype, torch.float32)
        step_device = param.device if _steps_on_device(group, param) else torch.device("cpu")
        state = {"step": torch.zeros((), dtype=torch.float32, device=step_device)}
        for name in STATE_NAMES:
            state[name] = torch.zeros_like(param, dtype=wide if name == "exp_avg_sq" else narrow)
        if _keeps_low_bits(param, group):
            state["param_low_bits"] = torch.zeros_like(param)
        return state


class _GradFactors:
    """The one number that all gradients are multiplied with: clipping and the inverse of a GradScaler's scale."""

    def __init__(self, optimizer: Adan) -> None:
        groups = optimizer.param_groups
        scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        self._factor = None if scale is None else scale.float().reciprocal()
        max_grad_norm = groups[0]["max_grad_norm"]
        if not max_grad_norm:
            return
        params = [param for group in groups for param in group["params"]]
        refuse_shards(params, optimizer._own_params)
        grads = [param.grad for param in params if param.grad is not None]
        if grads:
            clip = clip_factor(grads, max_grad_norm, groups[0]["eps"], scale)
            self._factor = clip if self._factor is None else clip * self._factor.to(clip.device)

    def on(self, device: torch.device) -> Tensor | None:
        """The factor as a scalar on a device; None for 1."""
        return None if self._factor is None else self._factor.to(device)


def _steps_on_device(group: dict[str, Any], param: Tensor) -> bool:
    return group["capturable"] or (bool(group["fused"]) and param.device.type != "cpu")


def _count(steps: list[Tensor], amount: float | Tensor) -> None:
    """Add a number, or a scalar that is on the device, to the counters, without waiting for a device.

    As one tensor on theirs: of a number torch would make a new tensor for each counter on the CPU.
    """
    devices = {step.device for step in steps}
    for device in devices:
        here = steps if len(devices) == 1 else [step for step in steps if step.device == device]
        value = amount.to(device) if isinstance(amount, Tensor) else torch.full((), amount, device=device)
        torch._foreach_add_(here, [value] * len(here))


def _keeps_low_bits(param: Tensor, group: dict[str, Any]) -> bool:
    return param.dtype == torch.bfloat16 and group["keep_low_bits"]
