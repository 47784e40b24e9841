"""The curves of a pretraining report: the loss, that of a published run, and throughput over the steps."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from nlp_adan.pretraining.published import PublishedCurve
from nlp_adan.pretraining.quantities import count, duration, plain, share, with_unit
from nlp_adan.pretraining.record import Point, RunRecord
from nlp_adan.reporting import Column, Image, Note, Paragraph, Section, Table
from nlp_adan.reporting.plots import line_plot
from nlp_adan.training.hardware import peak_flops

MAX_POINTS = 400  # of a plotted line
MAX_ROWS = 12  # of a table over steps
LONG_RUN_LINES = 50  # of log.jsonl: from here on the beginning hides the rest of the curve


def loss_section(record: RunRecord) -> Section:
    """The loss, as the run's kind measures it, over steps, or over trained hours where hours are the budget."""
    train, valid = training_curve(record), validation_curve(record)
    title = record.measure.title
    if not train and not valid:
        return Section(title, (Note("No step is logged yet."),))
    blocks: list[Any] = [_loss_plot(record, train, valid, "loss", record.kind.loss_caption)]
    if len(train) >= LONG_RUN_LINES:
        begin = train[-1][0] / 10
        late = [[point for point in points if point[0] >= begin] for points in (train, valid)]
        blocks.append(_loss_plot(record, late[0], late[1], "loss_later", "The same without the first tenth."))
    return Section(title, (*blocks, *([_evaluations_table(record)] if record.evaluations else [])))


def training_curve(record: RunRecord) -> list[Point]:
    """(step, measure) of the log lines."""
    return record.measured(record.curve("loss"))


def validation_curve(record: RunRecord) -> list[Point]:
    """(step, measure) of the evaluations."""
    return record.measured(record.curve(record.kind.loss, record.evaluations))


def _loss_plot(record: RunRecord, train: Sequence[Point], valid: Sequence[Point], name: str, caption: str) -> Image:
    over_hours = record.max_hours is not None and record.hours_at(0) is not None

    def axis(points: Sequence[Point]) -> list[Point]:
        return [((record.hours_at(x) or 0.0) if over_hours else x, y) for x, y in thinned(points)]

    measure = record.measure
    series = {part: axis(points) for part, points in (("training", train), ("validation", valid)) if points}
    first, last = (choose(x for x, _ in [*train, *valid]) for choose in (min, max))
    curve = None if over_hours else record.kind.published(record.recipe)
    references = {} if curve is None else {
        f"{curve.name}, {part}": [point for point in points if first <= point[0] <= last]
        for part, points in (("training", curve.train), ("validation", curve.valid))
    }  # fmt: skip
    unigram = record.last_evaluation.get("eval_unigram_cross_entropy")
    svg = line_plot(
        series,
        "trained hours" if over_hours else "optimizer steps",
        measure.axis,
        horizontal_lines={} if unigram is None or name != "loss" else {"unigram": measure.from_nats(unigram)},
        references={part: points for part, points in references.items() if points},
        log_y=measure.log_axis,
    )
    alt = "; ".join(
        f"{part} from {points[0][1]:.{measure.digits}f} to {points[-1][1]:.{measure.digits}f}"
        for part, points in series.items()
    )
    return Image(name, svg, f"{measure.title} curves: {alt}.", caption)


def _evaluations_table(record: RunRecord) -> Table:
    kind = record.kind
    columns = [
        figure for figure in kind.columns if figure.is_expected or any(figure.name in at for at in record.evaluations)
    ]
    names = ("Step", "Trained", "Tokens", "Training loss", "Validation loss", *(figure.head for figure in columns))
    train = dict(record.curve("loss"))
    rows = []
    for line in thinned(record.evaluations, MAX_ROWS):
        step, hours = int(line["step"]), record.hours_at(line["step"])
        before = max((at for at in train if at <= step), default=None)
        rows.append((
            f"{step:,}",
            duration(None if hours is None else 3600 * hours),
            count(step * record.tokens_per_step),
            plain(None if before is None else train[before]),
            plain(line.get(kind.loss)),
            *(figure.text(line.get(figure.name)) for figure in columns),
        ))  # fmt: skip
    return Table(tuple(Column(name, "right") for name in names), tuple(rows), kind.evaluations_caption)


