"""The examples of one file of a task, and where that file is: in a GLUE folder, or beside one's own task's definition.

A file named STEM.SOMETHING.tsv (`train.SAMPLE9999.tsv`) is a part of STEM.tsv: it stands in for a whole file that is
not there, where the caller allows it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from glue_eval.problems import Problem, raise_problem
from glue_eval.rows import BadLabel, Rows, label_parser
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError

Texts = tuple[str, str | None]


@dataclass(frozen=True)
class Split:
    """The examples of one file, in file order; `texts`, `labels` and `ids` have equal lengths.

    `texts` holds (first, second) with None as the second of a single-sentence task. `labels` are class numbers
    (positions in `Task.labels`), or scores for a regression task, or None for an unlabelled file. `ids` are the file's
    own numbers where it has them, else the row numbers from 0. `num_skipped` counts rows left out because columns were
    missing (QQP only). `partial` is the name of the file where it is only a part of the task's.
    """

    task: Task
    name: str
    path: Path
    texts: list[Texts]
    labels: list[int] | list[float] | None
    ids: list[str]
    num_skipped: int = 0
    partial: str | None = None

    def __len__(self) -> int:
        return len(self.texts)


def read_split(
    folder: Path, task: Task, split: str, *, allow_partial: bool = False, max_examples: int | None = None
) -> Split:
    """Read and check one split of a task.

    Args:
        folder: The folder that holds a folder per task (`folder/CoLA/train.tsv`). One's own task does not use it.
        task: The task to read.
        split: `train`, `dev` or `test`; for MNLI `train`, `dev_matched`, `dev_mismatched` and so on.
        allow_partial: Where the whole file is missing, the largest of its parts is read.
        max_examples: Only the first examples, at most so many; the rows behind them are not read.

    Raises:
        UserError: A folder or file is missing, the file is not UTF-8, its header or a row's number of columns is not
            the task's, a label is not in the label set, or a score is outside its range. Names file, line and remedy.
    """
    layout = task.split(split)
    path = _require_file(Path(folder), task, layout, allow_partial)
    rows = Rows(path, task, layout)
    parse, label_index, id_index = label_parser(task), layout.label_index, layout.id_index
    first_index, *rest = layout.text_indexes
    second_index = rest[0] if rest else None
    texts: list[Texts] = []
    labels: list[float] = []
    ids: list[str] = []
    for line, row in itertools.islice(rows, max_examples):
        texts.append((row[first_index], None if second_index is None else row[second_index]))
        ids.append(str(len(ids)) if id_index is None else row[id_index])
        if label_index is not None:
            try:
                labels.append(parse(row[label_index]))
            except BadLabel as error:
                raise_problem(Problem(path, line, str(error), error.remedy))
    partial = path.name if is_stand_in(path, layout) else None
    return Split(task, split, path, texts, None if label_index is None else labels, ids, rows.num_skipped, partial)


def task_folder(folder: Path, task: Task) -> Path:
    """The folder of a task's files, whether it is there or not."""
    if task.definition is not None:
        return task.definition.parent
    named = Path(folder) / task.name
    if task.other_folder and not named.is_dir() and (Path(folder) / task.other_folder).is_dir():
        return Path(folder) / task.other_folder
    return named


def split_paths(folder: Path, task: Task, allow_partial: bool = False) -> dict[str, Path]:
    """The file of each split that is there, by the split's name (`train`, `dev_matched`, `test`, ...).

    With `allow_partial`, a split without its whole file has the largest of its parts.
    """
    found = {split.name: find_file(folder, task, split, allow_partial) for split in task.splits}
    return {name: path for name, path in found.items() if path is not None}


def find_file(folder: Path, task: Task, layout: SplitFile, allow_partial: bool = False) -> Path | None:
    """The file of one split, or None; with `allow_partial` the largest of its parts where the whole one is missing."""
    path = task_folder(folder, task) / layout.file
    if path.is_file():
        return path
    parts = partial_files(folder, task, layout)
    return parts[0] if parts and allow_partial else None


def partial_files(folder: Path, task: Task, layout: SplitFile) -> list[Path]:
    """The files that hold a part of a split (`train.SAMPLE320.tsv`), the largest in bytes first."""
    whole = task_folder(folder, task) / layout.file
    parts = [path for path in whole.parent.glob(f"{whole.stem}.*{whole.suffix}") if path.is_file() and path != whole]
    return sorted(parts, key=lambda path: (-path.stat().st_size, path.name))


def is_stand_in(path: Path, layout: SplitFile) -> bool:
    """Whether a file is a part that stands in for the split's own."""
    return path.name != Path(layout.file).name


def _require_file(folder: Path, task: Task, layout: SplitFile, allow_partial: bool) -> Path:
    path = find_file(folder, task, layout, allow_partial)
    if path is None:
        text, remedy = missing_file(folder, task, layout)
        raise UserError(f"{text}: {remedy}")
    return path


def missing_file(folder: Path, task: Task, layout: SplitFile) -> tuple[str, str]:
    """What is not there (the GLUE folder, the task's, the file, or only parts of it are), and the remedy."""
    directory = task_folder(folder, task)
    if task.definition is None and not Path(folder).is_dir():
        return f"no folder {folder}", "give the GLUE folder, the one that holds CoLA/, RTE/ and so on"
    if task.definition is None and not directory.is_dir():
        found = [name for name in TASKS if (Path(folder) / name).is_dir()]
        there = f"it has {', '.join(found)}" if found else "it has no folder named like a GLUE task"
        return f"no folder {task.name!r} in {folder} ({there})", f"leave the task out or add {directory}"
    parts = [part.name for part in partial_files(folder, task, layout)]
    hint = f" (partial files such as {parts[0]} are not taken for it without `--allow_partial`)" if parts else ""
    return (
        f"no file {directory / layout.file}{hint}",
        f"add the whole {layout.file} of {task.name}, or leave the task out",
    )
