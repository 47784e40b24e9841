"""GLUE from the Hugging Face hub, written once as GLUE's own TSV files into the cache: one reader for all sources."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glue_eval.table_files import Example, table_text
from glue_eval.tasks import TASKS, THREE_WAY, TWO_WAY, SplitFile, Task
from nlp_adan.corpora.hub_corpus import HubCorpus, load_split
from nlp_adan.errors import UserError
from nlp_adan.storage import cache_folder, new_folder, write_json, write_text

HUB_NAME = "nyu-mll/glue"
FORMAT_VERSION = 1
FOLDER_PREFIX = f"hub_glue-v{FORMAT_VERSION}-"
SOURCE = "source.json"
MISSING_MESSAGE = f"--data hub: GLUE ({HUB_NAME}) is not in the cache folder yet"

_BLANKS = str.maketrans("\t\n\r", "   ")


@dataclass(frozen=True)
class HubTask:
    """One task on the hub: its configuration, its columns of text, and its names of our labels, in our order."""

    configuration: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] = ()


_SENTENCES = ("sentence1", "sentence2")
_INFERENCE = ("premise", "hypothesis")
HUB_TASKS = {
    "CoLA": HubTask("cola", ("sentence",), ("unacceptable", "acceptable")),
    "SST-2": HubTask("sst2", ("sentence",), ("negative", "positive")),
    "MRPC": HubTask("mrpc", _SENTENCES, ("not_equivalent", "equivalent")),
    "STS-B": HubTask("stsb", _SENTENCES),
    "QQP": HubTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate")),
    "MNLI": HubTask("mnli", _INFERENCE, THREE_WAY),
    "QNLI": HubTask("qnli", ("question", "sentence"), TWO_WAY),
    "RTE": HubTask("rte", _SENTENCES, TWO_WAY),
    "WNLI": HubTask("wnli", _SENTENCES, ("not_entailment", "entailment")),
    "AX": HubTask("ax", _INFERENCE, THREE_WAY),
}
"""By our name. The hub numbers a task's labels by an order of its own, so that they are matched by name."""


def hub_folder(tasks: Sequence[Task]) -> Path:
    """A GLUE folder with these tasks, made from the hub's data set of the newest revision; AX comes with MNLI.

    Tasks that the cache has from this revision are not loaded again. Where the hub is switched off (HF_HUB_OFFLINE) or
    cannot be reached, what the cache has is taken, and it is said so.

    Args:
        tasks: One's own tasks among them are left out: they have their own files.

    Raises:
        UserError: The hub cannot be reached and the cache lacks a task, or the data set is not what is known of it.
    """
    from huggingface_hub import constants

    wanted = [task for task in tasks if task.definition is None]
    if TASKS["MNLI"] in wanted and TASKS["AX"] not in wanted:
        wanted.append(TASKS["AX"])
    if not wanted:
        return cache_folder()
    kept = _newest_kept(wanted)
    if kept is not None and constants.HF_HUB_OFFLINE:
        return kept
    try:
        first = HUB_TASKS[wanted[0].name]
        corpus = HubCorpus(f"{HUB_NAME}:{first.configuration}", first.text_columns[0], MISSING_MESSAGE)
    except UserError as error:
        if kept is None:
            raise
        print(f"GLUE from the hub: taking {kept}, whether it is the newest is not known ({error})", file=sys.stderr)
        return kept
    folder = cache_folder() / f"{FOLDER_PREFIX}{(corpus.revision or 'offline')[:12]}"
    for task in wanted:
        if not (folder / task.name).is_dir():
            _write_task(folder / task.name, task, corpus.revision)
    return folder


def _newest_kept(tasks: Sequence[Task]) -> Path | None:
    """The folder written last of those in the cache that have all of the tasks."""
    folders = [
        folder
        for folder in cache_folder().glob(f"{FOLDER_PREFIX}*")
        if all((folder / task.name / SOURCE).is_file() for task in tasks)
    ]
    return max(folders, key=lambda folder: (folder / tasks[0].name / SOURCE).stat().st_mtime, default=None)


