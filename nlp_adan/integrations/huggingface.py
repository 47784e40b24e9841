"""`--optim adan` in every script that uses the Hugging Face Trainer.

transformers has no public registration of optimizers. Two seams carry ours: a member added to the enumeration
`OptimizerNames`, whose values are the choices of `--optim`, and a wrapper of the static method
`Trainer.get_optimizer_cls_and_kwargs`, which transformers 4.57 and 5.23 both have.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from nlp_adan.errors import UserError, nearest
from nlp_adan.integrations.post_import import when_imported

NAME = "adan"
DEFAULT_BETAS = {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99}


def install() -> None:
    """Make `--optim adan` valid now or as soon as transformers is imported. Calling it again does nothing."""
    when_imported("transformers.training_args", _add_optimizer_name)
    when_imported("transformers.trainer", _wrap_trainer)


def adan_options(optim_args: str | None) -> dict[str, Any]:
    """Adan's keyword arguments from `--optim_args "beta1=0.98,beta2=0.92,beta3=0.99,no_prox=true"`.

    The Trainer splits the text at commas, so that betas come one by one. Raises UserError for an unknown or a
    malformed option, with the list of known ones.
    """
    betas = dict(DEFAULT_BETAS)
    options: dict[str, Any] = {}
    for item in filter(None, (optim_args or "").replace(" ", "").split(",")):
        name, separator, text = item.partition("=")
        if name in betas and separator:
            betas[name] = _number(name, text)
        elif name == "no_prox" and separator:
            if text.lower() not in ("true", "false"):
                raise UserError(f"--optim_args: no_prox must be true or false, got {text!r}")
            options["no_prox"] = text.lower() == "true"
        else:
            known = [*betas, "no_prox"]
            raise UserError(
                f"--optim_args: {item!r} is not an option of adan{nearest(name, known)}; "
                f"write name=value, with commas between; known are {', '.join(known)} (clipping is --max_grad_norm)"
            )
    return {"betas": tuple(betas.values()), **options}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--optim_args: {name} must be a number, got {text!r}") from None


def _add_optimizer_name(training_args: ModuleType) -> None:
    """Add the member ADAN = "adan" to the enumeration that `--optim` takes its choices from."""
    names: Any = training_args.OptimizerNames
    if NAME in names._value2member_map_:
        return
    member = str.__new__(names, NAME)
    member._name_, member._value_ = "ADAN", NAME
    member._sort_order_ = len(names._member_names_)
    names._member_names_.append("ADAN")
    names._member_map_["ADAN"] = names._value2member_map_[NAME] = member
    type.__setattr__(names, "ADAN", member)  # an enumeration's own `__setattr__` refuses to set a member


def _wrap_trainer(trainer: ModuleType) -> None:
    """Answer for Adan in `Trainer.get_optimizer_cls_and_kwargs(args, model)`; pass every other optimizer on."""
    theirs = trainer.Trainer.get_optimizer_cls_and_kwargs
    if getattr(theirs, "knows_adan", False):
        return

    @functools.wraps(theirs)
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        if args.optim != NAME:
            return theirs(args, model)
        from nlp_adan.adan import Adan

        options = {"lr": args.learning_rate, "eps": args.adam_epsilon, **adan_options(args.optim_args)}
        return Adan, options

    get_optimizer_cls_and_kwargs.knows_adan = True  # type: ignore[attr-defined]
    trainer.Trainer.get_optimizer_cls_and_kwargs = staticmethod(get_optimizer_cls_and_kwargs)
