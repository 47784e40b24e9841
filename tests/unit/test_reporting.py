"""The document model and its renderings: escaping, completeness, and the same bytes for the same input."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nlp_adan.reporting import Code, Column, Document, Image, Note, Paragraph, Section, Table, write_report
from nlp_adan.reporting.facts import environment_section
from nlp_adan.reporting.plots import MAX_NAME, dot_plot, growth_plot, interval_plot, line_plot, panel_plot
from nlp_adan.storage import finite

HOSTILE = 'a|b <script>alert("x")</script> *bold* `code` [link](x) _it_ run_a_1'


class Collector(HTMLParser):
    """The tags of a page, the text of its cells, and whether every opened tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def make_document(svg: str = "<svg></svg>") -> Document:
    table = Table((Column("Name"), Column("Value", "right")), ((HOSTILE, "1.0"), ("two\nlines", "12.5")), "A caption")
    blocks = (Paragraph(HOSTILE), Note("Mind this."), table, Image("curve", svg, "The loss falls.", "Loss"))
    return Document("Report on *x*", "It <works>.", (Section("Scores", blocks),), ("Above all",))


def parse(html: str) -> Collector:
    page = Collector()
    page.feed(html)
    assert page.open == []
    return page


def test_markdown_keeps_hostile_text_as_text() -> None:
    text = make_document().to_markdown()
    assert text.startswith("# Report on \\*x\\*\n\n> **Above all**\n\n**It \\<works>.**\n\n## Scores\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # Escaped pipes aside, every row has the same two cells, and the line break is gone.
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3, 3]
    assert "two lines" in rows[3]
    assert re.fullmatch(r"\| -+ \| -+: \|", rows[1])
    assert "<script" not in text.replace("\\<script", "")
    assert "run_a_1" in text
    assert "\\_it\\_" in text
    assert "![The loss falls.](curve.svg)" in text


def test_html_is_one_page_without_anything_from_outside() -> None:
    html = make_document(line_plot({"a": [(0, 1), (1, 0)]}, "step", "loss")).to_html()
    page = parse(html)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 1
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert HOSTILE in page.text
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    assert 'aria-label="The loss falls."' in html
    assert html.index("It &lt;works&gt;.") < html.index("<h2>Scores</h2>")


def test_a_table_with_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        Table((Column("a"), Column("b")), (("1",),))


def test_a_wide_table_names_its_columns_in_every_row_on_a_phone() -> None:
    names = ("Task", "Metric", "Median", "Mean ± SD", "Best", "n", "Majority", "Remark")
    scores = Table(tuple(map(Column, names)), (("RTE", "accuracy", "61.2", "61.0 ± 0.8", "62", "3", "52.7", ""),))
    facts = Table((Column("What"), Column("Value")), (("Checkpoint", "the last step's; none is chosen " * 3),))
    assert (scores.is_wide, facts.is_wide) == (True, False)
    page = Document("t", "s", (Section("s", (scores, facts)),)).to_html()
    assert page.count('class="wide"') == 1 and '<td role="cell" data-head="Mean ± SD" ' in page


def test_code_stays_as_it_is() -> None:
    text = "run --a '*x*' && echo ```\n<b>"
    document = Document("Title", "Verdict.", (Section("How", (Code(text, "bash"),)),))
    assert f"\n````bash\n{text}\n````\n" in document.to_markdown()
    page = parse(document.to_html())
    assert page.tags.count("pre") == 1 and "b" not in page.tags
    assert text in "".join(page.text)


def test_the_environment_is_told_in_words() -> None:
    section = environment_section(
        {"gpus": [], "git": None, "packages": {"torch": "2", "scipy": None}, "cores": [1, 2, 2]}
    )
    (table,) = section.blocks
    assert isinstance(table, Table)
    assert table.rows == (("gpus", "none"), ("git", "not known"), ("packages", "torch 2"), ("cores", "1, 2 x 2"))


