"""Examples written as a file of GLUE, in its layout: what the reader looks at, and something in every other column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glue_eval.tasks import SplitFile


@dataclass(frozen=True)
class Example:
    """One row to write: one text or two, free of tabs and line ends, and its label as the task spells it."""

    first: str
    second: str | None
    label: str = ""


def table_text(layout: SplitFile, examples: Iterable[Example], source: str) -> str:
    """The content of the file: the header where the layout has one, then a row an example, numbered from 0.

    source: a word for the columns `source` and `genre`.
    """
    lines = ["\t".join(layout.columns)] if layout.has_header else []
    lines += ["\t".join(_cells(layout, number, example, source)) for number, example in enumerate(examples)]
    return "\n".join(lines) + "\n"


def _cells(layout: SplitFile, number: int, example: Example, source: str) -> list[str]:
    known = dict(zip(layout.text_columns, (example.first, example.second), strict=False))
    fixed = {"source": source, "genre": source, "author_label": "*" if example.label == "0" else ""}
    numbers = {"qid1": 2 * number, "qid2": 2 * number + 1, "#1 ID": 2 * number, "#2 ID": 2 * number + 1}
    cells = []
    for column in layout.columns:
        if column in known:
            cells.append(str(known[column]))
        elif column == layout.label_column or column.startswith("label"):
            cells.append(example.label)
        elif column == layout.id_column:
            cells.append(str(number))
        else:
            cells.append(str(numbers.get(column, fixed.get(column, "-"))))
    return cells
