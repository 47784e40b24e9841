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
from nlp_adan.race.reaching import has_diverged
from nlp_adan.race.record import write_record
from nlp_adan.race.report import write_race_report
from nlp_adan.race.results import Race, RunResult, Search, Settings, read_result
from nlp_adan.race.search import LONGER, Candidate, best, is_edge, next_candidates
from nlp_adan.runs import Outcome, Run, execute
from nlp_adan.runs.execution import describe_outcome
from nlp_adan.runs.run import RESULT
from nlp_adan.storage import sha256_json

ByEntrant = dict[str, tuple[RunResult, ...]]
Sizes = dict[str, dict[int, tuple[RunResult, ...]]]  # by entrant and batch size

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
            return _tell(failed.failures)
        found = write_race_report(folder, race)
        print(f"{found.sentence}\nreport: {folder / 'report.html'}, {folder / 'report.md'}", flush=True)
        return _tell(race.failures)


def _tell(failures: Sequence[str]) -> int:
    """How many runs failed, and on standard error which."""
    for line in failures:
        print(f"error: {line}", file=sys.stderr)
    if failures:
        print("the same command tries these runs again, and goes on", file=sys.stderr, flush=True)
    return len(failures)


def conduct_race(setup: Setup) -> Race:
    """Do what has no result yet.

    A batch size at which runs broke, that memory does not hold, say, is left out; `Race.failures` says which did.

    Raises: RunsFailed where runs of the search or final ones broke.
    """
    own = {name: getattr(setup.options, name) for name in ("lr", "weight_decay", "search_runs", "evaluations")}
    entrants = [entrant.name for entrant in setup.entrants]
    made_by = sha256_json(setup.track.made_by)
    write_record(setup.track.folder / RECORD, {**setup.known, **own, "entrants": entrants, "made_by": made_by})
    searches = _search(setup)
    finals = _finals(setup, searches)
    batches, batch_searches, failures = _batch_sizes(setup, searches)
    seeds = {entrant.name: entrant.seeds(setup.options.seeds) for entrant in setup.entrants}
    return Race(
        searches=searches, finals=finals, batches=batches, batch_searches=batch_searches, failures=failures,
        seeds=seeds, **setup.known,
    )  # fmt: skip


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


def _eval_steps(setup: Setup, search: Search, batch_size: int | None = None) -> int | None:
    """Where hours are the budget: by the steps that the chosen settings made in their share of them."""
    runs = [run for run in search.longer or search.short if run.settings == search.chosen and not has_diverged(run)]
    if setup.track.budget.hours is None or not runs:
        return None
    share = setup.options.longer_share if search.longer else setup.options.short_share
    usual = setup.track.batch_size
    steps = runs[0].steps / share * usual / (batch_size or usual)
    return max(1, math.floor(steps / setup.options.evaluations))


def _batch_sizes(setup: Setup, searches: Mapping[str, Search]) -> tuple[Sizes, Sizes, tuple[str, ...]]:
    """Final runs and those of the search by entrant and size, where all of them ended; and those that broke."""
    finals: Sizes = {entrant.name: {} for entrant in setup.entrants}
    tried: Sizes = {entrant.name: {} for entrant in setup.entrants}
    failures: list[str] = []
    for size in setup.sizes:
        try:
            searched, ended = _batch_size(setup, searches, size)
        except RunsFailed as failed:
            failures += failed.failures
            continue
        for name in finals:
            finals[name][size], tried[name][size] = ended[name], searched[name]
    if not any(finals.values()):
        return {}, {}, tuple(failures)
    return finals, tried, tuple(failures)


def _batch_size(setup: Setup, searches: Mapping[str, Search], size: int) -> tuple[ByEntrant, ByEntrant]:
    """A few rates around the one that batch sizes of old suggest, with one seed; then all seeds."""
    wanted = [
        (entrant, settings)
        for entrant in setup.entrants
        for settings in settings_at(searches[entrant.name].chosen, size / setup.track.batch_size)
    ]
    runs = [
        setup.track.run(entrant, settings, entrant.search_seed, batch_size=size, curve=False)
        for entrant, settings in wanted
    ]
    tried = _by_entrant(setup, [entrant for entrant, _ in wanted], _do(setup, runs))
    chosen = {
        name: min(results, key=lambda run: (run.loss, run.settings.learning_rate)).settings
        for name, results in tried.items()
    }
    number = setup.options.seeds
    pairs = [(entrant, entrant.seeds(number)[place]) for place in range(number) for entrant in setup.entrants]
    every = {name: _eval_steps(setup, search, size) for name, search in searches.items()}
    runs = [
        setup.track.run(entrant, chosen[entrant.name], seed, batch_size=size, eval_steps=every[entrant.name])
        for entrant, seed in pairs
    ]
    return tried, _by_entrant(setup, [entrant for entrant, _ in pairs], _do(setup, runs))


def _by_entrant(setup: Setup, entrants: Sequence[Entrant], results: Sequence[RunResult]) -> ByEntrant:
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
