"""An entrant against the one that a race compares with, over pairs of runs of equal places in the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nlp_adan.race.reaching import Reach, has_diverged, reach
from nlp_adan.race.results import Race, RunResult
from nlp_adan.race.statistics import Estimate, ratio_interval, t_interval

Claim = Literal["better", "worse", "none"]
Pair = tuple[RunResult, RunResult]


@dataclass(frozen=True)
class Comparison:
    """What a race says of an entrant beside its baseline.

    num_seeds: that were asked for. num_pairs: of them, those with a run of both.
    confidence: of every interval in here.
    num_diverged, num_baseline_diverged: of the pairs' runs.
    difference: of final losses, the entrant's less the baseline's, in nats; None where a run diverged or none is there.
    to_baseline: what the entrant needs to reach the baseline's final loss; to_entrant: the baseline, the entrant's.
    step_time, time: the entrant's seconds a step, and of all steps, by the baseline's; None where they are not known.
    state_bytes, baseline_state_bytes: of the optimizers' states.
    """

    entrant: str
    baseline: str
    num_seeds: int
    num_pairs: int
    confidence: float
    num_diverged: int
    num_baseline_diverged: int
    difference: Estimate | None
    to_baseline: Reach
    to_entrant: Reach
    step_time: Estimate | None
    time: Estimate | None
    state_bytes: int
    baseline_state_bytes: int

    @property
    def claims(self) -> Claim:
        """Whether the race shows that the entrant ends lower ("better"), higher ("worse"), or neither.

        A final run that diverged loses against one that did not. Otherwise only an interval without 0 says anything;
        one pair has none.
        """
        if self.num_pairs < 2:
            return "none"
        if bool(self.num_diverged) != bool(self.num_baseline_diverged):
            return "worse" if self.num_diverged else "better"
        if self.difference is None or not self.difference.excludes(0.0):
            return "none"
        return "better" if self.difference.mean < 0 else "worse"

    @property
    def memory(self) -> float | None:
        """The entrant's state in bytes by the baseline's; None where that has none."""
        return self.state_bytes / self.baseline_state_bytes if self.baseline_state_bytes else None

    def to_json(self) -> dict[str, Any]:
        """A JSON object of everything here."""
        plain = {name: value for name, value in vars(self).items() if not isinstance(value, (Estimate, Reach))}
        made = {name: value.to_json() for name, value in vars(self).items() if isinstance(value, (Estimate, Reach))}
        return {**plain, **made, "memory": self.memory, "claims": self.claims}


def pairs_of(race: Race, runs: Mapping[str, Sequence[RunResult]], entrant: str, baseline: str) -> list[Pair]:
    """(entrant's run, baseline's run) of equal places in their seeds; a place where one is missing is left out."""
    found = [{run.seed: run for run in runs.get(name, ())} for name in (entrant, baseline)]
    seeds = zip(race.seeds[entrant], race.seeds[baseline], strict=True)
    return [(found[0][one], found[1][other]) for one, other in seeds if one in found[0] and other in found[1]]


def loss_difference(pairs: Sequence[Pair], confidence: float) -> Estimate | None:
    """Of final losses; None without pairs, and where a run diverged."""
    if not pairs or any(has_diverged(run) for pair in pairs for run in pair):
        return None
    return t_interval([run.loss - other.loss for run, other in pairs], confidence)


def compare(race: Race, entrant: str, baseline: str, confidence: float) -> Comparison:
    """Over the final runs of both."""
    pairs = pairs_of(race, race.finals, entrant, baseline)
    whole = [(run, other) for run, other in pairs if not has_diverged(run) and not has_diverged(other)]
    return Comparison(
        entrant,
        baseline,
        num_seeds=len(race.seeds[entrant]),
        num_pairs=len(pairs),
        confidence=confidence,
        num_diverged=sum(has_diverged(run) for run, _ in pairs),
        num_baseline_diverged=sum(has_diverged(other) for _, other in pairs),
        difference=loss_difference(pairs, confidence),
        to_baseline=reach(entrant, baseline, pairs, confidence),
        to_entrant=reach(baseline, entrant, [(other, run) for run, other in pairs], confidence),
        step_time=_ratio([(run.step_seconds, other.step_seconds) for run, other in pairs], confidence),
        time=_ratio([(run.seconds, other.seconds) for run, other in whole], confidence),
        state_bytes=max((run.state_bytes for run, _ in pairs), default=0),
        baseline_state_bytes=max((other.state_bytes for _, other in pairs), default=0),
    )


def _ratio(seconds: Sequence[tuple[float, float]], confidence: float) -> Estimate | None:
    if not seconds or not all(0 < value < math.inf for pair in seconds for value in pair):
        return None
    return ratio_interval([ours / theirs for ours, theirs in seconds], confidence)
