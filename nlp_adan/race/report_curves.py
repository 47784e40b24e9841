"""The curves of a race's report: means over the seeds with the range of all, and a paper's curves beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlp_adan.pretraining.curves import interpolated
from nlp_adan.pretraining.quantities import plain
from nlp_adan.race.comparison import pairs_of
from nlp_adan.race.reaching import has_diverged
from nlp_adan.race.results import Point, Race, RunResult
from nlp_adan.reporting import Column, Image, Note, Paragraph, Section, Table
from nlp_adan.reporting.plots import Trace, panel_plot, trace_plot

LOSS_AXIS = "validation loss (nats)"
LATE_POINTS = 9  # evaluations of a run: from here on its beginning hides the rest
LATE_SHARE = 1 / 3
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Band:
    """The loss of several runs at the same steps: its mean and its range, and the mean of their training seconds."""

    steps: tuple[float, ...]
    seconds: tuple[float, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]

    def later(self) -> Band:
        """Without the first third of the steps."""
        begin = sum(step < LATE_SHARE * self.steps[-1] for step in self.steps)
        return Band(*(values[begin:] for values in (self.steps, self.seconds, self.means, self.lows, self.highs)))

    def trace(self, xs: Sequence[float], colour: int) -> Trace:
        """Over these x, one for each step."""
        has_band = self.lows != self.highs
        band = tuple(zip(self.lows, self.highs, strict=True)) if has_band else ()
        return Trace(tuple(zip(xs, self.means, strict=True)), band, colour=colour)


def seed_band(runs: Sequence[RunResult]) -> Band | None:
    """Of the runs that did not diverge, at the first one's evaluations as far as all have got; None without any."""
    curves = [_finite_curve(run) for run in runs if not has_diverged(run)]
    if not curves:
        return None
    begin, end = max(curve[0].step for curve in curves), min(curve[-1].step for curve in curves)
    steps = sorted({point.step for point in curves[0] if begin <= point.step <= end} | {end})

    def rows(name: str) -> np.ndarray:
        """(runs, steps) float64."""
        return np.stack([
            np.interp(steps, [point.step for point in curve], [getattr(point, name) for point in curve])
            for curve in curves
        ])  # fmt: skip

    losses, seconds = rows("loss"), rows("seconds")
    columns = (seconds.mean(0), losses.mean(0), losses.min(0), losses.max(0))
    return Band(tuple(float(step) for step in steps), *(tuple(values.tolist()) for values in columns))


def _finite_curve(run: RunResult) -> list[Point]:
    points = [point for point in run.curve if point.step < run.steps and np.isfinite(point.loss)]
    return [*points, Point(run.steps, run.seconds, run.loss)]


def curves_section(race: Race) -> Section:
    """The loss on the way, over steps and over training time."""
    bands = {name: band for name in race.entrants if (band := seed_band(race.finals.get(name, ()))) is not None}
    if not bands:
        return Section("Curves", (Note("No final run came to its end."),))
    words = f"{race.loss_name}: the mean over the seeds of the final runs and, shaded, the range of the seeds."
    words = words[0].upper() + words[1:]
    lost = {name: sum(map(has_diverged, race.finals.get(name, ()))) for name in race.entrants}
    if text := ", ".join(f"{number} of {name}" for name, number in lost.items() if number):
        words += f" Runs that diverged are not drawn: {text}."
    images = [_image(race, bands, "steps", "", words)]
    if min(len(band.steps) for band in bands.values()) >= LATE_POINTS:
        late = {name: band.later() for name, band in bands.items()}
        images.append(_image(race, late, "steps", "_late", "The same without the first third of the steps."))
        images.append(_image(race, late, "seconds", "_late", "Likewise, over the time that the training took."))
    else:
        images.append(_image(race, bands, "seconds", "", "The same over the time that the training took."))
    return Section("Curves", (*images, *_difference_plot(race)))


