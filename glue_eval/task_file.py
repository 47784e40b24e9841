"""One's own task from a short YAML file: a `Task` like GLUE's, wherever a task is taken.

    name: headlines
    train: train.tsv
    dev: dev.tsv
    text: [title, summary]
    label: topic
    labels: [politics, sports, weather]
    metrics: [accuracy]

`test` and `max_length` may be added; a regression task has `score_range: [0, 5]` instead of `labels`. Paths are seen
from the YAML file. A file is TSV with a header (read as GLUE's files are, without CSV's quoting) or JSON lines; columns
beyond those named are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import yaml

from glue_eval.problems import shorten
from glue_eval.rows import JSON_LINES, read_header
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError, nearest

CLASS_METRICS = ("accuracy", "f1", "matthews")
"""Metrics of `glue_eval.metrics` for tasks with `labels`; f1, that of the second label, for those with two."""

SCORE_METRICS = ("pearson", "spearman")
"""Metrics of `glue_eval.metrics` for tasks with a `score_range`."""

SPLITS = ("train", "dev", "test")
REQUIRED = ("name", "train", "dev", "text", "label")
KEYS = (*REQUIRED, "test", "labels", "score_range", "metrics", "max_length")
MAX_LENGTHS = (4, 1_000_000)  # tokens
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_task_file(path: Path) -> Task:
    """The task that a YAML file defines.

    Raises:
        UserError: The file or one of those it names is missing, it is not YAML, or a key or value in it is none that a
            task can have. Names file, line and remedy.
    """
    return _Definition(path).task()


class _Definition:
    """The keys and values of a definition as nodes of YAML, which know their lines.

    Values are taken as they are spelled: a label `no` or `1.0` is that text, whatever YAML makes of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.shown = path
        self.nodes: dict[str, yaml.Node] = {}
        root = self._compose()
        for key, value in root.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name not in KEYS:
                self.fail(key, f"unknown key {shorten(name)!r}{nearest(name, KEYS)}", f"possible: {', '.join(KEYS)}")
            if name in self.nodes:
                self.fail(key, f"{name!r} stands here for the second time", "leave one of them")
            self.nodes[name] = value
        missing = [name for name in REQUIRED if name not in self.nodes]
        if missing:
            self.fail(root, f"no {missing[0]!r}", f"add a line `{missing[0]}: ...`")
        if ("labels" in self.nodes) == ("score_range" in self.nodes):
            number = "both" if "labels" in self.nodes else "neither"
            kinds = "give `labels: [...]` for classes or `score_range: [0, 5]` for a number"
            self.fail(root, f"{number} of 'labels' and 'score_range'", kinds)

    def fail(self, node: yaml.Node, text: str, remedy: str) -> NoReturn:
        """Raise a UserError that names the node's line."""
        raise UserError(f"{self.shown}:{node.start_mark.line + 1}: {text}: {remedy}")

    def _compose(self) -> yaml.MappingNode:
        try:
            root = yaml.compose(self.path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except FileNotFoundError:
            folder = self.path.parent
            found = [other.name for other in folder.glob("*.y*ml")] if folder.is_dir() else []
            hint = nearest(self.path.name, found)
            raise UserError(
                f"no file {self.shown}{hint}: a task is a name of GLUE's or the path of a YAML file"
            ) from None
        except OSError as error:
            raise UserError(f"{self.shown}: cannot be read ({error.strerror}): give the path of a YAML file") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}" if mark else ""
            reason = getattr(error, "problem", None) or error
            raise UserError(f"{self.shown}{where}: not a YAML file ({reason}): mend the line") from error
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{self.shown}:1: no `key: value` lines: a task has {', '.join(REQUIRED)} and labels")
        return root

    def word(self, name: str) -> str:
        """The value of a key that takes one."""
        node = self.nodes[name]
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            self.fail(node, f"{name!r} takes one value", f"write `{name}: ...`")
        return str(node.value)

    def words(self, name: str) -> list[str]:
        """The values of a key that takes a list; one value alone is a list of one."""
        node = self.nodes[name]
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not items or not all(isinstance(item, yaml.ScalarNode) and item.value for item in items):
            self.fail(node, f"{name!r} takes a list of words or numbers", f"write `{name}: [..., ...]`")
        found = [str(item.value) for item in items]
        for item, value in zip(items, found, strict=True):
            if found.count(value) > 1:
                self.fail(item, f"{value!r} stands twice in {name!r}", "leave one of them")
        return found

    def task(self) -> Task:
        """The task itself, its files looked at."""
        name = self.word("name")
        if not _NAME.fullmatch(name):
            remedy = "use at most 64 letters, digits, `_`, `.` and `-`: it names folders"
            self.fail(self.nodes["name"], f"name {shorten(name)!r} cannot be used", remedy)
        if name.lower() in {known.lower() for known in TASKS}:
            self.fail(self.nodes["name"], f"{name!r} is a task of GLUE's", "choose another name")
        labels = self._labels() if "labels" in self.nodes else None
        metrics = self._metrics(labels)
        return Task(
            name,
            tuple(self._split(split) for split in SPLITS if split in self.nodes),
            labels,
            metrics,
            main_metric=metrics[0],
            score_range=None if labels else self._score_range(),
            max_length=self._max_length(),
            definition=self.path,
        )

    def _labels(self) -> tuple[str, ...]:
        labels = tuple(self.words("labels"))
        if len(labels) < 2:
            self.fail(self.nodes["labels"], "one label only", "name all that occur in the file, two or more")
        return labels

    def _score_range(self) -> tuple[float, float]:
        try:
            low, high = (float(word) for word in self.words("score_range"))
            if not low < high or not abs(low) + abs(high) < float("inf"):
                raise ValueError
        except ValueError:
            self.fail(self.nodes["score_range"], "'score_range' takes two numbers, the lower first", "write `[0, 5]`")
        return low, high

    def _metrics(self, labels: tuple[str, ...] | None) -> tuple[str, ...]:
        possible = SCORE_METRICS if labels is None else CLASS_METRICS
        if "metrics" not in self.nodes:
            return SCORE_METRICS if labels is None else ("accuracy",)
        metrics = self.words("metrics")
        kind = "scores" if labels is None else "labels"
        for name in metrics:
            if name not in possible:
                text = f"{name!r} is no metric of a task with {kind}{nearest(name, possible)}"
                self.fail(self.nodes["metrics"], text, f"use {', '.join(possible)}")
        if "f1" in metrics and len(labels or ()) != 2:
            text = f"f1 is that of the second of two labels, this task has {len(labels or ())}"
            self.fail(self.nodes["metrics"], text, "use accuracy or matthews")
        return tuple(metrics)

    def _max_length(self) -> int:
        if "max_length" not in self.nodes:
            return Task.max_length
        word = self.word("max_length")
        low, high = MAX_LENGTHS
        if not word.isdecimal() or not low <= int(word) <= high:
            self.fail(
                self.nodes["max_length"],
                f"max_length {shorten(word)!r} is out of range",
                f"give a number of tokens from {low} on",
            )
        return int(word)

    def _split(self, split: str) -> SplitFile:
        file = self.word(split)
        path = self.path.parent / file
        node = self.nodes[split]
        if path.suffix not in (".tsv", JSON_LINES):
            remedy = "give a .tsv file (columns end at tabs, names in line 1) or a .jsonl file"
            self.fail(node, f"{file!r} is neither .tsv nor .jsonl", remedy)
        if not path.is_file():
            found = [other.name for other in path.parent.glob("*.*")] if path.parent.is_dir() else []
            self.fail(node, f"no file {path}{nearest(path.name, found)}", "paths are seen from this file's folder")
        text = self.words("text")
        if len(text) > 2:
            self.fail(self.nodes["text"], f"{len(text)} columns of text", "name one or two")
        label = None if split == "test" else self.word("label")
        if label in text:
            self.fail(self.nodes["label"], f"{label!r} is a column of text too", "name the column that holds the label")
        named = (*text, label) if label else tuple(text)
        columns = named if path.suffix == JSON_LINES else self._header(path, named)
        return SplitFile(split, file, columns, tuple(text), label)

    def _header(self, path: Path, named: Iterable[str]) -> tuple[str, ...]:
        """A TSV file's columns, with all of those named among them, once."""
        columns = read_header(path)
        for name in named:
            if columns.count(name) != 1:
                node = self.nodes["label" if name == self.nodes["label"].value else "text"]
                wrong = f"no column {shorten(name)!r}{nearest(name, columns)}"
                if name in columns:
                    wrong = f"several columns {name!r}"
                there = f"it has {', '.join(shorten(column) for column in columns)}" if columns else "it is empty"
                self.fail(node, f"{path}:1 has {wrong}", f"{there}")
        return columns
