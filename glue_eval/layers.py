"""A GLUE recipe, or one's own file in its form: options for all tasks and for single ones, checked key by key."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glue_eval.tasks import TASKS, Task
from nlp_adan.errors import UserError, nearest
from nlp_adan.training.recipe import CommandParser, given_options, options_in_question
from nlp_adan.training.recipe_file import RecipeFile, read_recipe_file, wrong_form

# Of the command line only: no hyperparameters.
CALLS_OWN = frozenset({
    "model", "data", "tasks", "seeds", "jobs", "recipe", "config", "allow_partial", "dry_run", "output_dir", "resume",
    "seed",
})  # fmt: skip
# The same for all tasks: the report says once which they are.
COMMON = frozenset({"checkpoint", "group_by_length", "mnli_model", "predict_test", "save_models"})


@dataclass(frozen=True)
class Layer:
    """Options for all tasks (`common`), and for single ones by the task's name (`own`)."""

    file: RecipeFile
    common: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]

    @property
    def path(self) -> Path:
        """The file that it was read from."""
        return self.file.path

    @classmethod
    def read(cls, path: Path, parser: CommandParser, tasks: Sequence[Task]) -> Layer:
        """Read a file.

        Raises:
            UserError: An unknown key, a task that is not known, or what is no table. Names file and line.
        """
        file = read_recipe_file(path)
        if unknown := [str(key) for key in file.values if key not in ("default", "tasks")]:
            where = file.place(unknown[0])
            raise UserError(f"{where}: unknown key {unknown[0]!r}; a GLUE recipe has `default` and `tasks`")
        common, own = file.values.get("default") or {}, file.values.get("tasks") or {}
        for name, options in (("default", common), ("tasks", own)):
            _check_table(file, (name,), options)
        known_tasks = {**TASKS, **{task.name: task for task in tasks}}
        for name, options in own.items():
            if name not in known_tasks:
                where = file.place("tasks", str(name))
                raise UserError(f"{where}: unknown task {name!r}{nearest(str(name), known_tasks)}")
            _check_table(file, ("tasks", name), options or {})
        known = {option[2:]: action for action in parser._actions for option in action.option_strings}
        sections: list[tuple[tuple[str, ...], Any]] = [(("default",), common)]
        sections += [(("tasks", name), options) for name, options in own.items()]
        for section, options in sections:
            for key, value in (options or {}).items():
                _check_key(file, section, str(key), value, known)
        return cls(file, common, {name: options or {} for name, options in own.items()})

    def options(self, task: Task) -> dict[str, Any]:
        """What it says for a task."""
        return {**self.common, **self.own.get(task.name, {})}

    def place(self, task: Task, option: str) -> str:
        """File, line and section of what acts on a task: `mine.yaml:4: RTE`."""
        if option in self.own.get(task.name, {}):
            return f"{self.file.place('tasks', task.name, option)}: {task.name}"
        return f"{self.file.place('default', option)}: default"


@contextlib.contextmanager
def told_with_place(layers: Sequence[Layer], task: Task, words: Sequence[str]) -> Iterator[None]:
    """Put its place before a UserError that is about an option of one of the layers, the last one that says it.

    words: the command line, which is over the layers.
    """
    try:
        yield
    except UserError as error:
        for option in options_in_question(error):
            for layer in reversed(layers):
                if option in layer.options(task) and option not in given_options(words):
                    raise UserError(f"{layer.place(task, option)}: {error}") from error
        raise


def _check_table(file: RecipeFile, keys: tuple[str, ...], options: Any) -> None:
    if not isinstance(options, Mapping):
        where, found = file.place(*keys), type(options).__name__
        raise UserError(f"{where}: {keys[-1]!r} takes `option: value` pairs, found {found}")


def _check_key(
    file: RecipeFile, section: tuple[str, ...], key: str, value: Any, known: Mapping[str, argparse.Action]
) -> None:
    where = file.place(*section, key)
    if key not in known:
        raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    if key in CALLS_OWN:
        raise UserError(f"{where}: {key!r} is no hyperparameter; say it on the command line, with `--{key}`")
    if key in COMMON and section != ("default",):
        raise UserError(f"{where}: {key!r} is the same for all tasks; say it under `default`")
    wrong = wrong_form(key, value, takes_several=known[key].nargs in ("+", "*"))
    if wrong is not None:
        raise UserError(f"{where}: {wrong}")
