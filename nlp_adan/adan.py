"""The Adan optimizer: its options, its state and the order of a step. The rule itself is in `nlp_adan.update`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nlp_adan.update import coefficients, update_

STATE_NAMES = ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad")


class Adan(Optimizer):
    """Adaptive Nesterov momentum (Xie et al. 2022, arXiv 2208.06677), on the trajectory of the authors' code.

    Args:
        params: parameters, or dicts of parameter groups with their own values of the options below.
        lr: learning rate η. Coming from AdamW, start at 5 to 10 times its value.
        betas: (β1, β2, β3), decay rates of the averages of the gradient, of the gradient's difference and of the
            squared look-ahead gradient; each in [0, 1). They are one minus the paper's. Runs of less than some
            thousand steps want (0.9, 0.9, 0.999).
        eps: ε, added to the root of the bias-corrected second moment.
        weight_decay: λ, decoupled. The authors use 0.02.
        max_grad_norm: largest 2-norm of all gradients together; larger ones enter the step scaled down to it, and
            `p.grad` is left as it is. 0 means no clipping. For plain torch and DDP: an engine that shards or clips
            (DeepSpeed, FSDP with flat parameters, the Trainer) has its own option for it.
        no_prox: decay by `θ ← (1 - λη) θ` before the step, as AdamW does, instead of `θ ← θ / (1 + λη)` after it.

    State of each parameter: `step` (a float32 scalar on the CPU, the number of this parameter's updates), `exp_avg`,
    `exp_avg_diff`, `exp_avg_sq` and `neg_pre_grad` (minus the previous gradient), of the parameter's shape, dtype and
    device. A parameter whose gradient is None at a step is left alone, its counter too; its next gradient difference
    then spans the gap, as in the authors' code.

    Raises:
        ValueError: an option out of range; the message names it.
        RuntimeError: a sparse or complex gradient at `step`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        no_prox: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "no_prox": no_prox,
        }
        _check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its own option values are checked as the constructor's are."""
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    @torch.no_grad()
    def restart_opt(self) -> None:
        """Forget all averages and counters, keep the parameters: the restart of the paper's Algorithm 1.

        The next step is a first step: its gradient difference is 0.
        """
        for param_state in self.state.values():
            param_state["step"].zero_()
            for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
                param_state[name].zero_()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Returns the closure's value, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        clip_factor = self._clip_factor()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group, clip_factor)
        return loss

    def _update(self, param: Tensor, group: dict[str, Any], clip_factor: Tensor | None) -> None:
        grad = param.grad
        assert grad is not None
        if grad.is_sparse:
            raise RuntimeError("Adan does not take sparse gradients: build the embedding with sparse=False")
        if param.is_complex():
            raise RuntimeError("Adan does not take complex parameters: optimize torch.view_as_real(parameter)")
        if clip_factor is not None:
            grad = grad * clip_factor.to(grad.device)

        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in STATE_NAMES:
                state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["step"] += 1
        step = int(state["step"])
        if step == 1:
            torch.neg(grad, out=state["neg_pre_grad"])  # the first difference is 0

        options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay", "no_prox")}
        exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad = (state[name] for name in STATE_NAMES)
        update_(param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, coefficients(step, **options))

    def _clip_factor(self) -> Tensor | None:
        """min(1, max_grad_norm / (‖g‖ + ε)) over all groups, a scalar on the device of a gradient; None if unused."""
        max_grad_norm = max(group["max_grad_norm"] for group in self.param_groups)
        grads = [param.grad for group in self.param_groups for param in group["params"] if param.grad is not None]
        if max_grad_norm == 0 or not grads:
            return None
        # In float32 at least: a norm rounded to bfloat16 would be off by up to 0.4 %.
        norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in grads]
        norm = torch.linalg.vector_norm(torch.stack([n.to(grads[0].device) for n in norms]))
        return torch.clamp(max_grad_norm / (norm + self.param_groups[0]["eps"]), max=1.0)


def _check_options(options: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay", "max_grad_norm"):
        if not options[name] >= 0:
            raise ValueError(f"Adan: {name} must be 0 or more, got {options[name]!r}")
    betas = options["betas"]
    if len(betas) != 3:
        raise ValueError(f"Adan: betas must be three numbers (beta1, beta2, beta3), got {betas!r}")
    for index, beta in enumerate(betas, 1):
        if not 0 <= beta < 1:
            raise ValueError(f"Adan: beta{index} must be in [0, 1), got {beta!r}")
