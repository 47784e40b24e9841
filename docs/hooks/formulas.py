r"""mkdocs hook: TeX between dollar signs becomes SVG when the site is built, by matplotlib.

On the hosts of repositories the same source is rendered by MathJax. What a page shows is in it: no script, no fonts.
pymdownx.arithmatex has found the formulas: `\(...\)` in a span, `\[...\]` in a div.
"""

from __future__ import annotations

import html
import re

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import text_to_path
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

FONT = FontProperties(math_fontfamily="stix")
UNITS_PER_EM = FONT.get_size_in_points()  # of an outline; a formula scales with the text around it
MARGIN = 0.05  # em, so that no stroke is cut off
COMMANDS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "Z"}

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
ALIGNED = re.compile(r"\\begin\{aligned\}(.*)\\end\{aligned\}", re.DOTALL)


def on_page_content(content: str, page: Page, **_: object) -> str:
    """The page's HTML with its formulas drawn. Raises PluginError for TeX that matplotlib does not know."""

    def drawn(found: re.Match[str]) -> str:
        tex = html.unescape(found[2]).strip()
        try:
            return svg(tex) if found[1] == "span" else display(tex)
        except ValueError as error:
            raise PluginError(f"{page.file.src_path}: the formula {tex!r} cannot be drawn: {error}") from error

    return FORMULA.sub(drawn, content)


def display(tex: str) -> str:
    """A formula on lines of its own; `aligned` (cells end at &, rows at two backslashes) as a grid."""
    tex = tex.replace(r"\frac", r"\dfrac")
    aligned = ALIGNED.fullmatch(tex)
    rows = re.split(r"\\\\", aligned[1]) if aligned else [tex]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    num_columns = max(map(len, cells))
    num_columns += num_columns % 2  # columns alternate: to the right, to the left
    grid = "".join(
        f"<span>{svg(cell) if cell else ''}</span>" for row in cells for cell in row + [""] * (num_columns - len(row))
    )
    return f'<div class="formulas" style="grid-template-columns: repeat({num_columns}, auto)">{grid}</div>'


def svg(tex: str) -> str:
    """An outline in the colour of the text, on its baseline; screen readers get the TeX."""
    source = "$" + tex.replace(r"\texttt", r"\mathtt") + "$"
    vertices, codes = text_to_path.get_text_path(FONT, source, ismath=True)
    width, height, depth = text_to_path.get_text_width_height_descent(source, FONT, ismath=True)
    scale = UNITS_PER_EM / text_to_path.FONT_SCALE
    outline = Outline([(x * scale, -y * scale) for x, y in vertices], codes)
    path = "".join(
        COMMANDS[code] + " ".join(f"{value:.2f}" for value in points if code != Outline.CLOSEPOLY)
        for points, code in outline.iter_segments(simplify=False, curves=True)
    )
    margin = MARGIN * UNITS_PER_EM
    left, top, wide, high = -margin, depth - height - margin, width + 2 * margin, height + 2 * margin
    style = "; ".join(
        f"{name}: {value / UNITS_PER_EM:.3f}em"
        for name, value in (("width", wide), ("height", high), ("vertical-align", -depth - margin))
    )
    return (
        f'<svg class="formula" role="img" aria-label="{html.escape(tex)}" style="{style}"'
        f' viewBox="{left:.2f} {top:.2f} {wide:.2f} {high:.2f}"><path fill="currentColor" d="{path}"/></svg>'
    )
