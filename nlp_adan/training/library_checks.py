"""Whether the libraries can do what the options ask for: they are asked, with objects that are made and thrown away.

Nothing here draws a random number or touches the run's model. Every function raises UserError naming the option.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import huggingface_hub
import torch
from accelerate.utils import DynamoBackend
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, get_scheduler
from transformers.integrations import integration_utils

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.integrations.huggingface import NAME, adan_options
from nlp_adan.training.budget import UNBOUNDED_STEPS, budget_schedule
from nlp_adan.training.recipe import unknown_value


def check_optimizer(options: Any) -> None:
    """`--optim` with its arguments: whether it is installed and takes them."""
    name, parameter = options.optim.value, nn.Parameter(torch.zeros(1))
    if name == NAME:
        try:
            Adan([parameter], lr=options.learning_rate, eps=options.adam_epsilon, **adan_options(options.optim_args))
        except ValueError as error:
            raise UserError(f"--optim_args/--adam_epsilon: {error}") from error
        return
    for item in filter(None, (options.optim_args or "").replace(" ", "").split(",")):
        if item.count("=") != 1:
            raise UserError(f"--optim {name}: cannot read {item!r}; write `--optim_args NAME=VALUE,NAME=VALUE`")
    try:
        optimizer_class, details = Trainer.get_optimizer_cls_and_kwargs(options)
        optimizer_class([parameter], **details)
    except ImportError as error:
        raise UserError(f"--optim {name}: {error}") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        if options.optim_target_modules is None and "lomo" not in name:  # these few want the model, which is not there
            raise UserError(
                f"--optim {name}: {error}; its values are --learning_rate, --adam_beta1, --adam_beta2, --adam_epsilon "
                "and --optim_args"
            ) from error


def check_schedule(options: Any) -> None:
    """`--lr_scheduler_type` with its arguments, over the run's steps."""
    num_steps = options.max_steps if options.max_steps > 0 else UNBOUNDED_STEPS
    with _told_of_schedule(options):
        schedule = get_scheduler(
            options.lr_scheduler_type,
            optimizer=_sgd(options.learning_rate),
            num_warmup_steps=options.get_warmup_steps(num_steps),
            num_training_steps=num_steps,
            scheduler_specific_kwargs=options.lr_scheduler_kwargs,
        )
        if isinstance(schedule, LambdaLR):
            for step in (num_steps // 2, num_steps):
                schedule.lr_lambdas[0](step)


def check_budget_schedule(options: Any) -> None:
    """Whether the schedule can go by a budget of hours (`--max_hours`)."""
    with _told_of_schedule(options):
        budget_schedule(options, _sgd(options.learning_rate), lambda: 0.0)


@contextlib.contextmanager
def _told_of_schedule(options: Any) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"--lr_scheduler_type {options.lr_scheduler_type.value}: {' '.join(str(error).split())}; "
            "its own values go into `--lr_scheduler_kwargs '{\"name\": value}'`"
        ) from error


def _sgd(learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=learning_rate)


def check_compiler(backend: str | None, mode: str | None) -> None:
    """`--torch_compile_backend` and `--torch_compile_mode`: names that accelerate and torch know."""
    known = [each.value.lower() for each in DynamoBackend]
    if backend is not None and backend.lower() not in known:
        raise unknown_value("--torch_compile_backend", backend, known)
    try:
        torch.compile(nn.Identity(), backend=backend or "inductor", mode=mode)
    except (RuntimeError, ImportError) as error:
        raise UserError(
            f"--torch_compile_backend/--torch_compile_mode: {str(error).splitlines()[0]}; leave both out for inductor"
        ) from error


def check_reporters(names: Sequence[str]) -> None:
    """`--report_to`: whether each is known and installed."""
    for name in names:
        known = sorted(integration_utils.INTEGRATION_TO_CALLBACK)
        if name not in known:
            raise unknown_value("--report_to", name, known)
        if name in integration_utils.get_available_reporting_integrations():
            continue
        (callback,) = integration_utils.get_reporting_integration_callbacks([name])
        try:
            callback()  # says itself what it misses
        except (RuntimeError, ImportError) as error:
            raise UserError(f"--report_to: {name!r} cannot be used here: {error}; or leave it out") from error


def check_hub(token: str | None) -> None:
    """`--push_to_hub`: whether there is a hub, and a user whom it knows. Rank 0 asks it."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UserError("--push_to_hub: the hub is offline (HF_HUB_OFFLINE); unset that, or leave the option out")
    token = token or huggingface_hub.get_token()
    if token is None:
        raise UserError("--push_to_hub: no access token is known; `hf auth login`, or leave the option out")
    if os.environ.get("RANK", "0") == "0":
        hub_user(token)


@functools.lru_cache
def hub_user(token: str) -> str:
    """The hub's name of a token's user, asked once."""
    try:
        return str(huggingface_hub.HfApi().whoami(token)["name"])
    except Exception as error:  # of requests or of httpx, by the hub library's version
        first = str(error).partition("\n")[0]
        raise UserError(
            f"--push_to_hub: the hub does not answer or does not know the token ({first}); "
            "`hf auth whoami` shows what is wrong, or leave the option out"
        ) from error
