"""`python -m glue_eval list`: the tasks with their facts, the recipes, and the published rows to compare with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glue_eval.published import PUBLISHED
from glue_eval.tasks import TASKS, Task
from nlp_adan.training.recipe import CommandParser, recipe_names

RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass
class ListOptions:
    """How it is printed."""

    json: bool = dataclasses.field(default=False, metadata={"help": "As one JSON object, for programs."})


def parse_list(words: Sequence[str]) -> ListOptions:
    """The options of `list`. Raises UserError for a word that is none."""
    description = "The tasks with their facts, the recipes, and the published rows to compare with."
    parser = CommandParser((ListOptions,), prog="python -m glue_eval list", description=description)
    (options,) = parser.parse(words)
    found: ListOptions = options
    return found


def list_command(words: Sequence[str]) -> None:
    """Print what there is to run and to compare with.

    Raises:
        UserError: A word of the command line is wrong.
    """
    options = parse_list(words)
    found = listing()
    print(json.dumps(found, indent=2) if options.json else "\n".join(_lines(found)), flush=True)


def listing() -> dict[str, Any]:
    """`tasks` (a member each by name), `recipes` (names) and `published` (rows, each with the files of its scores)."""
    return {
        "tasks": {name: task_facts(task) for name, task in TASKS.items()},
        "recipes": recipe_names(RECIPES),
        "published": [{"name": row.name, "split": row.split, "tasks": list(row.scores)} for row in PUBLISHED],
    }


def task_facts(task: Task) -> dict[str, Any]:
    """One task as a JSON object: `files` with their counts, `metrics`, `labels` or `score_range`, `max_length`."""
    return {
        "files": {split.file: split.num_examples for split in task.splits},
        "metrics": list(task.metrics),
        "labels": None if task.labels is None else list(task.labels),
        "score_range": None if task.score_range is None else list(task.score_range),
        "max_length": task.max_length,
    }


def _lines(found: Mapping[str, Any]) -> list[str]:
    rows = [("task", "examples: train, dev, test", "metrics", "length", "labels")]
    for name, facts in found["tasks"].items():
        counts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
        for file, count in facts["files"].items():
            kind = next((kind for kind in counts if file.startswith(kind)), "test")
            counts[kind].append(f"{count:,}")
        low_high = facts["score_range"]
        labels = ", ".join(facts["labels"]) if low_high is None else f"{low_high[0]:g} to {low_high[1]:g}"
        examples = ", ".join(" + ".join(count) or "-" for count in counts.values())
        rows.append((name, examples, ", ".join(facts["metrics"]), str(facts["max_length"]), labels))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", f"recipes: {', '.join(found['recipes'])}", "published rows:"]
    return lines + [f"  {row['name']} ({row['split']}): {', '.join(row['tasks'])}" for row in found["published"]]
