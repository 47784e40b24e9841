"""The part of a race's report about the search: how the loss of short runs hangs on the learning rate, and its cost."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_adan.pretraining.quantities import NOTHING, duration, plain
from nlp_adan.race.reaching import has_diverged
from nlp_adan.race.report_curves import LOSS_AXIS
from nlp_adan.race.results import Race, RunResult, Search, Settings
from nlp_adan.race.wording import counted
from nlp_adan.reporting import Column, Image, Note, Paragraph, Section, Table
from nlp_adan.reporting.plots import Trace, trace_plot

COST_TOLERANCE = 0.02  # of the dearest search: budgets in hours do not end at the same step
DIVERGED = "diverged"


def loss_cell(run: RunResult | None) -> str:
    """A run's final loss, that it diverged, or a dash for None."""
    if run is None:
        return NOTHING
    return DIVERGED if has_diverged(run) else plain(run.loss)


def search_section(race: Race) -> Section:
    """The short runs by learning rate, everything that was tried, and what it cost."""
    runs = [run for search in race.searches.values() for run in (*search.short, *search.longer)]
    if not runs:
        words = "There was no search: each optimizer raced with the one setting that it was given."
        return Section("Learning rates", (Note(words),))
    told = (
        f"Short runs have {100 * race.short_share:.3g} % of the budget of a final run, with a learning rate that warms "
        f"up and decays within them; the best were run again with {100 * race.longer_share:.3g} % of it, and the best "
        "of these raced. Each is a single run, so that close neighbours may stand in the wrong order."
    )
    blocks = [Paragraph(told)]
    if plot := _plot(race):
        blocks.append(plot)  # type: ignore[arg-type]
    return Section("Learning rates", (*blocks, _tries_table(race), _cost_table(race)))


def _plot(race: Race) -> Image | None:
    traces, told = {}, []
    for colour, (entrant, search) in enumerate(race.searches.items()):
        presets = list(dict.fromkeys(_line_name(entrant, run.settings, search) for run in search.short))
        for dash, name in enumerate(presets):
            runs = [run for run in search.short if _line_name(entrant, run.settings, search) == name]
            runs.sort(key=lambda run: run.settings.learning_rate)
            points = tuple((run.settings.learning_rate, run.loss) for run in runs if not has_diverged(run))
            crosses = tuple(run.settings.learning_rate for run in runs if has_diverged(run))
            chosen = [(run.settings.learning_rate, run.loss) for run in runs
                      if run.settings == search.chosen and not has_diverged(run)]  # fmt: skip
            traces[name] = Trace(points, crosses=crosses, ring=chosen[0] if chosen else None, colour=colour, dash=dash)
            told += [f"{name}: {', '.join(f'{loss:.3f} at {rate:.3g}' for rate, loss in points)}"]
    if len({run.settings.learning_rate for search in race.searches.values() for run in search.short}) < 2:
        return None
    caption = "Short runs; a ring: the setting that raced."
    if any(trace.crosses for trace in traces.values()):
        caption += " Crosses near the upper edge: diverged."
    svg = trace_plot(traces, "peak learning rate", LOSS_AXIS, log_x=True)
    return Image("learning_rates", svg, f"Loss of the short runs by learning rate. {'; '.join(told)}.", caption)


def _line_name(entrant: str, settings: Settings, search: Search) -> str:
    """The entrant, and what besides the learning rate tells this line from its others."""
    words = [entrant]
    if len({run.settings.preset for run in search.short}) > 1:
        words.append(settings.preset or "default betas")
    if len({run.settings.weight_decay for run in search.short}) > 1:
        words.append(f"weight decay {settings.weight_decay:g}")
    return ", ".join(words)


def settings_cells(settings: Settings) -> tuple[str, str, str]:
    """Betas, learning rate and weight decay."""
    return (
        settings.preset.removeprefix("betas ") or NOTHING,
        f"{settings.learning_rate:.3g}",
        f"{settings.weight_decay:g}",
    )


def _tries_table(race: Race) -> Table:
    rows = []
    for entrant, search in race.searches.items():
        longer = {run.settings: run for run in search.longer}
        short = {run.settings: run for run in search.short}
        for settings in dict.fromkeys((*short, *longer)):
            losses = (loss_cell(short.get(settings)), loss_cell(longer[settings]) if settings in longer else "")
            rows.append((entrant, *settings_cells(settings), *losses, "raced" if settings == search.chosen else ""))
    heads = ("Entrant", "Betas", "Learning rate", "Weight decay", "Short run", "Longer run", "Remark")
    columns = tuple(Column(name, "left" if name in ("Entrant", "Betas", "Remark") else "right") for name in heads)
    return Table(columns, tuple(rows), "Every setting that was tried: final losses in nats")


def _cost_table(race: Race) -> Table:
    rows = []
    for entrant, search in race.searches.items():
        runs = (*search.short, *search.longer)
        rates = [run.settings.learning_rate for run in runs]
        tried = f"{min(rates):.3g} to {max(rates):.3g}" if rates else NOTHING
        counts = (f"{len(search.short):,}", f"{len(search.longer):,}", f"{search.cost:,}")
        steps = [run.steps for run in race.finals.get(entrant, ()) if not has_diverged(run)]
        finals = f"{search.cost / max(steps):.1f}" if steps else NOTHING
        seconds = duration(sum(run.seconds for run in runs))
        rows.append((entrant, *counts, finals, seconds, tried, "yes" if search.is_edge else "no"))
    heads = ("Entrant", "Short runs", "Longer runs", "Steps", "Final runs' worth", "Training time",
             "Learning rates tried", "Chosen at the edge")  # fmt: skip
    columns = (Column(heads[0]), *(Column(name, "right") for name in heads[1:]))
    return Table(columns, tuple(rows), "What the search cost: all its runs of an entrant together")


def search_notices(race: Race) -> list[str]:
    """What makes the search less than fair, or its outcome doubtful."""
    found = []
    for entrant, search in race.searches.items():
        if search.is_edge and search.short:
            rates = sorted(
                {run.settings.learning_rate for run in search.short if run.settings.preset == search.chosen.preset}
            )
            is_highest = search.chosen.learning_rate >= rates[-1]
            whose = " for its betas" if search.chosen.preset else ""
            end, beyond = ("highest", "higher") if is_highest else ("lowest", "lower")
            found.append(
                f"{entrant} raced with the {end} learning rate that was tried{whose}, "
                f"{search.chosen.learning_rate:.3g}: a {beyond} one might be better. Give more with --lr."
            )
    by_hours = race.budget.startswith("hours")
    costs = {name: _cost(search, by_hours) for name, search in race.searches.items()}
    if costs and min(costs.values()) < (1 - COST_TOLERANCE) * max(costs.values()):
        told = ", ".join(
            f"{name} {duration(cost) if by_hours else counted(round(cost), 'step')}" for name, cost in costs.items()
        )
        found.append(f"The searches were not equally dear: {told}.")
    return found


def _cost(search: Search, by_hours: bool) -> float:
    """Steps, or seconds of training."""
    runs: Sequence[RunResult] = (*search.short, *search.longer)
    return sum(run.seconds for run in runs) if by_hours else float(search.cost)
