"""What every plot is drawn with: a figure whose ink follows the page's text colour, its labels, and the SVG of it.

Matplotlib is imported when a plot is drawn, not before, and without pyplot: no window system, no global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Readable on white and on near-black, and told apart by colour-blind readers (after Okabe and Ito 2008).
COLOURS = ("#0a7fc4", "#e06b00", "#12966f", "#c95a9b", "#8b6fd6", "#a8860a")
DASHES = ("-", "--", "-.", ":")
# Stands for the page's text colour until the SVG is done; matplotlib does not know `currentColor`.
INK = "#010203"
WIDTH_INCHES, HEIGHT_INCHES = 6.4, 3.4


@contextmanager
def new_figure(height_inches: float, num_rows: int = 0, num_columns: int = 0) -> Iterator[tuple[Any, Any]]:
    """A figure with its axes; with a list of them where a grid is asked for."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text (fonttype none): small files, the page's font. The salt makes element names reproducible.
    settings = {
        "svg.hashsalt": "nlp_adan",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 11.0,
        "text.parse_math": False,
    }  # a dollar sign in a name is one
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        grid = [
            figure.add_subplot(max(num_rows, 1), max(num_columns, 1), place + 1)
            for place in range(max(num_rows * num_columns, 1))
        ]
        for axes in grid:
            axes.patch.set_alpha(0.0)
            axes.grid(color=INK, alpha=0.15, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(colors=INK)
            for spine in axes.spines.values():
                spine.set_edgecolor(INK)
                spine.set_alpha(0.4)
        yield figure, grid if num_rows else grid[0]


def scale_by_ratios(axes: Any) -> None:
    """A logarithmic y axis with round numbers at it: 20, 50, 100, or evenly spaced ones within less than a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > 8 * low else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())


def label_axes(axes: Any, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    if title:
        axes.set_title(title, color=INK, fontsize=12)


def columns_of(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def svg_of(figure: Any) -> str:
    """The figure as an <svg> element of any width, without the time stamp and the declarations of a file."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S).strip() + "\n"
