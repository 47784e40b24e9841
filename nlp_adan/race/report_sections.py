"""The parts of a race's report besides curves and search: figures, settings, what it does not show, commands."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from collections.abc import Iterable, Sequence

from nlp_adan.pretraining.quantities import NOTHING, count, duration, plain, with_unit
from nlp_adan.race.comparison import Comparison
from nlp_adan.race.reaching import has_diverged
from nlp_adan.race.report_curves import mean_loss
from nlp_adan.race.report_search import loss_cell, settings_cells
from nlp_adan.race.results import Race, RunResult
from nlp_adan.race.verdict import Verdict
from nlp_adan.race.wording import (
    LEAST_DIGITS,
    counted,
    difference_text,
    digits_of,
    percent,
    ratio_text,
    reach_text,
)
from nlp_adan.reporting import Code, Column, Image, Note, Paragraph, Section, Table
from nlp_adan.reporting.facts import facts_table
from nlp_adan.reporting.plots import interval_plot

CLAIMS = {"better": "ends lower", "worse": "ends higher, or diverges", "none": "no difference shown"}


def verdict_section(race: Race, found: Verdict) -> list[Section]:
    """The figures behind the sentences; no section where an entrant ran alone."""
    if not found.comparisons:
        return []
    base = found.baseline
    rows = [(head, *cells) for head, cells in _verdict_rows(race, found.comparisons, base)]
    columns = (Column("What"), *(Column(each.entrant) for each in found.comparisons))
    percents = percent(found.confidence)
    told = (
        f"In brackets: {percents} Student-t intervals over the seeds, of paired runs: {_pairing(race)}. "
        "Ratios are geometric means. A difference is claimed "
        "where the interval of the final losses excludes 0, or where runs of only one diverged. A final loss is "
        "reached where the loss comes to stay at or below it, by a straight line between evaluations; there is a "
        "share only where it is reached with every seed."
    )
    if (num := len(found.comparisons)) > 1:
        told += (
            f" {percents} because there are {num} comparisons (Bonferroni): where there is no difference at all, at "
            "most 5 % of races claim one."
        )
    table = Table(columns, tuple(rows), f"Against {base}")
    return [Section("The verdict in figures", (table, Paragraph(told), *_difference_plot(found)))]


def _pairing(race: Race) -> str:
    if len(set(race.seeds.values())) == 1:
        return "the same seed gives both the same initial weights and the same order of the data"
    return "those at the same place in the lists of seeds, which differ where an optimizer races against itself"


def _verdict_rows(race: Race, found: Sequence[Comparison], base: str) -> Iterable[tuple[str, list[str]]]:
    yield f"Final loss less {base}'s, nats", [difference_text(each.difference) for each in found]
    yield "Claim", [CLAIMS[each.claims] for each in found]
    sizes = {run.batch_size for runs in race.finals.values() for run in runs}
    steps = "steps (and samples)" if len(sizes) < 2 else "steps"
    for side, whose, target in (("to_baseline", "", f"{base}'s"), ("to_entrant", f"{base}'s ", "the entrant's")):
        ways = [getattr(each, side) for each in found]
        kinds = {steps: [reach_text(way, way.steps) for way in ways]}
        if len(sizes) > 1:
            kinds["samples"] = [reach_text(way, way.samples) for way in ways]
        kinds["training time"] = [reach_text(way, way.seconds) for way in ways]
        for kind, cells in kinds.items():
            head = f"{whose}{kind} to {target} final loss, share of {target}"
            yield head if whose else f"{head[0].upper()}{head[1:]}", cells
    yield f"Time a step, ratio to {base}'s", [ratio_text(each.step_time) for each in found]
    yield f"Training time of a run, ratio to {base}'s", [ratio_text(each.time) for each in found]
    yield (
        f"Memory of the optimizer's state, ratio to {base}'s",
        [NOTHING if each.memory is None else f"{each.memory:.2f}" for each in found],
    )


def _difference_plot(found: Verdict) -> list[Image]:
    """The intervals beside each other, where there are several."""
    rows = {}
    for each in found.comparisons:
        if each.difference is not None and each.difference.interval is not None:
            low, high = each.difference.interval
            rows[each.entrant] = (low, each.difference.mean, high)
    if len(rows) < 2:
        return []
    svg = interval_plot(rows, f"final loss less {found.baseline}'s (nats); left of 0 is better", upright=0.0)
    alt = "; ".join(f"{name} {middle:+.3f} ({low:+.3f} to {high:+.3f})" for name, (low, middle, high) in rows.items())
    caption = f"Means with {percent(found.confidence)} intervals."
    return [Image("differences", svg, f"Differences of the final loss from {found.baseline}'s: {alt}.", caption)]


def finals_section(race: Race, found: Verdict) -> Section:
    """The final losses by seed, and what a run of each entrant took."""
    names = race.entrants
    by_seed = {name: {run.seed: run for run in race.finals.get(name, ())} for name in names}
    compared = {each.entrant: each for each in found.comparisons}
    digits = {
        name: LEAST_DIGITS if each.difference is None else digits_of(each.difference) for name, each in compared.items()
    }
    rows = []
    for seeds in zip(*(race.seeds[name] for name in names), strict=True):
        runs = {name: by_seed[name].get(seed) for name, seed in zip(names, seeds, strict=True)}
        seed = str(seeds[0]) if len(set(seeds)) == 1 else ", ".join(map(str, seeds))
        gaps = [_gap(runs[name], runs[found.baseline], digits[name]) for name in compared]
        rows.append((seed, *(loss_cell(runs[name]) for name in names), *gaps))
    middle = [plain(mean_loss(race.finals.get(name, ()))) for name in names]
    means = {name: each.difference for name, each in compared.items()}
    gaps = [NOTHING if gap is None else f"{gap.mean:+.{digits[name]}f}" for name, gap in means.items()]
    rows.append(("mean", *middle, *gaps))
    heads = ("Seed", *names, *(f"{name} less {found.baseline}" for name in compared))
    columns = (Column(heads[0]), *(Column(head, "right") for head in heads[1:]))
    losses = Table(columns, tuple(rows), "Final losses in nats, at the end of each final run")
    return Section("Final runs", (losses, _runs_table(race)))


def _gap(run: RunResult | None, other: RunResult | None, digits: int) -> str:
    if run is None or other is None or has_diverged(run) or has_diverged(other):
        return NOTHING
    return f"{run.loss - other.loss:+.{digits}f}"


def _runs_table(race: Race) -> Table:
    rows = []
    for name in race.entrants:
        runs = race.finals.get(name, ())
        ended = [run for run in runs if not has_diverged(run)]
        deviation = plain(statistics.stdev(run.loss for run in ended)) if len(ended) > 1 else NOTHING
        cells = [NOTHING] * 5
        if ended:
            cells = [
                f"{statistics.fmean(run.steps for run in ended):,.0f}",
                count(statistics.fmean(run.tokens for run in ended)),
                *_times(ended),
                with_unit(max(run.state_bytes for run in ended), "B"),
            ]
        diverged = f"{sum(map(has_diverged, runs))} of {len(runs)}"
        rows.append((name, deviation, *cells, diverged))
    heads = ("Entrant", "SD of the loss", "Steps", "Tokens", "Time a step", "Training time", "Optimizer state",
             "Diverged")  # fmt: skip
    columns = (Column(heads[0]), *(Column(head, "right") for head in heads[1:]))
    caption = "A final run of each: SD over the seeds, means, and the median of a step's time; without those diverged"
    return Table(columns, tuple(rows), caption)


def settings_section(race: Race) -> Section:
    """What raced on what."""
    rows = [(name, *settings_cells(search.chosen)) for name, search in race.searches.items()]
    columns = (Column("Entrant"), Column("Betas"), Column("Learning rate", "right"), Column("Weight decay", "right"))
    seeds = {name: ", ".join(map(str, seeds)) for name, seeds in race.seeds.items()}
    batch = sorted({run.batch_size for runs in race.finals.values() for run in runs})
    facts = [
        ("Model", f"{race.family}, recipe {race.recipe}"),
        ("Options besides", shlex.join(race.words) or "none"),
        ("Data", race.data),
        ("Budget of a final run", budget_text(race)),
        ("Sequences a step", ", ".join(f"{size:,}" for size in batch) or NOTHING),
        ("Seeds", ", ".join(dict.fromkeys(seeds.values())) if len(set(seeds.values())) == 1 else
                  "; ".join(f"{name} {text}" for name, text in seeds.items())),
        ("Runs of the search", _search_text(race)),
        ("Runs at a time", str(race.jobs)),
    ]  # fmt: skip
    caption = "The settings that raced; all others are alike"
    return Section("Settings", (Table(columns, tuple(rows), caption), facts_table(facts)))


def _search_text(race: Race) -> str:
    if not any(search.short for search in race.searches.values()):
        return "none"
    return f"{100 * race.short_share:.3g} %, then {100 * race.longer_share:.3g} % of the budget"


def budget_text(race: Race) -> str:
    """`1,500 steps` for `steps:1500`."""
    kind, _, number = race.budget.partition(":")
    try:
        return f"{float(number):,.10g} {kind}"
    except ValueError:
        return race.budget


def failures_section(race: Race) -> list[Section]:
    """The runs that broke; no section where none did."""
    if not race.failures:
        return []
    told = Note("These runs have no result. They are left out, and so are those that they would have made a pair with.")
    return [Section("Failed runs", (told, *(Paragraph(text) for text in race.failures)))]


def limits_section(race: Race) -> Section:
    """What a reader may not conclude."""
    num_seeds = min(map(len, race.seeds.values()))
    loose = (
        f"The intervals assume that the differences of paired runs are normally distributed, which "
        f"{counted(num_seeds, 'value')} cannot show; they stand for other seeds, not for other data or models."
        if num_seeds > 1 else "One seed: how far another would move the losses is not known."
    )  # fmt: skip
    where = "on this machine, with these kernels" + (f" and {race.jobs} runs at a time" if race.jobs > 1 else "")
    return Section("What this race does not show", tuple(map(Paragraph, (
        f"Other texts, models and budgets: it is one text, one size and {budget_text(race)}. The order of optimizers "
        "can change along a run, and with its length.",
        "Shorter runs: the learning rate decays towards the end of the budget, so that a loss that is reached on the "
        "way would be reached sooner, or later, in a run that is planned to end there.",
        loose,
        "No difference shown is not the same as no difference: one smaller than the interval is wide stays hidden.",
        "Perfect tuning: only the learning rates and betas named here were tried, each once; warm-up, clipping and "
        "everything else are the recipe's, and may suit one optimizer better. The settings were chosen by the same "
        "validation text that judges, which flatters all of them a little.",
        f"Time elsewhere: seconds are those {where}; an optimizer's share of a step shrinks as the batch grows.",
        "Tasks: the loss is what is compared, not what the models are good for.",
    ))))  # fmt: skip


def repeat_section(race: Race) -> Section:
    """The commands of the race and of each run."""
    command = f"python {race.command}" if race.command.startswith("run_race.py") else race.command
    blocks: list[Paragraph | Code] = [Paragraph("The race; finished runs in its folder are kept:")]
    blocks.append(Code(command, "bash"))
    finals = [run for runs in race.finals.values() for run in runs]
    at_sizes = [run for sizes in race.batches.values() for runs in sizes.values() for run in runs if run not in finals]
    searched = [run for search in race.searches.values() for run in (*search.short, *search.longer)]
    searched += [run for sizes in race.batch_searches.values() for runs in sizes.values() for run in runs]
    for words, runs in (("The final runs, one by one:", finals), ("The final runs at other batch sizes:", at_sizes),
                        ("The runs of the search:", searched)):  # fmt: skip
        if runs:
            blocks += [
                Paragraph(words),
                Code("\n".join(dict.fromkeys(command_of(run, race.family) for run in runs)), "bash"),
            ]
    return Section("To repeat it", tuple(blocks))


def command_of(run: RunResult, family: str) -> str:
    """The command line that repeats a run of this family, in a folder of its own."""
    words = run.command if run.command[:1] == (family,) else (family, *run.command)
    if "--output_dir" not in words:
        settings = f"{run.settings.preset} lr{run.settings.learning_rate:g} batch{run.batch_size} seed{run.seed}"
        name = re.sub(r"[^\w.]+", "-", f"{run.entrant} {settings} steps{run.steps}")
        words = (*words, "--output_dir", f"runs/{name}")
    return f"python run_pretrain.py {shlex.join(words)}"


def _times(runs: Sequence[RunResult]) -> tuple[str, str]:
    """Of a step and of a run; of those that logged any."""
    known = [run for run in runs if math.isfinite(run.step_seconds)]
    if not known:
        return NOTHING, NOTHING
    step = statistics.median(run.step_seconds for run in known)
    return with_unit(step, "s") if step < 1 else duration(step), duration(
        statistics.fmean(run.seconds for run in known)
    )
