"""Plots as SVG text: the same input gives the same bytes, and the ink follows the page's text colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlp_adan.reporting.drawing import (
    COLOURS,
    DASHES,
    HEIGHT_INCHES,
    INK,
    columns_of,
    label_axes,
    new_figure,
    scale_by_ratios,
    svg_of,
)

MAX_NAME = 32  # characters of a row's or a panel's name
MAX_NUMBERS = 8  # at a logarithmic x axis


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
    with new_figure(HEIGHT_INCHES) as (figure, axes):
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
            scale_by_ratios(axes)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.10g}")  # steps by the hundred thousand: no powers of ten at the edge
        label_axes(axes, x_label, y_label, title)
        return svg_of(figure)


@dataclass(frozen=True)
class Trace:
    """A line of `trace_plot`, and what belongs to it.

    points: (x, y) in the order of x.
    band: (low, high) at each point, shaded; empty where there is none.
    crosses: x at which there is no y to show; they stand at the upper edge.
    ring: the point to look at; None: none.
    colour, dash: numbers of the line's colour and dashes; what belongs together has the same colour.
    """

    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    crosses: Sequence[float] = ()
    ring: tuple[float, float] | None = None
    colour: int = 0
    dash: int = 0


def trace_plot(traces: Mapping[str, Trace], x_label: str, y_label: str, log_x: bool = False) -> str:
    """Lines with bands around them; returns an SVG element.

    Args:
        traces: by the name that the legend shows.
        x_label: What x is, with its unit; likewise `y_label`.
        log_x: Whether equal ratios are equally wide; then all x are positive, and every point has a dot and its x a
            number at the axis where there is room.
    """
    with new_figure(HEIGHT_INCHES) as (figure, axes):
        for name, trace in traces.items():
            style, colour = DASHES[trace.dash % len(DASHES)], COLOURS[trace.colour % len(COLOURS)]
            marker = "o" if log_x or len(trace.points) < 2 else ""
            xs, ys = columns_of(trace.points)
            axes.plot(xs, ys, style, color=colour, label=name, marker=marker, markersize=5, linewidth=1.8)
            if trace.band:
                lows, highs = columns_of(trace.band)
                axes.fill_between(xs, lows, highs, color=colour, alpha=0.22, linewidth=0)
            if trace.ring is not None:
                options = {"fillstyle": "none", "color": colour, "markersize": 12, "markeredgewidth": 1.8}
                axes.plot(*columns_of([trace.ring]), "o", **options)
        for trace in traces.values():
            heights = [0.95 - 0.06 * trace.colour] * len(trace.crosses)  # beside those of other colours
            options = {"color": COLOURS[trace.colour % len(COLOURS)], "markersize": 8, "markeredgewidth": 2}
            axes.plot(trace.crosses, heights, "x", transform=axes.get_xaxis_transform(), **options)
        if traces:
            axes.legend(frameon=False, labelcolor=INK, fontsize=10)
        if log_x:
            every = (x for trace in traces.values() for x in (*columns_of(trace.points)[0], *trace.crosses))
            _number_ratios(axes, sorted(set(every)))
        else:
            axes.xaxis.set_major_formatter("{x:,.10g}")
        label_axes(axes, x_label, y_label, "")
        return svg_of(figure)


def _number_ratios(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic x axis with a number at each of the values, as far as there is room."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    shown = list(values[:1])
    for value in values[1:]:
        if math.log(value / shown[-1]) >= math.log(values[-1] / values[0]) / (MAX_NUMBERS - 1) * 0.99:
            shown.append(value)
    if len(values) == 1:  # a decade around it, not the whole of what is positive
        axes.set_xlim(values[0] / 3, values[0] * 3)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}" if x < 1000 else f"{x:,.0f}")


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
    with new_figure(HEIGHT_INCHES) as (figure, axes):
        for place, (name, pairs) in enumerate(points.items()):
            axes.plot(*columns_of(pairs), "o", color=COLOURS[place % len(COLOURS)], label=name, markersize=6)
        for place, (name, pairs) in enumerate(formulas.items()):
            axes.plot(*columns_of(pairs), "--", color=COLOURS[place % len(COLOURS)], label=name, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 10 * low:  # a decade at least: what hardly grows must not look as if it did
            middle = (low * high) ** 0.5
            axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.10g}")  # powers of ten would be formulas, which are not drawn
            axis.set_minor_formatter("")
        if points or formulas:
            axes.legend(frameon=False, labelcolor=INK, fontsize=10)
        label_axes(axes, x_label, y_label, title)
        return svg_of(figure)


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
    with new_figure(_rows_height(len(names))) as (figure, axes):
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
        label_axes(axes, x_label, "", "")
        _head(figure, title)
        return svg_of(figure)


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
    with new_figure(_rows_height(len(names))) as (figure, axes):
        if upright is not None:
            axes.axvline(upright, color=INK, linewidth=1.0, alpha=0.6)
        for height, name in enumerate(names):
            low, middle, high = rows[name]
            axes.plot([low, high], [height, height], "|-", color=COLOURS[0], markersize=9, linewidth=1.8)
            axes.plot([middle], [height], "o", color=COLOURS[0], markersize=5)
        _name_rows(axes, names)
        label_axes(axes, x_label, "", "")
        _head(figure, title)
        return svg_of(figure)


def panel_plot(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] | None = None,
    level_name: str = "baseline",
    first_colour: int = 0,
) -> str:
    """Small line plots side by side, with one legend for all; returns an SVG element.

    Args:
        panels: Points (x, y) by series name, by the title of the panel. A series has one colour in all panels.
        x_label: What x is, with its unit; likewise `y_label`.
        levels: A height per panel to compare the lines with, dashed.
        level_name: What these heights are, for the legend.
        first_colour: So many colours are left out, which stand for something else on the same page.
    """
    columns = 1 if len(panels) < 2 else 2
    num_rows = max(1, -(-len(panels) // columns))
    series = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    with new_figure(0.7 + (HEIGHT_INCHES if columns == 1 else 2.05) * num_rows, num_rows, columns) as (figure, grid):
        known: dict[str, Any] = {}
        for axes, (title, lines) in zip(grid, panels.items(), strict=False):
            for name, points in lines.items():
                place = first_colour + series.index(name)
                style = DASHES[place // len(COLOURS) % len(DASHES)]
                colour, marker = COLOURS[place % len(COLOURS)], "o" if len(points) < 2 else ""
                (known[name],) = axes.plot(*columns_of(points), style, color=colour, marker=marker, linewidth=1.6)
            if levels and title in levels:
                known[level_name] = axes.axhline(levels[title], color=INK, linestyle=":", linewidth=1.2, alpha=0.8)
            label_axes(axes, "", "", _shortened(title))
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(x_label, color=INK, fontsize=11)
        figure.supylabel(y_label, color=INK, fontsize=11)
        if known:
            names = [name for name in (*series, level_name) if name in known]
            options: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 10, "ncols": min(4, len(names))}
            figure.legend([known[name] for name in names], names, loc="outside upper center", **options)
        return svg_of(figure)


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
