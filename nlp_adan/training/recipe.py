"""From a recipe and a command line to option objects.

A recipe is a YAML file of command-line options. It is flattened to words put before the user's own, and one parser,
Hugging Face's, reads them all: the command line wins, an unknown key fails like an unknown option, and values are
converted alike (YAML reads `1e-3` as a string; the parser makes it a number).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments, training_args
from transformers.hf_argparser import string_to_bool

from nlp_adan.errors import UserError, nearest
from nlp_adan.training.recipe_file import read_recipe_file, wrong_form

# An option on the command line that puts a recipe's other options out of force.
SUPERSEDES = {
    "--gradient_accumulation_steps": ("--global_batch_size",),
    "--num_train_epochs": ("--max_steps", "--max_hours"),
    "--max_steps": ("--max_hours",),
    "--max_hours": ("--max_steps",),
    # Of a language model's recipe: a tokenizer has a vocabulary of its own.
    "--tokenizer": ("--unit", "--lower_case", "--max_vocab", "--min_count"),
}
# Options that name a file, a folder or something on the hub: of an empty name the working folder would be taken.
NAMING = (
    "config", "config_name", "data", "mnli_model", "model", "model_name_or_path", "recipe", "resume", "tokenizer",
    "verify",
)  # fmt: skip
# A value that says no more than leaving the option out.
_UNSET = {"--max_steps": "-1"}


class UnknownOption(UserError):
    """A word that no option is; `word`."""

    def __init__(self, message: str, word: str) -> None:
        super().__init__(message)
        self.word = word


class CommandParser(HfArgumentParser):
    """Hugging Face's parser of dataclasses; options are never abbreviated, a mistake is a `UserError`."""

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        for action in self._actions:  # `--bf16` alone says yes, as every other switch does
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True

    def error(self, message: str) -> NoReturn:
        """Raise the mistake that argparse found as a `UserError`, with the nearest of the possible values."""
        match = re.match(r"argument (--[\w-]+).*invalid choice: '?(.*?)'? \(choose from (.*)\)$", message)
        if match:
            raise unknown_value(match[1], match[2], _choices(match[3]))
        message = re.sub(r"^argument (--\w+)[/\w-]*: ", r"\1: ", message)  # one of an option's two spellings
        raise UserError(f"{message}; see {self.prog} --help")

    def parse(self, words: Sequence[str]) -> tuple[Any, ...]:
        """One object for each dataclass. `--optim adamw` is `--optim adamw_torch`."""
        words = _spell_out_adamw(words)
        _, unknown = self.parse_known_args(words)
        if unknown:  # told before an option's own check: what is missing there may be misspelled here
            options = [option for action in self._actions for option in action.option_strings]
            what = "option" if unknown[0].startswith("-") else "argument"
            hint = nearest(unknown[0].split("=")[0], options)
            raise UnknownOption(f"unknown {what} {unknown[0]!r}{hint}; see {self.prog} --help", unknown[0])
        try:
            found = tuple(self.parse_args_into_dataclasses(words, look_for_args_file=False))
        except (ValueError, ImportError, argparse.ArgumentTypeError) as error:  # an option's own check, not argparse's
            message = " ".join(str(error).split())
            match = re.match(r"(\S*?) ?is not a valid (\w+), please select one of \[(.*)\]$", message)
            if match and (option := _option_with(match[2], match[1], words)):
                raise unknown_value(option, match[1], _choices(match[3])) from error
            raise UserError(self._in_our_words(message)) from error
        for name in NAMING:
            if any(getattr(instance, name, None) == "" for instance in found):
                raise UserError(f"--{name}: nothing is named by ''; give a name or a path, or leave the option out")
        return found

    def _in_our_words(self, message: str) -> str:
        """A library's message with options as the command line has them, and with values for Python's enumerations."""

        def value(match: re.Match[str]) -> str:
            member = getattr(getattr(training_args, match[1], None), match[2], None)
            return str(member.value) if isinstance(member, enum.Enum) else match[0]

        message = re.sub(r"\b([A-Z]\w+)\.([A-Z_]+)\b", value, message)
        known = {option for action in self._actions for option in action.option_strings}
        return re.sub(
            r"(?<![\w.'\"/-])[a-z]+_\w+",
            lambda match: f"--{match[0]}" if f"--{match[0]}" in known else match[0],
            message,
        )


