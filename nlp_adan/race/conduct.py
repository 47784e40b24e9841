"""A race from its first search to its report: `run_race.py FAMILY --recipe NAME --optim adamw,adan ...`.

The same command goes on where it was interrupted: a run that has its result is kept, for its folder is named by the
hash of all that it depends on.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_adan.errors import UserError
from nlp_adan.locks import folder_lock
from nlp_adan.race.batch_sizes import settings_at
from nlp_adan.race.entrants import Entrant
from nlp_adan.race.options import RaceOptions
from nlp_adan.race.planning import RECORD, Track
from nlp_adan.race.report import write_race_report
from nlp_adan.race.results import Race, RunResult, Search, Settings, read_result
from nlp_adan.race.search import LONGER, Candidate, best, is_edge, next_candidates
from nlp_adan.runs import Outcome, Run, execute
from nlp_adan.runs.execution import describe_outcome
from nlp_adan.runs.run import RESULT
from nlp_adan.storage import write_json

LOCK_SECONDS = 2.0  # for a race that is just ending


class RunsFailed(Exception):
    """Some runs broke: `failures` says which, and why."""

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__("; ".join(failures))
        self.failures = tuple(failures)


@dataclass
class Setup:
    """A race that has been checked and may begin.

    known: what the record of the race says of it besides what the runs find (`results.Race`).
    preload: modules that every run wants. sizes: of `--batch_sizes`.
    """

    track: Track
    entrants: list[Entrant]
    options: RaceOptions
    sizes: list[int]
    known: Mapping[str, Any]
    preload: Sequence[str] = ()
    devices: Sequence[str] | None = None
    bar: bool = True


def race_and_report(setup: Setup) -> int:
    """Do what has no result yet, and write the report; how many runs failed."""
    folder = setup.track.folder
    with folder_lock(folder, LOCK_SECONDS):
        try:
            race = conduct_race(setup)
        except RunsFailed as failed:
            for line in failed.failures:
                print(f"error: {line}", file=sys.stderr)
            print("the same command tries these runs again, and goes on", file=sys.stderr, flush=True)
            return len(failed.failures)
        found = write_race_report(folder, race)
        print(f"{found.sentence}\nreport: {folder / 'report.html'}, {folder / 'report.md'}", flush=True)
    return 0


def conduct_race(setup: Setup) -> Race:
    """Do what has no result yet.

    Raises: RunsFailed.
    """
    names = [entrant.name for entrant in setup.entrants]
    write_json(setup.track.folder / RECORD, {**setup.known, "entrants": names})
    searches = _search(setup)
    finals = _finals(setup, searches)
    batches, batch_searches = _batch_sizes(setup, searches)
    seeds = {entrant.name: entrant.seeds(setup.options.seeds) for entrant in setup.entrants}
    return Race(
        searches=searches, finals=finals, batches=batches, batch_searches=batch_searches, seeds=seeds, **setup.known
    )


def _search(setup: Setup) -> dict[str, Search]:
    """Short runs in rounds, all entrants together, then the best again for longer."""
    track, options = setup.track, setup.options
    only = {entrant.name: _single(entrant) for entrant in setup.entrants}
    searched = [entrant for entrant in setup.entrants if only[entrant.name] is None]
    short: dict[str, dict[Candidate, RunResult]] = {entrant.name: {} for entrant in searched}
    while True:
        wanted = [
            (entrant, candidate)
            for entrant in searched
            for candidate in next_candidates(entrant, _losses(short[entrant.name]), options.search_runs)
        ]
        if not wanted:
            break
        runs = [_candidate_run(track, entrant, candidate, options.short_share) for entrant, candidate in wanted]
        for (entrant, candidate), result in zip(wanted, _do(setup, runs), strict=True):
            short[entrant.name][candidate] = dataclasses.replace(result, entrant=entrant.name)
    wanted = [
        (entrant, candidate)
        for entrant in searched
        for candidate in best(_losses(short[entrant.name]), LONGER)
        if options.longer_share > options.short_share
    ]
    runs = [_candidate_run(track, entrant, candidate, options.longer_share) for entrant, candidate in wanted]
    longer: dict[str, dict[Candidate, RunResult]] = {entrant.name: {} for entrant in searched}
    for (entrant, candidate), result in zip(wanted, _do(setup, runs), strict=True):
        longer[entrant.name][candidate] = dataclasses.replace(result, entrant=entrant.name)
    return {
        entrant.name: _chosen(entrant, short.get(entrant.name, {}), longer.get(entrant.name, {}), only[entrant.name])
        for entrant in setup.entrants
    }


def _single(entrant: Entrant) -> Candidate | None:
    """The only settings of an entrant whose rate is given."""
    return Candidate(entrant.presets[0].name, entrant.rates[0]) if len(entrant.rates) == 1 else None


def _chosen(
    entrant: Entrant,
    short: Mapping[Candidate, RunResult],
    longer: Mapping[Candidate, RunResult],
    only: Candidate | None,
) -> Search:
    choice = only or best(_losses(longer or short))[0]
    return Search(
        short=tuple(short.values()),
        longer=tuple(longer.values()),
        chosen=_settings(entrant, choice),
        is_edge=only is None and is_edge(choice, list(short)),
    )


def _finals(setup: Setup, searches: Mapping[str, Search]) -> dict[str, tuple[RunResult, ...]]:
    """All seeds of all entrants, side by side: what the machine does meanwhile befalls both of a pair."""
    number = setup.options.seeds
    wanted = [
        (entrant, entrant.seeds(number)[place]) for place in range(number) for entrant in setup.entrants
    ]  # fmt: skip
    runs = [
        setup.track.run(
            entrant, searches[entrant.name].chosen, seed, eval_steps=_eval_steps(setup, searches[entrant.name])
        )
        for entrant, seed in wanted
    ]
    return _by_entrant(setup, [entrant for entrant, _ in wanted], _do(setup, runs))


def _eval_steps(setup: Setup, search: Search) -> int | None:
    """Where hours are the budget: by the steps that the search's last run made in its share of them."""
    runs = search.longer or search.short
    if setup.track.budget.hours is None or not runs:
        return None
    share = setup.options.longer_share if search.longer else setup.options.short_share
    return max(1, math.floor(runs[-1].steps / share / setup.options.evaluations))


