"""GLUE's diagnostic examples (AX), scored by category where AX/diagnostic-full.tsv tells their labels.

The file has the 1104 examples of AX/diagnostic.tsv in the same order, with the label and up to four groups of
linguistic phenomena, each with one phenomenon or more, separated by semicolons (Wang et al. 2019, section 4). A row
counts in every group and phenomenon that it names. Lines end with CRLF in the published file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glue_eval.data import split_paths, task_folder
from glue_eval.metrics import matthews
from glue_eval.problems import Problem, raise_problem, shorten
from glue_eval.rows import BadLabel, Rows, label_parser
from glue_eval.tasks import TASKS, THREE_WAY, SplitFile, Task
from nlp_adan.errors import UserError

GROUPS = ("Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge")
"""The coarse groups of phenomena: the first columns of the file."""

AX = TASKS["AX"]
PLAIN = AX.test_splits[0]
_TEXTS = ("Premise", "Hypothesis")
FULL = SplitFile(
    "full", "diagnostic-full.tsv", (*GROUPS, "Domain", *_TEXTS, "Label"), _TEXTS, "Label", PLAIN.num_examples
)
"""The layout of the labelled file; `PLAIN` is that of diagnostic.tsv, which a model predicts."""


def layouts(folder: Path, task: Task) -> tuple[SplitFile, ...]:
    """A task's files; of AX also the labelled one, where it is there."""
    is_there = task is AX and (task_folder(folder, AX) / FULL.file).is_file()
    return (*task.splits, FULL) if is_there else task.splits


@dataclass(frozen=True)
class Diagnostics:
    """What diagnostic-full.tsv tells of each example of diagnostic.tsv, in file order.

    labels: (num_examples,) class numbers, places in `THREE_WAY`.
    categories: by category the positions of its examples, counted from 0: `all`, `Logic`, `Logic/Negation` and so on;
        the groups in the file's order, what is inside them by name.
    """

    path: Path
    labels: tuple[int, ...]
    categories: dict[str, tuple[int, ...]]


def labelled_file(folder: Path) -> Path | None:
    """The diagnostic-full.tsv of a GLUE folder, where it is there and so is the diagnostic.tsv that a run predicts."""
    path = task_folder(folder, AX) / FULL.file
    return path if path.is_file() and PLAIN.name in split_paths(folder, AX) else None


def read_diagnostics(diagnostic_full: Path) -> Diagnostics:
    """Read AX/diagnostic-full.tsv and compare it, row by row, with the diagnostic.tsv beside it.

    Blanks at the end of a text make no difference: two published rows differ in one.

    Raises:
        UserError: A file is missing or not UTF-8, its header or a row's number of columns is not AX's, a label is not
            in the label set, or the two files do not hold the same examples. Names file, line and remedy.
    """
    plain_path = diagnostic_full.with_name(PLAIN.file)
    for path in (diagnostic_full, plain_path):
        if not path.is_file():
            raise UserError(f"no file {path}: AX is scored with {PLAIN.file} and {FULL.file} in one folder")
    full = list(Rows(diagnostic_full, AX, FULL))
    if (problem := difference(diagnostic_full, full, list(Rows(plain_path, AX, PLAIN)))) is not None:
        raise_problem(problem)
    return Diagnostics(diagnostic_full, _labels(diagnostic_full, full), _categories([cells for _, cells in full]))


def difference(
    diagnostic_full: Path, full: Sequence[tuple[int, list[str]]], plain: Sequence[tuple[int, list[str]]]
) -> Problem | None:
    """The first example that is not the same in both files, which are given by their `Rows`, or where one ends."""
    for (line, cells), (plain_line, example) in zip(full, plain, strict=False):
        for name, index, plain_index in zip(_TEXTS, FULL.text_indexes, PLAIN.text_indexes, strict=True):
            if cells[index].rstrip() != example[plain_index].rstrip():
                text = f"{name} {shorten(cells[index])!r} is not that of {PLAIN.file}:{plain_line}"
                remedy = "take both files from the same place"
                return Problem(diagnostic_full, line, f"{text}, {shorten(example[plain_index])!r}", remedy)
    if len(full) == len(plain):
        return None
    files = ((diagnostic_full, full), (diagnostic_full.with_name(PLAIN.file), plain))
    (shorter, rows), longer = sorted(files, key=lambda file: len(file[1]))
    text = f"the file ends after {len(rows)} examples, {longer[0].name} has {len(longer[1])}"
    return Problem(shorter, rows[-1][0], text, "take both files whole")


def ax_scores(predictions: Sequence[str], diagnostic_full: Path) -> dict[str, float]:
    """Matthews correlation of a model trained on MNLI, over all diagnostic examples and by category.

    Args:
        predictions: (num_examples,) labels of `THREE_WAY`, in the order of diagnostic.tsv.
        diagnostic_full: The published file, with diagnostic.tsv beside it.

    Returns:
        The correlation of the three classes (R3, scikit-learn's `matthews_corrcoef`) by category, in [-1, 1]: `all`,
        the four of `GROUPS`, and the phenomena inside as `Logic/Negation`. 0.0 where predictions or labels are
        constant: many phenomena have some twenty examples.

    Raises:
        UserError: What `read_diagnostics` refuses, or another number of predictions than of examples.
        ValueError: A prediction is not in the label set.
    """
    found = read_diagnostics(diagnostic_full)
    if len(predictions) != len(found.labels):
        line = min(len(predictions), len(found.labels)) + 2  # the first without a counterpart; the header is line 1
        text = f"{len(predictions)} predictions for {len(found.labels)} examples"
        raise_problem(Problem(diagnostic_full, line, text, f"predict the whole of {PLAIN.file}"))
    numbers = {label: number for number, label in enumerate(THREE_WAY)}
    for place, label in enumerate(predictions):
        if label not in numbers:
            raise ValueError(f"prediction {place}: {label!r} is not one of {', '.join(THREE_WAY)}")
    predicted = np.array([numbers[label] for label in predictions])
    expected = np.array(found.labels)
    return {
        name: matthews(predicted[list(places)], expected[list(places)]) for name, places in found.categories.items()
    }


def _labels(path: Path, rows: Sequence[tuple[int, list[str]]]) -> tuple[int, ...]:
    parse, column = label_parser(AX), FULL.columns.index("Label")
    found = []
    for line, cells in rows:
        try:
            found.append(int(parse(cells[column])))
        except BadLabel as error:
            raise_problem(Problem(path, line, str(error), error.remedy))
    return tuple(found)


def _categories(rows: Sequence[Sequence[str]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"all": tuple(range(len(rows)))}
    for column, group in enumerate(GROUPS):
        inside: dict[str, list[int]] = {}
        for place, cells in enumerate(rows):
            for phenomenon in {name.strip() for name in cells[column].split(";")} - {""}:
                inside.setdefault(phenomenon, []).append(place)
        if inside:
            found[group] = tuple(sorted({place for places in inside.values() for place in places}))
        found |= {f"{group}/{phenomenon}": tuple(inside[phenomenon]) for phenomenon in sorted(inside)}
    return found
