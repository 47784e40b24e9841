"""`--optim adan` in every script that uses the Hugging Face Trainer.

transformers has no public registration of optimizers. Two seams carry ours: a member added to the enumeration
`OptimizerNames`, whose values are the choices of `--optim`, and a wrapper of the static method
`Trainer.get_optimizer_cls_and_kwargs`, which transformers 4.57 and 5.23 both have.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from nlp_adan.adan import Adan
from nlp_adan.errors import UserError, nearest
from nlp_adan.integrations.post_import import when_imported
from nlp_adan.options import check_options

NAME = "adan"
DEFAULT_BETAS = {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99}


def install() -> None:
    """Make `--optim adan` valid now or as soon as transformers is imported. Calling it again does nothing."""
    when_imported("transformers.training_args", _add_optimizer_name)
    when_imported("transformers.trainer", _wrap_trainer)


def adan_options(optim_args: str | None) -> dict[str, Any]:
    """Adan's keyword arguments from `--optim_args "beta1=0.98,beta2=0.92,beta3=0.99,no_prox=true"`.

    The Trainer splits the text at commas, so that betas come one by one; OPTIM_ARGS names all. Raises UserError for an
    option that is unknown, malformed or out of range, with the list of known ones.
    """
    options: dict[str, Any] = {}
    for item in filter(None, (optim_args or "").replace(" ", "").split(",")):
        name, separator, text = item.partition("=")
        if name in OPTIM_ARGS and not separator:
            raise UserError(f"--optim_args: {name!r} has no value; write `{name}=VALUE`, with commas between several")
        if name in options:
            raise UserError(f"--optim_args: {name!r} stands there twice; leave one of them")
        if name not in OPTIM_ARGS:
            raise UserError(
                f"--optim_args: {item!r} is not an option of adan{nearest(name, OPTIM_ARGS)}; write name=value, with "
                f"commas between; known are {', '.join(OPTIM_ARGS)} (lr, eps, weight_decay and clipping are "
                "--learning_rate, --adam_epsilon, --weight_decay and --max_grad_norm)"
            )
        options[name] = OPTIM_ARGS[name](name, text)
    options["betas"] = tuple(options.pop(name, default) for name, default in DEFAULT_BETAS.items())
    try:
        check_options({**Adan([torch.zeros(1)]).defaults, **options})
    except ValueError as error:
        raise UserError(f"--optim_args: {error}") from error
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--optim_args: {name} must be a number, got {text!r}") from None


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"--optim_args: {name} must be a whole number, got {text!r}") from None


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise UserError(f"--optim_args: {name} must be true or false, got {text!r}")
    return text.lower() == "true"


def _dtype(name: str, text: str) -> str:
    if text not in ("float32", "bfloat16"):
        raise UserError(f"--optim_args: {name} must be float32 or bfloat16, got {text!r}")
    return text


# What `--optim_args` takes, and how its text is read.
OPTIM_ARGS: dict[str, Callable[[str, str], Any]] = {
    **dict.fromkeys(DEFAULT_BETAS, _number),
    "no_prox": _truth,
    "state_dtype": _dtype,
    "keep_low_bits": _truth,
    "restart_interval": _whole_number,
    "fused": _truth,
    "foreach": _truth,
}


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
        _warn_of_adam_betas(args)
        options = {"lr": args.learning_rate, "eps": args.adam_epsilon, **adan_options(args.optim_args)}
        return Adan, options

    get_optimizer_cls_and_kwargs.knows_adan = True  # type: ignore[attr-defined]
    trainer.Trainer.get_optimizer_cls_and_kwargs = staticmethod(get_optimizer_cls_and_kwargs)


def _warn_of_adam_betas(args: Any) -> None:
    """Say, once over all ranks, that betas meant for Adam are left aside.

    A warning and no error: somebody else's script may set them in its code, where a command line cannot take them
    back. Adan cannot take them over: its second beta is of another average than Adam's.
    """
    # The class holds the defaults of its fields; a script's own TrainingArguments may have other ones.
    given = [name for name in ("adam_beta1", "adam_beta2") if getattr(args, name) != getattr(type(args), name, None)]
    if given and os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).warning(
            "%s: not used by --optim adan, whose betas are %s; set them by "
            '--optim_args "beta1=...,beta2=...,beta3=..."',
            " ".join(f"--{name} {getattr(args, name)}" for name in given),
            adan_options(args.optim_args)["betas"],
        )