def _batch_sizes(setup: Setup, searches: Mapping[str, Search]) -> tuple[Any, Any]:
    """At each size: a few rates around the one that batch sizes of old suggest, with one seed; then all seeds."""
    finals: dict[str, dict[int, tuple[RunResult, ...]]] = {entrant.name: {} for entrant in setup.entrants}
    tried: dict[str, dict[int, tuple[RunResult, ...]]] = {entrant.name: {} for entrant in setup.entrants}
    for size in setup.sizes:
        wanted = [
            (entrant, settings)
            for entrant in setup.entrants
            for settings in settings_at(searches[entrant.name].chosen, size / setup.track.batch_size)
        ]
        runs = [
            setup.track.run(entrant, settings, entrant.search_seed, batch_size=size, curve=False)
            for entrant, settings in wanted
        ]
        for name, results in _by_entrant(setup, [entrant for entrant, _ in wanted], _do(setup, runs)).items():
            tried[name][size] = results
        chosen = {
            name: min(sizes[size], key=lambda run: (run.loss, run.settings.learning_rate)).settings
            for name, sizes in tried.items()
        }
        number = setup.options.seeds
        pairs = [(entrant, entrant.seeds(number)[place]) for place in range(number) for entrant in setup.entrants]
        runs = [setup.track.run(entrant, chosen[entrant.name], seed, batch_size=size) for entrant, seed in pairs]
        for name, results in _by_entrant(setup, [entrant for entrant, _ in pairs], _do(setup, runs)).items():
            finals[name][size] = results
    return (finals, tried) if setup.sizes else ({}, {})


def _by_entrant(
    setup: Setup, entrants: Sequence[Entrant], results: Sequence[RunResult]
) -> dict[str, tuple[RunResult, ...]]:
    return {
        each.name: tuple(
            dataclasses.replace(result, entrant=each.name)
            for entrant, result in zip(entrants, results, strict=True)
            if entrant is each
        )
        for each in setup.entrants
    }


def _candidate_run(track: Track, entrant: Entrant, candidate: Candidate, share: float) -> Run:
    return track.run(entrant, _settings(entrant, candidate), entrant.search_seed, share=share, curve=False)


def _settings(entrant: Entrant, candidate: Candidate) -> Settings:
    return Settings(candidate.preset, candidate.learning_rate, entrant.weight_decay)


def _losses(results: Mapping[Candidate, RunResult]) -> dict[Candidate, float]:
    return {candidate: result.loss for candidate, result in results.items()}


def _do(setup: Setup, runs: Sequence[Run]) -> list[RunResult]:
    """The results of runs, done now or before.

    Raises: RunsFailed where some broke; the others are done.
    """
    outcomes = execute(
        runs, jobs=setup.options.jobs, devices=setup.devices, preload=setup.preload, describe=describe, bar=setup.bar
    )
    failures = [f"{outcome.run.name}: {outcome.error}" for outcome in outcomes if outcome.state == "failed"]
    if failures:
        raise RunsFailed(failures)
    return [_read(run.folder / RESULT) for run in runs]


def _read(path: Path) -> RunResult:
    try:
        return read_result(path)
    except (ValueError, KeyError, TypeError) as error:
        remedy = "remove its folder, and the run is repeated"
        raise UserError(f"{path}: not a result of a race ({error}); {remedy}") from error


def describe(outcome: Outcome) -> str:
    """A line about a run that has come to its end, with its loss."""
    if outcome.state == "failed":
        return describe_outcome(outcome)
    result = _read(outcome.run.folder / RESULT)
    loss = "diverged" if result.diverged else f"loss {result.loss:.4f}"
    return f"{outcome.run.name}: {loss} ({outcome.seconds:.0f} s)"
