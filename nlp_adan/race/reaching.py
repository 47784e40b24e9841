"""How soon an entrant reaches another's final loss.

It counts as reached from where the loss stays at or below it until the end of the run: a single good evaluation among
worse ones is chance, and a loss that is reached and lost again is not worth the name. So an entrant reaches the other's
final loss with the seeds with which it ends at least as low, and with no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nlp_adan.race.results import Point, RunResult
from nlp_adan.race.statistics import Estimate, ratio_interval


@dataclass(frozen=True)
class Crossing:
    """Where a loss is reached for good: steps and seconds of training, between evaluations by a straight line."""

    steps: float
    seconds: float


@dataclass(frozen=True)
class Reach:
    """What an entrant needs to reach the final loss of another, as shares of what the other's run took.

    entrant: which reaches. target: whose final loss, with the seed in the same place.
    crossings: by pair of runs in which the target did not diverge; None where it is not reached.
    steps, samples, seconds: shares; None unless it is reached in every pair: those left out would be the worst.
    """

    entrant: str
    target: str
    crossings: tuple[Crossing | None, ...]
    steps: Estimate | None
    samples: Estimate | None
    seconds: Estimate | None

    @property
    def num_reached(self) -> int:
        """Pairs in which it is reached."""
        return sum(crossing is not None for crossing in self.crossings)

    def to_json(self) -> dict[str, Any]:
        """A JSON object: the shares, and the crossing of each pair."""
        shares = {name: getattr(self, name) for name in ("steps", "samples", "seconds")}
        return {
            "entrant": self.entrant,
            "target": self.target,
            "num_pairs": len(self.crossings),
            "num_reached": self.num_reached,
            "crossings": [None if found is None else vars(found) for found in self.crossings],
            **{f"{name}_share": None if share is None else share.to_json() for name, share in shares.items()},
        }


def has_diverged(run: RunResult) -> bool:
    """Whether the run has no final loss to speak of."""
    return bool(run.diverged) or not math.isfinite(run.loss)


def crossing(run: RunResult, loss: float) -> Crossing | None:
    """Where a run's loss comes to stay at or below a loss; None where it ends above.

    Before the first evaluation nothing is known: what is reached there counts from that evaluation.
    """
    if has_diverged(run) or run.loss > loss:
        return None
    points = [point for point in run.curve if 0 < point.step < run.steps]
    points.append(Point(run.steps, run.seconds, run.loss))
    first = len(points) - 1
    while first and points[first - 1].loss <= loss:  # an infinite loss, or none, is not
        first -= 1
    after = points[first]
    if not first:
        return Crossing(after.step, after.seconds)
    before = points[first - 1]
    share = 1.0
    if math.isfinite(before.loss):
        share = (before.loss - loss) / (before.loss - after.loss)
    return Crossing(
        before.step + share * (after.step - before.step), before.seconds + share * (after.seconds - before.seconds)
    )


def reach(entrant: str, target: str, pairs: Sequence[tuple[RunResult, RunResult]], confidence: float) -> Reach:
    """Of pairs of runs (the entrant's, the target's), with intervals over them."""
    pairs = [(run, other) for run, other in pairs if not has_diverged(other)]
    crossings = tuple(crossing(run, other.loss) for run, other in pairs)
    shares: dict[str, list[float]] = {"steps": [], "samples": [], "seconds": []}
    for (run, other), found in zip(pairs, crossings, strict=True):
        if found is not None:
            steps = found.steps / other.steps
            shares["steps"].append(steps)
            shares["samples"].append(steps * run.batch_size / other.batch_size)
            shares["seconds"].append(found.seconds / other.seconds if other.seconds else 0.0)

    def estimate(values: Sequence[float]) -> Estimate | None:
        is_known = bool(pairs) and len(values) == len(pairs) and min(values) > 0
        return ratio_interval(values, confidence) if is_known else None

    return Reach(entrant, target, crossings, **{name: estimate(values) for name, values in shares.items()})
