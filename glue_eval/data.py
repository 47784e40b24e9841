"""Reading one TSV file of a GLUE task, with every row checked.

The files are not CSV: a quotation mark is a character like any other, a row is a line, a column ends at a tab. (Read
with default quoting, MRPC's training file loses 97 rows.) A byte-order mark and CRLF line ends are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.errors import UserError, nearest

SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Split:
    """The examples of one file, in file order; `texts`, `labels` and `ids` have equal lengths.

    `texts` holds (first, second) with None as the second of a single-sentence task. `labels` are class numbers
    (positions in `Task.labels`), or scores for a regression task, or None for an unlabelled file. `ids` are the file's
    own numbers where it has them, else the row numbers from 0. `num_skipped` counts rows left out because columns were
    missing (QQP only).
    """

    task: Task
    name: str
    path: Path
    texts: list[tuple[str, str | None]]
    labels: list[int] | list[float] | None
    ids: list[str]
    num_skipped: int = 0

    def __len__(self) -> int:
        return len(self.texts)


def read_split(folder: Path, task: Task, split: str) -> Split:
    """Read and check one split of a task from a GLUE folder.

    Args:
        folder: The folder that holds a folder per task (`folder/CoLA/train.tsv`).
        task: The task to read.
        split: `train`, `dev` or `test`; for MNLI `train`, `dev_matched`, `dev_mismatched` and so on.

    Raises:
        UserError: A folder or file is missing, the file is not UTF-8, its header or a row's number of columns is not
            the task's, a label is not in the label set, or a score is outside its range. Names file, line and remedy.
    """
    layout = task.split(split)
    path = _find_file(Path(folder), task, layout)
    rows, num_skipped = _read_rows(path, task, layout)
    label_index, id_index = layout.label_index, layout.id_index
    texts: list[tuple[str, str | None]] = []
    classes: list[int] = []
    scores: list[float] = []
    ids: list[str] = []
    for line, row in rows:
        first, *rest = (row[index] for index in layout.text_indexes)
        texts.append((first, rest[0] if rest else None))
        ids.append(row[id_index] if id_index is not None else str(len(ids)))
        if label_index is None:
            continue
        if task.is_regression:
            scores.append(_parse_score(row[label_index], task, path, line))
        else:
            classes.append(_parse_class(row[label_index], task, path, line))
    labels: list[int] | list[float] | None = None
    if label_index is not None:
        labels = scores if task.is_regression else classes
    return Split(task, split, path, texts, labels, ids, num_skipped)


def _find_file(folder: Path, task: Task, layout: SplitFile) -> Path:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the GLUE folder, the one that holds CoLA/, RTE/ and so on")
    task_folder = folder / task.name
    if not task_folder.is_dir():
        found = [name for name in TASKS if (folder / name).is_dir()]
        there = f"it has {', '.join(found)}" if found else "it has no folder named like a GLUE task"
        raise UserError(f"no folder {task.name!r} in {folder} ({there}): leave the task out or add {task_folder}")
    path = task_folder / layout.file
    if not path.is_file():
        stem = path.name.removesuffix(".tsv")
        partial = sorted(other.name for other in task_folder.glob(f"{stem}.*.tsv"))
        hint = f" (partial files such as {partial[0]} are not taken for it)" if partial else ""
        raise UserError(f"no file {path}{hint}: add the whole {layout.file} of {task.name}, or leave the task out")
    return path


def _read_rows(path: Path, task: Task, layout: SplitFile) -> tuple[list[tuple[int, list[str]]], int]:
    """The data rows as (line number from 1, cells), and the number of rows skipped for missing columns."""
    # Only "\n" ends a line: str.splitlines would also break at U+2028 or U+0085 inside a sentence.
    lines = [line.removesuffix("\r") for line in _read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    first_row = 1 if layout.has_header else 0
    if layout.has_header and lines and tuple(lines[0].split("\t")) != layout.columns:
        raise UserError(
            f"{path}:1: the header is not {task.name}'s: expected {' | '.join(layout.columns)}, "
            f"found {' | '.join(_shorten(cell) for cell in lines[0].split(chr(9)))}"
        )
    rows: list[tuple[int, list[str]]] = []
    num_skipped = 0
    for line, text in enumerate(lines[first_row:], start=first_row + 1):
        cells = text.split("\t")
        if len(cells) < len(layout.columns) and task.skip_short_rows:
            num_skipped += 1
        elif len(cells) != len(layout.columns):
            raise UserError(
                f"{path}:{line}: {len(cells)} columns instead of {len(layout.columns)} "
                f"({' | '.join(layout.columns)}): columns end at tabs, mend the line or take the original file"
            )
        else:
            rows.append((line, cells))
    if not rows:
        raise UserError(f"{path} has no examples: take the original {layout.file} of {task.name}")
    return rows, num_skipped


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte-order mark, so count bytes on the part before the bad one.
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8, byte 0x{data[start]:02x} at offset {start}: "
            "convert the file (iconv -f ISO-8859-1 -t UTF-8) or take the original one"
        ) from None


def _parse_class(text: str, task: Task, path: Path, line: int) -> int:
    labels = task.labels or ()
    if text not in labels:
        raise UserError(
            f"{path}:{line}: label {_shorten(text)!r} is not one of {task.name}'s{nearest(text, labels)}: "
            f"use {', '.join(labels)}"
        )
    return labels.index(text)


def _parse_score(text: str, task: Task, path: Path, line: int) -> float:
    low, high = task.score_range or (float("-inf"), float("inf"))
    try:
        score = float(text)
    except ValueError:
        raise UserError(f"{path}:{line}: score {_shorten(text)!r} is not a number from {low:g} to {high:g}") from None
    if not low <= score <= high:
        raise UserError(f"{path}:{line}: score {text} is outside {task.name}'s range: use {low:g} to {high:g}")
    return score


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