def published_section(record: RunRecord, curve: PublishedCurve) -> Section:
    """This run beside the published one at the published steps, and in what they differ."""
    end, digits = float(record.step), record.measure.digits
    ours = {"valid": validation_curve(record), "train": training_curve(record)}
    names = ("Step", "Validation here", "Published validation", "Training here", "Published training")
    rows = []
    for step, published_train in thinned([point for point in curve.train if point[0] <= end], MAX_ROWS):
        published_valid = dict(curve.valid).get(int(step))
        cells = (interpolated(ours["valid"], step), published_valid, interpolated(ours["train"], step), published_train)
        rows.append((f"{int(step):,}", *(plain(cell, digits) for cell in cells)))
    blocks: list[Any] = [Table(tuple(Column(name, "right") for name in names), tuple(rows), record.measure.caption)]
    if not rows:
        blocks = [Note(f"The published curve begins at step {curve.train[0][0]:,}: nothing to compare yet.")]
    differing = [(name, here, theirs) for name, here, theirs in curve.differences(record.settings)]
    heads = (Column("Setting"), Column("Here"), Column("Published run"))
    settings = [Table(heads, tuple(differing), "Settings that differ from the recipe of the published run")]
    if not differing:
        settings = []
        blocks.append(Paragraph("All settings of the recipe are those of the published run."))
    return Section(f"Against the published curve ({curve.name})", (*blocks, *settings, Note(curve.comparable)))


def throughput_section(record: RunRecord) -> Section:
    """Rates over the log lines: quartiles, and the curve of tokens a second."""
    devices = record.environment.get("gpus") or []
    rows = []
    for name, label, text in (
        ("tokens_per_second", "tokens/s", lambda value: f"{value:,.0f}"),
        ("flops_per_second", "FLOP/s", lambda value: with_unit(value, "FLOP/s")),
        ("mfu", "MFU", share),
        ("data_wait", "waiting for data", share),
    ):
        if found := quartiles(record.values(name)):
            rows.append((label, *(text(value) for value in found)))
    if not rows:
        return Section("Throughput", (Note("No step is logged yet."),))
    columns = (
        Column("All ranks together"),
        *(Column(head, "right") for head in ("Lower quartile", "Median", "Upper quartile")),
    )
    words = (
        "Over the log lines; of training alone, without evaluations, checkpoints and probes. FLOP/s count the matrix "
        f"products, {record.kind.flops_note}."
    )
    if not record.values("mfu"):
        where = devices[0] if devices else "this CPU"
        known = bool(devices) and peak_flops(devices[0]) is not None
        words += " No MFU is recorded." if known else f" No MFU: no peak FLOP/s known of {where}."
    speed = thinned(record.curve("tokens_per_second"))
    svg = line_plot({"tokens/s": speed}, "optimizer steps", "tokens/s, all ranks")
    image = Image("throughput", svg, f"Tokens a second over {len(record.log)} log lines.")
    return Section("Throughput", (Table(columns, tuple(rows)), Paragraph(words), *([image] if len(speed) > 1 else [])))


def thinned(points: Sequence[Any], most: int = MAX_POINTS) -> list[Any]:
    """At most so many of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def interpolated(points: Sequence[Point], x: float) -> float | None:
    """The height of a line through points at x; None outside of it."""
    for (x_before, before), (x_after, after) in itertools.pairwise(points):
        if x_before <= x <= x_after:
            return before + (after - before) * (x - x_before) / max(x_after - x_before, 1e-9)
    return points[0][1] if len(points) == 1 and points[0][0] == x else None


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Lower quartile, median and upper quartile; None of no values."""
    if len(values) < 2:
        return (values[0], values[0], values[0]) if values else None
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return (lower, median, upper)