def _option_with(enumeration: str, value: str, words: Sequence[str]) -> str | None:
    """The option of one of transformers' enumerations that has this value, the last one; None where there is none.

    Other options may have an equal value, which is good there.
    """
    kinds = {
        f"--{name}"
        for owner in TrainingArguments.__mro__
        for name, kind in vars(owner).get("__annotations__", {}).items()
        if enumeration in str(kind)
    }
    pairs = [
        tuple(word.split("=", 1)) if "=" in word else (word, after) for word, after in itertools.pairwise([*words, ""])
    ]
    return next((option for option, given in reversed(pairs) if option in kinds and given == value), None)


def _choices(text: str) -> list[str]:
    return [choice.strip().strip("'") for choice in text.split(",")]


def unknown_value(option: str, value: str, choices: Sequence[str]) -> UserError:
    """The error for a value that is none of the choices."""
    shown = ", ".join(choices) if len(choices) <= 12 else f"{', '.join(choices[:12])}, ..."
    return UserError(f"{option}: unknown value {value!r}{nearest(value, choices)}; possible: {shown}")


def _spell_out_adamw(words: Sequence[str]) -> list[str]:
    """The Trainer's name of torch's AdamW is `adamw_torch`; people write `adamw`."""
    spelled = list(words)
    for index, word in enumerate(words):
        if word == "--optim=adamw":
            spelled[index] = "--optim=adamw_torch"
        elif word == "adamw" and index > 0 and words[index - 1] == "--optim":
            spelled[index] = "adamw_torch"
    return spelled


def find_recipe(name: str, folder: Path) -> Path:
    """The file of a recipe given by name (in `folder`) or by the path of a YAML file."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        check_is_file("recipe", name)
        return Path(name)
    known = recipe_names(folder)
    if name not in known:
        raise UserError(
            f"--recipe: unknown recipe {name!r}{nearest(name, known)}; "
            f"known are {', '.join(known)}, or give the path of a .yaml file"
        )
    return folder / f"{name}.yaml"


def check_is_file(option: str, name: str) -> None:
    """Raise a UserError unless an option's value is a file."""
    if Path(name).is_dir():
        raise UserError(f"--{option}: {name!r} is a folder; name a .yaml file")
    if not Path(name).is_file():
        siblings = sorted(str(path) for path in Path(name).parent.glob("*.y*ml"))
        raise UserError(f"--{option}: the file {name!r} does not exist{nearest(name, siblings)}")


def word_value(option: str, words: Sequence[str]) -> str | None:
    """The value of an option among command-line words, where it is needed before they can be parsed; the last one."""
    found = None
    for index, word in enumerate(words):
        name, separator, value = word.partition("=")
        if not word.startswith("--") or name.replace("-", "_") != option.replace("-", "_"):
            continue
        if separator:
            found = value
        elif index + 1 < len(words):
            found = words[index + 1]
    return found


def given_options(words: Sequence[str]) -> frozenset[str]:
    """The names of the options among command-line words: what the user said, and no recipe."""
    return frozenset(word.partition("=")[0][2:].replace("-", "_") for word in words if word.startswith("--"))


def recipe_names(folder: Path) -> list[str]:
    """The names of the recipes in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_recipe(path: Path) -> Mapping[str, Any]:
    """A recipe file's mapping. Raises UserError naming the file, and the line where there is one, for another file."""
    return read_recipe_file(path).values


def option_words(options: Mapping[str, Any]) -> list[list[str]]:
    """Each option as its command-line words: `--name` and its values. None and empty lists stand for the default."""
    words = []
    for key, value in options.items():
        if value is None or value == []:
            continue
        if isinstance(value, list):
            values = [str(item) for item in value]
        else:
            values = [json.dumps(value) if isinstance(value, Mapping) else str(value)]
        words.append([f"--{key}", *values])
    return words


