"""The options of `run_race.py`: the race's own, and the words left for the recipe's family."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from nlp_adan.errors import UserError, nearest
from nlp_adan.training.recipe import CommandParser, check_range, given_options

# Options of run_pretrain.py that the race sets for every run, and what says them here.
SET_BY_THE_RACE = {
    "learning_rate": "--lr",
    "optim_args": "--optim: the race tries the betas that are usual for it",
    "adam_beta1": "--optim: the race tries the betas that are usual for it",
    "adam_beta2": "--optim: the race tries the betas that are usual for it",
    "max_steps": "--budget steps:N",
    "num_train_epochs": "--budget steps:N",
    "max_hours": "--budget hours:H",
    "seed": "--seeds",
    "data_seed": "--seeds",
    "resume": "the same command, which goes on by itself",
    "eval_strategy": "--evaluations",
    "eval_steps": "--evaluations",
    "load_best_model_at_end": "nothing: a race compares the last step's models",
    "save_strategy": "nothing: runs are saved four times",
    "save_steps": "nothing: runs are saved four times",
    "save_total_limit": "--keep_models: without it, no checkpoint is kept",
    "logging_strategy": "nothing: a step's time is read from the log",
    "push_to_hub": "nothing: the models of a race are not for others",
}
MOST_SEEDS = 1000  # the next thousand is another entrant's


@dataclasses.dataclass
class RaceOptions:
    """What is raced, and how. All other options are those of run_pretrain.py for the family."""

    optim: str = dataclasses.field(
        default="adamw,adan",
        metadata={
            "help": "Optimizers, with commas between: adan, adamw, or any name the Trainer knows. The others are "
            "compared with the first. One that is named twice races against itself, with other seeds."
        },
    )
    lr: list[str] = dataclasses.field(
        default_factory=lambda: ["auto"],
        metadata={
            "help": "Peak learning rates to try: `auto` searches; `1e-3,2e-3` for all; `adamw=1e-3,2e-3 adan=4e-3` for "
            "each. A single rate is not searched, nor are betas: the first preset races. The second adamw is adamw-2."
        },
    )
    weight_decay: list[str] = dataclasses.field(
        default_factory=list,
        metadata={
            "help": "Weight decay: `0.01` for all, or `adamw=0.01 adan=0.02`; default: the recipe's for its own "
            "optimizer, 0.02 for Adan, 0.01 for AdamW, else 0."
        },
    )
    seeds: int = dataclasses.field(default=3, metadata={"help": "Final runs of each optimizer."})
    budget: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Of a final run: `steps:N`, `tokens:N` or `hours:H` of training; default: the recipe's own length."
        },
    )
    output_dir: str = dataclasses.field(default="runs/race", metadata={"help": "Folder of the runs and the report."})
    batch_sizes: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Sequences a step, with commas between, such as 32,64,128: a race at each of them too, over as "
            "many sequences as in the budget, or for as many hours."
        },
    )
    search_runs: int = dataclasses.field(
        default=8, metadata={"help": "Short runs of each optimizer's search, with `--lr auto`."}
    )
    short_share: float = dataclasses.field(
        default=0.25, metadata={"help": "Length of these, as a share of the budget."}
    )
    longer_share: float = dataclasses.field(
        default=0.5, metadata={"help": "Length of the two best, once more, as a share of the budget."}
    )
    evaluations: int = dataclasses.field(default=40, metadata={"help": "Evaluations in a final run, about so many."})
    jobs: int = dataclasses.field(
        default=1, metadata={"help": "Runs at a time, each with its share of the cores, or a GPU of its own."}
    )
    keep_models: bool = dataclasses.field(
        default=False, metadata={"help": "Keep each run's model and checkpoints; they are removed when it has ended."}
    )
    dry_run: bool = dataclasses.field(default=False, metadata={"help": "Say what would be run, and stop."})


def parse_race(words: Sequence[str]) -> tuple[RaceOptions, list[str]]:
    """The race's options, and the words that are left for the family.

    Raises: UserError for a value that is wrong, and for an option that the race sets itself.
    """
    parser = CommandParser((RaceOptions,), prog="run_race.py FAMILY", description=RaceOptions.__doc__)
    options, rest = parser.parse_args_into_dataclasses(
        list(words), return_remaining_strings=True, look_for_args_file=False
    )
    for name in given_options(rest):
        if name in SET_BY_THE_RACE:
            raise UserError(f"--{name}: the race sets it for every run; use {SET_BY_THE_RACE[name]}")
    check(options)
    return options, rest


def check(options: RaceOptions) -> None:
    """Raise a UserError for a value that is out of range."""
    check_range("seeds", options.seeds, 1, MOST_SEEDS - 1)
    for name in ("search_runs", "evaluations", "jobs"):
        check_range(name, getattr(options, name), 1)
    for name in ("short_share", "longer_share"):
        check_range(name, getattr(options, name), 0.01, 1.0)
    if not options.output_dir:
        raise UserError("--output_dir: name the folder that the race is to fill, such as runs/race")


def optimizer_names(text: str) -> list[str]:
    """The optimizers of `--optim`, `adamw` as the Trainer calls it."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--optim: {text!r} has an empty name; give optimizers with commas between, as `adamw,adan`")
    return ["adamw_torch" if name == "adamw" else name for name in names]


