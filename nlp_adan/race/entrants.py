"""Who races: an optimizer with the betas that are usual for it, a rate to begin the search with, its weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import Trainer, TrainingArguments

from nlp_adan.errors import UserError
from nlp_adan.race.options import MOST_SEEDS, entrant_names

DEFAULT_RATE = 1e-3
DEFAULT_RATES = {"adan": 4e-3, "sgd": 1.0}  # the search moves on from here
DECAYS = {"adan": 0.02, "adamw": 0.01}


@dataclass(frozen=True)
class Preset:
    """Betas, as a report names them, and the words that set them."""

    name: str
    words: tuple[str, ...] = ()


# Adan's: the authors' default, for long runs, and theirs for Transformer-XL, which short runs want.
# AdamW's: torch's default, and that of RoBERTa, whose batches are large.
ADAN_PRESETS = (
    Preset("betas 0.98, 0.92, 0.99", ("--optim_args", "beta1=0.98,beta2=0.92,beta3=0.99")),
    Preset("betas 0.9, 0.9, 0.999", ("--optim_args", "beta1=0.9,beta2=0.9,beta3=0.999")),
)
ADAMW_PRESETS = (
    Preset("betas 0.9, 0.999", ("--adam_beta1", "0.9", "--adam_beta2", "0.999")),
    Preset("betas 0.9, 0.98", ("--adam_beta1", "0.9", "--adam_beta2", "0.98")),
)
OTHER_PRESETS = (Preset("as the Trainer makes it"),)


@dataclass(frozen=True)
class Entrant:
    """An optimizer that races.

    name: unique in the race. optimizer: the Trainer's name. rates: to try, and no others; none: to be searched, from
    `first_rate` on. seed_offset: of its seeds, above 0 where the optimizer races against itself.
    """

    name: str
    optimizer: str
    presets: tuple[Preset, ...]
    rates: tuple[float, ...]
    first_rate: float
    weight_decay: float
    seed_offset: int = 0

    @property
    def search_seed(self) -> int:
        """Of the search's runs; no final run has it."""
        return self.seed_offset

    def seeds(self, number: int) -> tuple[int, ...]:
        """Of the final runs."""
        return tuple(range(self.seed_offset + 1, self.seed_offset + number + 1))

    def preset(self, name: str) -> Preset:
        """By its name."""
        return next(preset for preset in self.presets if preset.name == name)


def presets_of(optimizer: str) -> tuple[Preset, ...]:
    """The betas to try."""
    if optimizer == "adan":
        return ADAN_PRESETS
    return ADAMW_PRESETS if optimizer.startswith("adamw") else OTHER_PRESETS


def make_entrants(
    optimizers: Sequence[str],
    rates: Mapping[str, Sequence[float]],
    decays: Mapping[str, Sequence[float]],
    recipe: Mapping[str, object],
) -> list[Entrant]:
    """The entrants, in their order.

    Args:
        optimizers: the Trainer's names; a second mention races with other seeds.
        rates, decays: by the entrant's name, where the command line says them.
        recipe: its `optim`, `learning_rate` and `weight_decay`.

    Raises:
        UserError: several weight decays of one optimizer; nobody to compare with.
    """
    if len(optimizers) < 2:
        raise UserError(
            f"--optim: {optimizers[0].removesuffix('_torch')} alone is no race; name two optimizers, as `adamw,adan`"
        )
    entrants: list[Entrant] = []
    for optimizer, name in zip(optimizers, entrant_names(optimizers), strict=True):
        is_recipes = recipe["optim"] == optimizer
        decay = decays.get(name) or [_decay(optimizer, recipe if is_recipes else {})]
        if len(decay) > 1:
            raise UserError(f"--weight_decay: {len(decay)} values for {name}; give one, the race searches rates alone")
        own = tuple(dict.fromkeys(float(f"{rate:g}") for rate in rates.get(name, ())))  # as its runs' words say it
        first = recipe["learning_rate"] if is_recipes else DEFAULT_RATES.get(optimizer, DEFAULT_RATE)
        presets = presets_of(optimizer)
        entrants.append(
            Entrant(
                name=name,
                optimizer=optimizer,
                presets=presets[:1] if len(own) == 1 else presets,
                rates=own,
                first_rate=float(str(first)),
                weight_decay=decay[0],
                seed_offset=MOST_SEEDS * sum(entrant.optimizer == optimizer for entrant in entrants),
            )
        )
    return entrants


def _decay(optimizer: str, recipe: Mapping[str, object]) -> float:
    if "weight_decay" in recipe:
        return float(str(recipe["weight_decay"]))
    return next((decay for prefix, decay in DECAYS.items() if optimizer.startswith(prefix)), 0.0)


def check_can_be_made(optimizer: str, arguments: TrainingArguments) -> None:
    """Raise a UserError unless the Trainer can make the optimizer here."""
    model = torch.nn.Linear(2, 2)
    try:
        made, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        options.pop("params", None), options.pop("model", None), options.pop("optimizer_dict", None)
        made(model.parameters(), **options)
    except (ImportError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--optim: {optimizer} cannot be made here ({told}); install it, or choose another") from error