def _image(race: Race, bands: dict[str, Band], axis: str, suffix: str, caption: str) -> Image:
    label, unit = "optimizer steps", 1.0
    if axis == "seconds":
        unit, name = _time_unit(max(band.seconds[-1] for band in bands.values()))
        label = f"training time ({name})"
    traces = {
        name: band.trace([x / unit for x in getattr(band, axis)], race.entrants.index(name))
        for name, band in bands.items()
    }
    ends = "; ".join(f"{name} from {band.means[0]:.3f} to {band.means[-1]:.3f}" for name, band in bands.items())
    over = "steps" if axis == "steps" else "time"
    return Image(f"curves_{over}{suffix}", trace_plot(traces, label, LOSS_AXIS), f"Loss over {over}: {ends}.", caption)


def _difference_plot(race: Race) -> list[Image]:
    """Pair by pair, how far an entrant is ahead or behind on the way: every one in a panel with a scale of its own."""
    baseline, *others = race.entrants
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in others:
        lines = {}
        for run, other in pairs_of(race, race.finals, name, baseline):
            pair = [band for each in (run, other) if (band := seed_band([each])) is not None]
            if len(pair) == 2 and (points := _gaps(pair[0], pair[1])):
                lines[f"seed {run.seed}"] = points
        if lines:
            panels[f"{name} less {baseline}"] = lines
    if not panels:
        return []
    ends = "; ".join(
        f"{title} ends at {', '.join(f'{points[-1][1]:+.3f}' for points in lines.values())}"
        for title, lines in panels.items()
    )
    zero = dict.fromkeys(panels, 0.0)
    seeds_from = len(race.entrants)  # seeds are no entrants: they have other colours
    svg = panel_plot(panels, "optimizer steps", "difference (nats)", zero, "equal", first_colour=seeds_from)
    caption = "Differences of paired runs at equal steps, without the first third; below 0 is better."
    return [Image("curves_differences", svg, f"Differences over steps: {ends}.", caption)]


def _gaps(ours: Band, theirs: Band) -> list[tuple[float, float]]:
    """(step, our loss less theirs) at our evaluations, as far as both have any, without the first third."""
    begin = max(ours.steps[0], theirs.steps[0], LATE_SHARE * ours.steps[-1])
    points = [(step, loss) for step, loss in zip(ours.steps, ours.means, strict=True)
              if begin <= step <= theirs.steps[-1]]  # fmt: skip
    return [(step, loss - float(np.interp(step, theirs.steps, theirs.means))) for step, loss in points]


def _time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in the unit, and its name."""
    if seconds < 300:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def published_section(race: Race) -> Section:
    """A paper's curves and ours, each over its own steps, and both at the same shares of them."""
    ours = {
        name: list(zip(band.steps, band.means, strict=True))
        for name in race.entrants
        if (band := seed_band(race.finals.get(name, ()))) is not None
    }
    theirs = {name: list(points) for name, points in race.published.items() if points}
    panels = {
        title: {name: [(100 * step / points[-1][0], loss) for step, loss in points] for name, points in lines.items()}
        for title, lines in (("here", ours), ("published", theirs))
    }
    svg = panel_plot(panels, "share of the run's steps (%)", LOSS_AXIS)
    ends = "; ".join(f"{name} ends at {points[-1][1]:.3f}" for name, points in {**ours, **theirs}.items())
    columns = (Column("Share of the steps"), *(Column(name, "right") for name in (*ours, *theirs)))
    rows = []
    for share in SHARES:
        values = [interpolated(points, share * points[-1][0]) for points in (*ours.values(), *theirs.values())]
        rows.append((f"{100 * share:.0f} %", *(plain(value) for value in values)))
    words = (
        "The published runs are of one seed each; only where text, vocabulary and length are theirs do heights "
        "compare. Elsewhere the course does: at which part of a run which optimizer is ahead."
    )
    plot = Image("published", svg, f"Curves here and published: {ends}.", "Left: means over the seeds of this race.")
    table = Table(columns, tuple(rows), "Losses in nats, by share of each run's own steps")
    return Section("Beside the published curves", (plot, table, Paragraph(words)))


def mean_loss(runs: Sequence[RunResult]) -> float | None:
    """Of the final losses; None where a run diverged or none is there."""
    if not runs or any(map(has_diverged, runs)):
        return None
    return statistics.fmean(run.loss for run in runs)