def entrant_names(optimizers: Sequence[str]) -> list[str]:
    """What a report calls them: `adamw` for the Trainer's `adamw_torch`, `adamw-2` where it races a second time."""
    names: list[str] = []
    for place, optimizer in enumerate(optimizers):
        before = optimizers[:place].count(optimizer)
        names.append(optimizer.removesuffix("_torch") + (f"-{before + 1}" if before else ""))
    return names


def numbers_of_each(option: str, items: Sequence[str], entrants: Sequence[str]) -> dict[str, list[float]]:
    """`NUMBERS` for all entrants or `NAME=NUMBERS` for each, NUMBERS with commas between; none for those not named.

    Raises: UserError for another name, no number, or none at all.
    """
    found: dict[str, list[float]] = {}
    for item in items:
        name, separator, text = item.rpartition("=")
        if "=" in name:
            raise UserError(
                f"--{option}: {item!r} names two optimizers; give each a word of its own: `NAME=1e-3 NAME=2`"
            )
        known = name.removesuffix("_torch")
        if separator and known not in entrants:
            raise UserError(
                f"--{option}: {name!r} does not race{nearest(name, entrants)}; entrants are {', '.join(entrants)}"
            )
        values = [_positive(option, value.strip(), item) for value in text.split(",")]
        for entrant in [known] if separator else entrants:
            if entrant in found:
                raise UserError(f"--{option}: {item!r} says {entrant}'s a second time; say it once")
            found[entrant] = values
    return found


def _positive(option: str, text: str, item: str) -> float:
    """A number: above 0 where it is a rate, 0 or more where it is a decay."""
    if not text:
        raise UserError(f"--{option}: {item!r} is an empty list; give numbers with commas between, as 1e-3,2e-3")
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--{option}: {text!r} is no number; give numbers with commas between, as 1e-3,2e-3") from None
    if not 0 <= value < math.inf or (option == "lr" and value == 0):
        raise UserError(
            f"--{option}: {text} is out of range; give numbers {'above 0' if option == 'lr' else 'of 0 or more'}"
        )
    return value


def learning_rates(items: Sequence[str], entrants: Sequence[str]) -> dict[str, list[float]]:
    """`numbers_of_each` of `--lr`, where `auto` stands for those that are not named."""
    given = [item for item in items if item != "auto"]
    for item in given if len(given) < len(items) else ():
        if "=" not in item:
            raise UserError(f"--lr: auto beside {item}, which is for all; give one of them, or NAME={item}")
    return numbers_of_each("lr", given, entrants)


def batch_sizes(text: str | None) -> list[int]:
    """The sizes of `--batch_sizes`, ascending."""
    if text is None:
        return []
    sizes = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise UserError(f"--batch_sizes: {part.strip()!r} is no number of sequences; give some, as 32,64,128")
        sizes.append(int(part))
    if len(set(sizes)) < len(sizes):
        raise UserError(f"--batch_sizes: {text} names a size twice")
    return sorted(sizes)
