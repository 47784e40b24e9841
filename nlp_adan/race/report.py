"""The report of a race: report.md, report.html, report.json and plots in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp_adan.race.reaching import has_diverged
from nlp_adan.race.report_batches import batch_confidence, batch_differences, batches_section
from nlp_adan.race.report_curves import curves_section, published_section
from nlp_adan.race.report_search import search_notices, search_section
from nlp_adan.race.report_sections import (
    command_of,
    failures_section,
    finals_section,
    limits_section,
    repeat_section,
    settings_section,
    verdict_section,
)
from nlp_adan.race.results import Race, RunResult
from nlp_adan.race.verdict import Verdict, verdict
from nlp_adan.race.wording import counted
from nlp_adan.reporting import Document, write_report
from nlp_adan.reporting.facts import environment_section


def write_race_report(folder: Path, race: Race) -> Verdict:
    """Write all files into `folder`, report.json last, and return the verdict that they tell.

    Args:
        folder: created where it is missing; an earlier report in it is replaced.
        race: that was run, with at least one entrant; its runs may have failed or diverged.
    """
    found = verdict(race)
    document = make_document(race, found)
    write_report(folder, document, make_data(race, found, document.notices))
    return found


def make_document(race: Race, found: Verdict) -> Document:
    """The report as a document."""
    sections = [
        *verdict_section(race, found),
        curves_section(race),
        finals_section(race, found),
        *failures_section(race),
        *([batches_section(race)] if race.batches else []),
        search_section(race),
        settings_section(race),
        *([published_section(race)] if any(race.published.values()) else []),
        limits_section(race),
        environment_section({name: value for name, value in race.environment.items() if name != "command"}),
        repeat_section(race),
    ]
    title = f"Race: {', '.join(race.entrants)} on {race.family}, recipe {race.recipe}"
    return Document(title, found.sentence, tuple(sections), tuple(notices(race)))


def notices(race: Race) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if max(map(len, race.seeds.values())) < 2:
        found.append("One seed: the race says nothing about chance, so that there is no verdict.")
    if race.failures:
        found.append(f"{counted(len(race.failures), 'run')} failed and {_is_or_are(race.failures)} left out (below).")
    for name, runs in race.finals.items():
        if seeds := [str(run.seed) for run in runs if has_diverged(run)]:
            found.append(f"{name} diverged in its final run with {_seeds(seeds)}.")
        elif len(runs) > 1 and len({run.loss for run in runs}) == 1:
            found.append(f"{name} ends at the same loss with every seed: its runs do not differ, and prove nothing.")
    found += search_notices(race)
    if race.jobs > 1:
        found.append(
            f"{race.jobs} runs at a time: each was timed beside others, so that times are longer than of a run alone, "
            "and less certain."
        )
    return found


def make_data(race: Race, found: Verdict, noticed: Sequence[str]) -> dict[str, Any]:
    """The report for programs: verdict, every run with the command that repeats it, settings and environment."""
    return {
        "verdict": found.to_json(),
        "notices": list(noticed),
        "race": {name: getattr(race, name) for name in ("family", "recipe", "data", "budget", "short_share",
                                                          "longer_share", "loss_name", "command", "jobs")}
        | {"words": list(race.words), "seeds": {name: list(seeds) for name, seeds in race.seeds.items()}},
        "finals": {name: _runs(race.family, runs) for name, runs in race.finals.items()},
        "searches": {
            name: {
                "chosen": vars(search.chosen),
                "is_edge": search.is_edge,
                "cost_steps": search.cost,
                "short": _runs(race.family, search.short),
                "longer": _runs(race.family, search.longer),
            }
            for name, search in race.searches.items()
        },
        "batches": _batches(race),
        "published": {name: [list(point) for point in points] for name, points in race.published.items()},
        "failures": list(race.failures),
        "environment": dict(race.environment),
    }  # fmt: skip


def _batches(race: Race) -> dict[str, Any] | None:
    """Runs, searches and differences by entrant and batch size; None where no batch sizes raced."""
    if not race.batches:
        return None

    def by_size(runs: Mapping[str, Mapping[int, tuple[RunResult, ...]]]) -> dict[str, Any]:
        return {
            name: {str(size): _runs(race.family, each) for size, each in sizes.items()} for name, sizes in runs.items()
        }

    differences = {
        name: {str(size): None if gap is None else gap.to_json() for size, gap in sizes.items()}
        for name, sizes in batch_differences(race).items()
    }
    return {
        "confidence": batch_confidence(race),
        "differences": differences,
        "finals": by_size(race.batches),
        "searches": by_size(race.batch_searches),
    }


def _runs(family: str, runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    return [{**run.to_json(), "repeat": command_of(run, family)} for run in runs]


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"


def _is_or_are(items: Sequence[Any]) -> str:
    return "is" if len(items) == 1 else "are"