def _write_task(folder: Path, task: Task, revision: str | None) -> None:
    hub = HUB_TASKS[task.name]
    counts: dict[str, dict[str, int]] = {}
    with new_folder(folder) as temporary:
        for layout in task.splits:
            split = layout.name.replace("dev", "validation")
            rows = load_split(HUB_NAME, hub.configuration, revision, split)
            examples, num_mended = _examples(task, layout, rows, f"{HUB_NAME}, {hub.configuration}, {split}")
            write_text(temporary / layout.file, table_text(layout, examples, source="hub"))
            counts[layout.file] = {"examples": len(examples), "texts_with_blanks_for_tabs_and_line_ends": num_mended}
        origin = {"dataset": HUB_NAME, "configuration": hub.configuration, "revision": revision, "files": counts}
        write_json(temporary / SOURCE, origin)
    num_examples = sum(count["examples"] for count in counts.values())
    num_mended = sum(count["texts_with_blanks_for_tabs_and_line_ends"] for count in counts.values())
    mended = f", blanks for the tabs and line ends of {num_mended:,} texts" if num_mended else ""
    print(f"GLUE from the hub: {num_examples:,} examples of {task.name} in {folder}{mended}", file=sys.stderr)


def _examples(task: Task, layout: SplitFile, rows: Any, where: str) -> tuple[list[Example], int]:
    """The examples of a split, and how many of their texts had tabs or line ends, now blanks."""
    hub = HUB_TASKS[task.name]
    needed = (*hub.text_columns, *(("label",) if layout.label_column else ()))
    for name in needed:
        if name not in rows.column_names:
            there = ", ".join(rows.column_names)
            raise UserError(f"the hub data set {where}: no column {name!r}, it has {there}; give a local folder")
    columns = rows.select_columns([name for name in (*needed, "idx") if name in rows.column_names])[:]
    order = _test_order(columns.get("idx", [])) if layout.label_column is None else None
    texts = [[text or "" for text in columns[name]] for name in hub.text_columns]
    num_mended = 0
    for column in texts:
        mended = [text.translate(_BLANKS) for text in column]
        num_mended += sum(new != old for new, old in zip(mended, column, strict=True))
        column[:] = mended
    labels = _labels(task, rows, columns["label"], where) if layout.label_column else [""] * len(texts[0])
    seconds: list[str] | list[None] = texts[1] if len(texts) > 1 else [None] * len(texts[0])
    examples = [Example(*parts) for parts in zip(texts[0], seconds, labels, strict=True)]
    return ([examples[place] for place in order] if order else examples), num_mended


def _test_order(numbers: Sequence[int]) -> list[int] | None:
    """The rows in the order of the submission file, where the data set numbers them from 0."""
    if sorted(numbers) != list(range(len(numbers))):
        return None
    order = [0] * len(numbers)
    for place, number in enumerate(numbers):
        order[number] = place
    return order


def _labels(task: Task, rows: Any, values: Sequence[Any], where: str) -> list[str]:
    """The label column as the task spells it."""
    if task.labels is None:
        return [f"{value:.3f}" for value in values]
    names = getattr(rows.features["label"], "names", None)
    known = dict(zip(HUB_TASKS[task.name].label_names, task.labels, strict=True))
    if names is None or set(names) != set(known):
        found = ", ".join(names) if names else "without names"
        raise UserError(
            f"the hub data set {where}: its labels are {found}, not {', '.join(known)}; give a local folder"
        )
    spelled = [known[name] for name in names]
    for row, value in enumerate(values):
        if value is None or not 0 <= value < len(spelled):
            raise UserError(f"the hub data set {where}, row {row}: no label ({value}); give a local folder")
    return [spelled[value] for value in values]