def test_nan_and_infinity_become_null() -> None:
    assert finite({"a": [1.0, math.nan, (math.inf, 2)], "b": "nan"}) == {"a": [1.0, None, [None, 2]], "b": "nan"}


def test_write_report_writes_all_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_report(folder, make_document("<svg><g/></svg>"), {"loss": math.nan, "steps": 3})
    assert sorted(path.name for path in folder.iterdir()) == ["curve.svg", "report.html", "report.json", "report.md"]
    values = json.loads((folder / "report.json").read_text())
    assert values == {"title": "Report on *x*", "summary": "It <works>.", "loss": None, "steps": 3}
    assert ElementTree.fromstring((folder / "curve.svg").read_text())[0].tag == "style"
    write_report(folder, make_document(), {"steps": 4})
    assert json.loads((folder / "report.json").read_text())["steps"] == 4


def test_plots_are_svg_with_the_same_bytes_each_time() -> None:
    def draw_line() -> str:
        points = {"adan <1>": [(0.0, 6.5), (100.0, 5.9)], "adamw": [(0.0, 6.5), (100.0, 6.0)]}
        published = {"published": [(0.0, 6.6), (100.0, 5.8)]}
        return line_plot(points, "step", "loss (nats)", "Loss", {"unigram": 6.4}, published)

    def draw_dots() -> str:
        return dot_plot({"CoLA": [1.0, 2.0], "RTE": [50.0], "none": []}, "score", "Dots", {"RTE": 52.0}, "majority")

    def draw_intervals() -> str:
        return interval_plot({"CoLA": (1.0, 2.0, 4.0), "RTE": (-1.0, 0.0, 1.0)}, "difference", "Intervals", 0.0)

    def draw_panels() -> str:
        lines = {"seed 1": [(1.0, 2.0), (2.0, 3.0)], "seed 2": [(1.0, 1.0)]}
        return panel_plot({"CoLA": lines, "RTE": lines, "$x$_1": {}}, "epochs", "score", {"CoLA": 1.5}, "majority")

    for draw, words in (
        (draw_line, ("adan &lt;1&gt;", "unigram", "published", "loss (nats)")),
        (draw_dots, ("CoLA", "majority")),
        (draw_intervals, ("CoLA", "RTE", "difference", "Intervals")),
        (draw_panels, ("CoLA", "RTE", "seed 1", "seed 2", "epochs", "score", "majority", "$x$_1")),
    ):
        svg = draw()
        assert svg == draw()
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert "viewBox" in root.attrib
        assert "width" not in root.attrib
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert all(word in svg for word in words)


def test_large_numbers_are_written_out() -> None:
    svg = line_plot({"a": [(0, 1_400_000), (600_000, 1_500_000)]}, "step", "tokens/s")
    assert ">400,000<" in svg and ">1,400,000<" in svg and "1e6" not in svg


def test_long_names_leave_room_for_the_plot() -> None:
    name = "begin" + "x" * 100 + "end"
    for svg in (dot_plot({name: [1.0]}, "score"), interval_plot({name: (1, 2, 3)}, "score"),
                panel_plot({name: {"seed 1": [(1, 2)]}}, "x", "y")):  # fmt: skip
        (shown,) = (text for text in ElementTree.fromstring(svg).itertext() if text.strip().startswith("begin"))
        assert len(shown.strip()) <= MAX_NAME and shown.strip().endswith("end") and "…" in shown


def test_plots_of_nothing_are_drawn() -> None:
    assert interval_plot({}, "score").startswith("<svg")
    assert panel_plot({}, "step", "loss").startswith("<svg")
    assert line_plot({}, "step", "loss").startswith("<svg")
    assert dot_plot({}, "score").startswith("<svg")


def test_the_ticks_of_logarithmic_axes_are_numbers() -> None:
    svg = growth_plot({"a": [(10, 1000), (1000, 1e6)]}, {}, "ranks", "bytes")
    assert ">100<" in svg and ">1,000,000<" in svg and "mathdefault" not in svg
