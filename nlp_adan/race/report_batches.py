"""The part of a race's report about batch sizes: how each optimizer bears large ones, at equal numbers of samples."""

from __future__ import annotations

from nlp_adan.pretraining.quantities import NOTHING, plain
from nlp_adan.race.comparison import loss_difference, pairs_of
from nlp_adan.race.reaching import has_diverged
from nlp_adan.race.report_curves import LOSS_AXIS, mean_loss
from nlp_adan.race.report_search import settings_cells
from nlp_adan.race.results import Race, RunResult
from nlp_adan.race.statistics import Estimate, corrected_confidence
from nlp_adan.race.wording import difference_text, percent
from nlp_adan.reporting import Column, Image, Note, Paragraph, Section, Table
from nlp_adan.reporting.plots import Trace, trace_plot


def batch_sizes(race: Race) -> list[int]:
    """Of all entrants, in ascending order."""
    return sorted({size for by_size in race.batches.values() for size in by_size})


def batch_confidence(race: Race) -> float:
    """Of each interval over batch sizes: all of them together err in at most 5 % of races."""
    return corrected_confidence((len(race.entrants) - 1) * len(batch_sizes(race)))


def batch_differences(race: Race) -> dict[str, dict[int, Estimate | None]]:
    """By entrant, the first one apart, and batch size: the final loss less the first one's; None as for finals."""
    baseline, *others = race.entrants
    confidence = batch_confidence(race)
    found: dict[str, dict[int, Estimate | None]] = {}
    for name in others:
        found[name] = {}
        for size in batch_sizes(race):
            runs = {each: _runs(race, each, size) for each in (name, baseline)}
            found[name][size] = loss_difference(pairs_of(race, runs, name, baseline), confidence)
    return found


def batches_section(race: Race) -> Section:
    """Final losses over batch sizes, their differences at each size, and the settings found for it."""
    differences = batch_differences(race)
    equal = (
        "Every run has the same hours, whatever its batch."
        if race.budget.startswith("hours")
        else "Every run sees as many samples as the others, to a step: twice the batch, half the steps."
    )
    told = (
        f"{equal} Differences are those of paired runs, with {percent(batch_confidence(race))} Student-t intervals: "
        "corrected for all comparisons at all sizes (Bonferroni). Where an optimizer bears large batches better, its "
        "difference falls as they grow."
    )
    rows, gaps = [], []
    for size in batch_sizes(race):
        cells = [_losses(_runs(race, name, size)) for name in race.entrants]
        gaps.append((f"{size:,}", *(difference_text(by_size[size]) for by_size in differences.values())))
        steps = sorted({run.steps for name in race.entrants for run in _runs(race, name, size)})
        told_steps = [f"{each:,}" for each in ((steps[0], steps[-1]) if len(steps) > 2 else steps)]
        rows.append((f"{size:,}", (" to " if len(steps) > 2 else " or ").join(told_steps) or NOTHING, *cells))
    losses = Table(
        tuple(Column(head, "right") for head in ("Batch size", "Steps", *race.entrants)),
        tuple(rows),
        "Final losses in nats by batch size (sequences a step): means, and the range over the seeds",
    )
    heads = ("Batch size", *(f"{name} less {race.entrants[0]}" for name in differences))
    less = Table(tuple(Column(head, "right") for head in heads), tuple(gaps), "Their differences, with intervals")
    tables = [losses, *([less] if differences else []), _settings_table(race)]
    return Section("Batch sizes", (Paragraph(told), _plot(race), *tables, *_edge_notes(race)))


def _edge_notes(race: Race) -> list[Note]:
    """Where the learning rate for a batch size may lie beyond those tried."""
    edges = {name: [f"{size:,}" for size in batch_sizes(race) if _is_edge(race, name, size)] for name in race.entrants}
    told = "; ".join(f"{name} at {', '.join(sizes)}" for name, sizes in edges.items() if sizes)
    return [Note(f"The learning rate that raced is the lowest or highest that was tried: {told}.")] if told else []


def _runs(race: Race, name: str, size: int) -> tuple[RunResult, ...]:
    return race.batches.get(name, {}).get(size, ())


def _losses(runs: tuple[RunResult, ...]) -> str:
    """Mean and range, or how many diverged."""
    diverged = sum(map(has_diverged, runs))
    if diverged:
        return f"{diverged} of {len(runs)} diverged"
    if len(runs) < 2:
        return plain(mean_loss(runs))
    return f"{plain(mean_loss(runs))} ({min(run.loss for run in runs):.3f} to {max(run.loss for run in runs):.3f})"


def _plot(race: Race) -> Image:
    traces, told = {}, []
    for colour, name in enumerate(race.entrants):
        points, band, crosses = [], [], []
        for size in batch_sizes(race):
            runs = _runs(race, name, size)
            losses = [run.loss for run in runs if not has_diverged(run)]
            mean = mean_loss(runs)
            if mean is not None:
                points.append((float(size), mean))
                band.append((min(losses), max(losses)))
            elif runs:
                crosses.append(float(size))
        traces[name] = Trace(points, band if any(low < high for low, high in band) else (), crosses, colour=colour)
        told.append(f"{name}: {', '.join(f'{loss:.3f} at {size:,.0f}' for size, loss in points) or 'none'}")
    caption = "Means over the seeds; shaded: from the lowest to the highest."
    if any(trace.crosses for trace in traces.values()):
        caption += " Crosses near the upper edge: a run diverged."
    svg = trace_plot(traces, "batch size (sequences)", LOSS_AXIS, log_x=True)
    return Image("batch_sizes", svg, f"Final loss by batch size. {'; '.join(told)}.", caption)


def _tried(race: Race, name: str, size: int) -> list[float]:
    return sorted({run.settings.learning_rate for run in race.batch_searches.get(name, {}).get(size, ())})


def _is_edge(race: Race, name: str, size: int) -> bool:
    """Whether learning rates were tried for it and the one that raced is the lowest or highest."""
    tried, runs = _tried(race, name, size), _runs(race, name, size)
    return len(tried) > 1 and bool(runs) and runs[0].settings.learning_rate in (tried[0], tried[-1])


def _settings_table(race: Race) -> Table:
    rows = []
    for name in race.entrants:
        for size in batch_sizes(race):
            if runs := _runs(race, name, size):
                tried = ", ".join(f"{rate:.3g}" for rate in _tried(race, name, size)) or "no other"
                rows.append((name, f"{size:,}", *settings_cells(runs[0].settings), tried))
    heads = ("Entrant", "Batch size", "Betas", "Learning rate", "Weight decay", "Tried at this size")
    columns = tuple(Column(head, "right" if head in ("Batch size", "Learning rate", "Weight decay") else "left")
                    for head in heads)  # fmt: skip
    return Table(columns, tuple(rows), "The settings that raced at each batch size")
