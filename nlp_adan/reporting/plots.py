"""Plots as SVG text: the same input gives the same bytes, and the ink follows the page's text colour.

Matplotlib is imported when a plot is drawn, not before, and without pyplot: no window system, no global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# Readable on white and on near-black, and told apart by colour-blind readers (after Okabe and Ito 2008).
COLOURS = ("#0a7fc4", "#e06b00", "#12966f", "#c95a9b", "#8b6fd6", "#a8860a")
DASHES = ("-", "--", "-.", ":")
# Stands for the page's text colour until the SVG is done; matplotlib does not know `currentColor`.
INK = "#010203"
WIDTH_INCHES, HEIGHT_INCHES = 6.4, 3.4
MAX_NAME = 32  # characters of a row's or a panel's name


def line_plot(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str = "",
    horizontal_lines: Mapping[str, float] | None = None,
    references: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    log_y: bool = False,
) -> str:
    """Lines through points; returns an SVG element.

    Args:
        series: Points (x, y) by the name that the legend shows.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        title: Stands above the plot; may be empty, where a caption follows.
        horizontal_lines: Levels to compare with, by the name that the legend shows.
        references: Lines to compare with, dashed, each in the colour of the series in its place.
        log_y: Whether equal ratios are equally high; all y are then positive.
    """
    with _figure(HEIGHT_INCHES) as (figure, axes):
        for place, (name, points) in enumerate(series.items()):
            xs, ys = [x for x, _ in points], [y for _, y in points]
            marker = "o" if len(points) < 2 else ""
            style = DASHES[place // len(COLOURS) % len(DASHES)]
            axes.plot(xs, ys, style, color=COLOURS[place % len(COLOURS)], label=name, marker=marker, linewidth=1.8)
        for place, (name, points) in enumerate((references or {}).items()):
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, "--", color=COLOURS[place % len(COLOURS)], label=name, linewidth=1.2, alpha=0.85)
        for place, (name, level) in enumerate((horizontal_lines or {}).items()):
            axes.axhline(level, color=INK, linestyle=DASHES[1 + place % 3], linewidth=1.0, alpha=0.7, label=name)
        if series or horizontal_lines or references:
            axes.legend(frameon=False, labelcolor=INK, fontsize=10)
        if log_y:
            _scale_by_ratios(axes)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.10g}")  # steps by the hundred thousand: no powers of ten at the edge
        _label(axes, x_label, y_label, title)
        return _svg(figure)


def growth_plot(
    points: Mapping[str, Sequence[tuple[float, float]]],
    formulas: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str = "",
) -> str:
    """Measured points and the formulas that go on beyond them, on logarithmic axes; returns an SVG element.

    Args:
        points: (x, y), both positive, by the name that the legend shows; drawn as circles.
        formulas: Likewise, drawn as dashed lines, each in the colour of the points in its place.
        x_label, y_label, title: As in `line_plot`.
    """
    with _figure(HEIGHT_INCHES) as (figure, axes):
        for place, (name, pairs) in enumerate(points.items()):
            axes.plot(*_columns(pairs), "o", color=COLOURS[place % len(COLOURS)], label=name, markersize=6)
        for place, (name, pairs) in enumerate(formulas.items()):
            axes.plot(*_columns(pairs), "--", color=COLOURS[place % len(COLOURS)], label=name, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 10 * low:  # a decade at least: what hardly grows must not look as if it did
            middle = (low * high) ** 0.5
            axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
        if points or formulas:
            axes.legend(frameon=False, labelcolor=INK, fontsize=10)
        _label(axes, x_label, y_label, title)
        return _svg(figure)


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def dot_plot(
    rows: Mapping[str, Sequence[float]],
    x_label: str,
    title: str = "",
    marks: Mapping[str, float] | None = None,
    mark_name: str = "baseline",
) -> str:
    """A row of dots per name, first name on top; returns an SVG element.

    Args:
        rows: Values by row name; each value is a dot.
        x_label: What the values are, with their unit.
        title: Stands above the plot; may be empty.
        marks: One value per row to compare the dots with, drawn as an upright stroke.
        mark_name: What the strokes are, for the legend.
    """
    names = list(rows)
    with _figure(_rows_height(len(names))) as (figure, axes):
        for height, name in enumerate(reversed(names)):
            axes.plot(rows[name], [height] * len(rows[name]), "o", color=COLOURS[0], alpha=0.8, markersize=6)
        marked = (
            [(marks[name], height) for height, name in enumerate(reversed(names)) if name in (marks or {})]
            if marks
            else []
        )
        if marked:
            axes.plot(
                *zip(*marked, strict=True), "|", color=COLOURS[1], markersize=13, markeredgewidth=2, label=mark_name
            )
            figure.legend(frameon=False, labelcolor=INK, fontsize=10, loc="outside lower center")
        _name_rows(axes, names[::-1])
        _label(axes, x_label, "", "")
        _head(figure, title)
        return _svg(figure)


def interval_plot(
    rows: Mapping[str, tuple[float, float, float]], x_label: str, title: str = "", upright: float | None = None
) -> str:
    """A point with its interval per row, first row on top; returns an SVG element.

    Args:
        rows: (low, middle, high) by row name.
        x_label: What the values are, with their unit.
        title: Stands above the plot; may be empty.
        upright: Where a line to compare all intervals with stands, such as 0 for differences.
    """
    names = list(rows)[::-1]
    with _figure(_rows_height(len(names))) as (figure, axes):
        if upright is not None:
            axes.axvline(upright, color=INK, linewidth=1.0, alpha=0.6)
        for height, name in enumerate(names):
            low, middle, high = rows[name]
            axes.plot([low, high], [height, height], "|-", color=COLOURS[0], markersize=9, linewidth=1.8)
            axes.plot([middle], [height], "o", color=COLOURS[0], markersize=5)
        _name_rows(axes, names)
        _label(axes, x_label, "", "")
        _head(figure, title)
        return _svg(figure)


def panel_plot(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] | None = None,
    level_name: str = "baseline",
) -> str:
    """Small line plots side by side, with one legend for all; returns an SVG element.

    Args:
        panels: Points (x, y) by series name, by the title of the panel. A series has one colour in all panels.
        x_label: What x is, with its unit; likewise `y_label`.
        levels: A height per panel to compare the lines with, dashed.
        level_name: What these heights are, for the legend.
    """
    columns = 1 if len(panels) < 2 else 2
    num_rows = max(1, -(-len(panels) // columns))
    series = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    with _figure(0.7 + (HEIGHT_INCHES if columns == 1 else 2.05) * num_rows, num_rows, columns) as (figure, grid):
        known: dict[str, Any] = {}
        for axes, (title, lines) in zip(grid, panels.items(), strict=False):
            for name, points in lines.items():
                place = series.index(name)
                style = DASHES[place // len(COLOURS) % len(DASHES)]
                colour, marker = COLOURS[place % len(COLOURS)], "o" if len(points) < 2 else ""
                (known[name],) = axes.plot(*_columns(points), style, color=colour, marker=marker, linewidth=1.6)
            if levels and title in levels:
                known[level_name] = axes.axhline(levels[title], color=INK, linestyle=":", linewidth=1.2, alpha=0.8)
            _label(axes, "", "", _shortened(title))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(x_label, color=INK, fontsize=11)
        figure.supylabel(y_label, color=INK, fontsize=11)
        if known:
            names = [name for name in (*series, level_name) if name in known]
            options: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 10, "ncols": min(4, len(names))}
            figure.legend([known[name] for name in names], names, loc="outside upper center", **options)
        return _svg(figure)


def _rows_height(num_rows: int) -> float:
    return 0.9 + 0.28 * max(num_rows, 2)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """The rows' names, from below, beside the y axis."""
    axes.set_yticks(range(len(names)), [_shortened(name) for name in names])
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)


def _head(figure: Any, title: str) -> None:
    """A title over the whole figure: long names of rows leave the axes less room than it needs."""
    if title:
        figure.suptitle(title, color=INK, fontsize=12)


def _shortened(name: str) -> str:
    """A name that leaves room for what it names; the middle goes, since names begin and end alike."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}…{name[-MAX_NAME // 2 + 1 :]}"


@contextmanager
def _figure(height_inches: float, num_rows: int = 0, num_columns: int = 0) -> Iterator[tuple[Any, Any]]:
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


def _scale_by_ratios(axes: Any) -> None:
    """A logarithmic y axis with round numbers at it: 20, 50, 100, or evenly spaced ones within less than a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > 8 * low else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())


def _label(axes: Any, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    if title:
        axes.set_title(title, color=INK, fontsize=12)


def _svg(figure: Any) -> str:
    """The figure as an <svg> element of any width, without the time stamp and the declarations of a file."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S).strip() + "\n"
