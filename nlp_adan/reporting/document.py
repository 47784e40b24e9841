"""What a report is made of, whatever it reports on: a title, a verdict, and sections of text, tables and plots.

Text is plain: every renderer escapes what its format would take for markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nlp_adan.storage import finite, write_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
FILE_STEM = "report"
# As the page's style breaks lines: shorter heads and cells stay on one, of longer ones so much does.
HEAD_CHARACTERS, CELL_CHARACTERS, LONG_CHARACTERS, NAME_CHARACTERS = 12, 25, 60, 18
PHONE_CHARACTERS = 46  # in a line of 400 pixels
# On the HTML page a plot takes the page's text colour; a file that Markdown shows has to choose by itself.
STANDALONE_STYLE = (
    "<style>svg { color: #1c2128 } @media (prefers-color-scheme: dark) { svg { color: #e3e8ee } }</style>"
)


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    kind: str = "paragraph"


@dataclass(frozen=True)
class Note:
    """A remark that a reader must not miss, set apart from the text."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Column:
    """The head of a table's column. Numbers are aligned right."""

    name: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True)
class Table:
    """Cells of text, formatted by the caller; every row has as many as there are columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    kind: str = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    @property
    def is_wide(self) -> bool:
        """Whether a phone is too narrow for it: there each row becomes a block that names its columns."""
        widths = [_unbroken(column.name, HEAD_CHARACTERS) for column in self.columns]
        for row in self.rows:
            widths = [max(width, _unbroken(cell, CELL_CHARACTERS)) for width, cell in zip(widths, row, strict=True)]
        return sum(widths) + 2 * len(widths) > PHONE_CHARACTERS


@dataclass(frozen=True)
class Image:
    """A plot as SVG. `name` becomes the file `name.svg` beside the Markdown; `alt` says in words what it shows."""

    name: str
    svg: str
    alt: str
    caption: str = ""
    kind: str = "image"


@dataclass(frozen=True)
class Code:
    """Text to copy, such as a command or a program, shown as it is. `language` is for syntax colours."""

    text: str
    language: str = ""
    kind: str = "code"


Block = Paragraph | Note | Table | Image | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A report. `summary` is the verdict in one line and comes first; `notices` stand above everything else."""

    title: str
    summary: str
    sections: tuple[Section, ...]
    notices: tuple[str, ...] = field(default_factory=tuple)

    def images(self) -> list[Image]:
        """All plots, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Image)]

    def to_markdown(self) -> str:
        """GitHub's Markdown. Plots are links to `name.svg` beside the file."""
        parts = [f"# {_escape(self.title)}", *(f"> **{_escape(text)}**" for text in self.notices)]
        parts.append(f"**{_escape(self.summary)}**")
        for section in self.sections:
            parts.append(f"## {_escape(section.title)}")
            parts += [_markdown_block(block) for block in section.blocks]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One page that needs nothing else: styles and plots inside, readable on a phone, light and dark."""
        import jinja2  # a report is written once, at the end: no command pays for the import at its start

        loader = jinja2.FileSystemLoader(TEMPLATES)
        environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return environment.get_template("report.html").render(document=self)


def write_report(folder: Path, document: Document, data: dict[str, Any]) -> None:
    """Write `report.md` with its plots, `report.html` and, last, `report.json`; each file whole or not at all.

    Args:
        folder: Created where it is missing; an earlier report in it is replaced.
        document: What the two readable files show.
        data: The same for programs, as JSON values; `title` and `summary` are added. NaN and infinities become null.
    """
    for image in document.images():
        write_text(folder / f"{image.name}.svg", standalone(image.svg))
    write_text(folder / f"{FILE_STEM}.md", document.to_markdown())
    write_text(folder / f"{FILE_STEM}.html", document.to_html())
    write_json(folder / f"{FILE_STEM}.json", finite({"title": document.title, "summary": document.summary, **data}))


def standalone(svg: str) -> str:
    """A plot as a file of its own, readable on light and dark pages."""
    return svg.replace(">", f">{STANDALONE_STYLE}", 1)


def _unbroken(text: str, limit: int) -> int:
    """Characters of a cell that stay on one line."""
    if len(text) < limit:
        return len(text)
    return limit if len(text) > LONG_CHARACTERS else max(NAME_CHARACTERS, *map(len, text.split()))


def _markdown_block(block: Block) -> str:
    if isinstance(block, Table):
        return _markdown_table(block)
    if isinstance(block, Image):
        caption = f"\n\n*{_escape(block.caption)}*" if block.caption else ""
        return f"![{_escape(block.alt)}]({block.name}.svg){caption}"
    if isinstance(block, Code):
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", block.text))])
        return f"{fence}{block.language}\n{block.text}\n{fence}"
    return f"> {_escape(block.text)}" if isinstance(block, Note) else _escape(block.text)


def _markdown_table(table: Table) -> str:
    rows = [[_escape(cell, in_table=True) for cell in row] for row in table.rows]
    heads = [_escape(column.name, in_table=True) for column in table.columns]
    widths = [max(3, *(len(row[place]) for row in [heads, *rows])) for place in range(len(heads))]
    rights = [column.align == "right" for column in table.columns]

    def line(cells: list[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, rights, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, rights, strict=True)]
    lines = [line(heads), line(rule), *(line(row) for row in rows)]
    return "\n".join([f"{_escape(table.caption)}\n", *lines] if table.caption else lines)


def _escape(text: str, in_table: bool = False) -> str:
    """Text in which nothing is Markdown or HTML. A line break would end a table's row."""
    escaped = re.sub(r"([\\`*<\[\]])", r"\\\1", " ".join(text.split("\n")))
    # An underscore inside a word is not emphasis: file names stay as they are.
    escaped = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)
    return escaped.replace("|", r"\|") if in_table else escaped