def parse_with_recipe(
    parser: CommandParser, recipe: Mapping[str, Any], path: Path, words: Sequence[str]
) -> tuple[Any, ...]:
    """Parse the words of a recipe, read from `path`, then the user's.

    Raises UserError for a mistake of the user's, and for a key of the recipe's that is no option.
    """
    return parser.parse(layered_words(parser, [(recipe, path)], words))


def layered_words(
    parser: CommandParser, recipes: Sequence[tuple[Mapping[str, Any], Path]], words: Sequence[str]
) -> list[str]:
    """The words of recipes, each with the file that it was read from, then the user's; what comes later wins.

    Raises UserError for a key that is no option, and where two of the user's words exclude each other.
    """
    _refuse_both(words)
    layered = list(words)
    for recipe, path in reversed(recipes):
        layered = _with_recipe(parser, recipe, path, layered)
    return layered


def _with_recipe(parser: CommandParser, recipe: Mapping[str, Any], path: Path, words: Sequence[str]) -> list[str]:
    """A recipe's words, without those that the words after them put out of force, then these."""
    given = [theirs for ours, theirs in SUPERSEDES.items() if word_value(ours, words) is not None]
    superseded = {option for theirs in given for option in theirs}
    if word_value("--optim", words) not in (None, recipe.get("optim")):
        superseded.add("--optim_args")  # another optimizer's
    known = {option[2:]: action for action in parser._actions for option in action.option_strings}
    for key, value in recipe.items():
        _check_key(path, str(key), value, known)
    ours = [word for option, *values in option_words(recipe) if option not in superseded for word in (option, *values)]
    return [*ours, *words]


def _check_key(path: Path, key: str, value: Any, known: Mapping[str, argparse.Action]) -> None:
    """Raise a UserError for a key that is no option, and for a value that no command line could give."""
    if key not in known:
        wrong: str | None = f"unknown key {key!r}{nearest(key, known)}"
    else:
        wrong = wrong_form(key, value, takes_several=known[key].nargs in ("+", "*"))
    if wrong is not None:
        raise UserError(f"{read_recipe_file(path).place(key)}: {wrong}")


def options_in_question(error: UserError) -> list[str]:
    """The names of the options that a message is about, in its order: not those of remedy and suggestion."""
    about = re.sub(r"`.*?`|\(did you mean .*?\)", "", str(error))
    return [name.replace("-", "_") for name in re.findall(r"--([\w-]+)", about)]


@contextlib.contextmanager
def told_with_place(path: Path, words: Sequence[str]) -> Iterator[None]:
    """Put `mine.yaml:4: ` before a UserError about an option that the recipe says, and the user's words do not."""
    try:
        yield
    except UserError as error:
        (option, *_) = [*options_in_question(error), ""]
        if not option or isinstance(error, UnknownOption) or option in given_options(words):
            raise
        file = read_recipe_file(path)
        if option not in file.values:
            raise
        raise UserError(f"{file.place(option)}: {error}") from error


def _refuse_both(words: Sequence[str]) -> None:
    """Raise a UserError for two options on one command line of which one puts the other out of force.

    A recipe may have both: a run's resolved.yaml names every option.
    """
    for option, others in SUPERSEDES.items():
        for other in others:
            if all(word_value(name, words) not in (None, _UNSET.get(name)) for name in (option, other)):
                raise UserError(f"{option} beside `{other}`: only one of them could act; choose one")


def check_range(option: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise a UserError unless low <= value <= high and value is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"between {_digits(low)} and {_digits(high)}" if high < math.inf else f"{_digits(low)} or more"
        bounds = "a finite number" if value == math.inf == high else bounds
        raise UserError(f"--{option}: {_digits(value)} is out of range; give {bounds}")


def _digits(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def resolved(*objects: Any) -> dict[str, Any]:
    """All options of some option objects as one flat mapping of plain values, as a YAML or JSON file takes them.

    Access tokens are left out.
    """
    return {
        field.name: None if field.name.endswith("_token") else _plain(getattr(instance, field.name))
        for instance in objects
        for field in dataclasses.fields(instance)
        if field.init and not field.name.startswith("_")
    }


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
