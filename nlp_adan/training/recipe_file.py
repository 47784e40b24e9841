"""A recipe's YAML file, read with the line of every key, so that a mistake in it can be told with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nlp_adan.errors import UserError

DEEPEST = 4  # keys of keys that are looked at: an alias may lead back into itself


@dataclass(frozen=True)
class RecipeFile:
    """What a file says. `lines`: from 1, by the keys that lead to a value: `("tasks", "RTE", "learning_rate")`."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]

    def place(self, *keys: str) -> str:
        """`mine.yaml:4` for a key that the file has, else the file alone."""
        return f"{self.path}:{self.lines[keys]}" if keys in self.lines else str(self.path)


def read_recipe_file(path: Path) -> RecipeFile:
    """Read a recipe.

    Raises:
        UserError: The file cannot be read, is no YAML file or no mapping, or has a key twice. Names file and line.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines = {} if node is None else _key_lines(path, node)
        values = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not a YAML file: {getattr(error, 'problem', error)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a .yaml file") from error
    if not isinstance(values, Mapping):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"{path}: a recipe is a list of `option: value` lines, found {found}")
    return RecipeFile(path, values, lines)


def _key_lines(path: Path, node: yaml.Node, leading: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """The line of each key; of two equal keys YAML would take the last without a word."""
    found: dict[tuple[str, ...], int] = {}
    if not isinstance(node, yaml.MappingNode) or len(leading) == DEEPEST:
        return found
    for key, value in node.value:
        keys, line = (*leading, str(key.value)), key.start_mark.line + 1
        if keys in found:
            raise UserError(f"{path}:{line}: {keys[-1]!r} stands in line {found[keys]} already; leave one of them")
        found[keys] = line
        found |= _key_lines(path, value, keys)
    return found


def wrong_form(key: str, value: Any, takes_several: bool) -> str | None:
    """What is wrong with a value that no words of a command line could give; None where nothing is.

    A run's resolved.yaml has lists of none or one value, which are words too.
    """
    if isinstance(value, list) and len(value) > 1 and not takes_several:
        return f"{key!r} takes one value, found a list; write `{key}: ...`"
    if isinstance(value, Mapping):
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:  # a date, or an alias of what it is in
            return f"{key!r} cannot be written as JSON ({error}); use names, numbers and words in quotation marks"
    return None
