"""Which settings to try next: learning rates a factor four apart for every preset, then nearer to the best.

The same number of short runs for each optimizer, whatever they find. A rate is 2^k times the first one; the search
moves outward where the best rate is the lowest or the highest of its preset, and halves the distance where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nlp_adan.race.entrants import Entrant

COARSE = 2  # in powers of two, between the rates of the first round
AT_ONCE = 2  # further ones, on both sides of the best
LONGER = 2  # of the best, that are run again


@dataclass(frozen=True, order=True)
class Candidate:
    """A preset with a learning rate."""

    preset: str
    learning_rate: float


def next_candidates(entrant: Entrant, tried: Mapping[Candidate, float], number: int) -> list[Candidate]:
    """What to try after all that is tried; nothing when the search has come to its end.

    Args:
        tried: each one's validation loss at its end, infinite where it diverged.
        number: of short runs in all, where the rates are searched.
    """
    if entrant.rates:
        everything = [Candidate(preset.name, rate) for preset in entrant.presets for rate in entrant.rates]
        return [candidate for candidate in everything if candidate not in tried]
    left = number - len(tried)
    if left <= 0:
        return []
    first = [_at(entrant, preset.name, k) for k in (0, -COARSE, COARSE) for preset in entrant.presets]
    if missing := [candidate for candidate in first if candidate not in tried]:
        return missing[:left]
    return _nearer(entrant, tried)[: min(left, AT_ONCE)]


def best(tried: Mapping[Candidate, float], number: int = 1) -> list[Candidate]:
    """The candidates of the lowest losses, the best first; of equals, the lower rate."""
    return sorted(tried, key=lambda candidate: (tried[candidate], candidate.learning_rate, candidate.preset))[:number]


def is_edge(chosen: Candidate, tried: Sequence[Candidate]) -> bool:
    """Whether no lower or no higher rate of the same preset was tried; so it is for one that was tried alone."""
    rates = [candidate.learning_rate for candidate in tried if candidate.preset == chosen.preset]
    return chosen.learning_rate in (min(rates), max(rates))


def _nearer(entrant: Entrant, tried: Mapping[Candidate, float]) -> list[Candidate]:
    """Untried neighbours of the best candidate that has one, on both sides of it."""
    for candidate in best(tried, len(tried)):
        k = _exponent(entrant, candidate.learning_rate)
        others = [_exponent(entrant, other.learning_rate) for other in tried if other.preset == candidate.preset]
        below, above = [other for other in others if other < k], [other for other in others if other > k]
        down = k - COARSE if not below else (k + max(below)) // 2
        up = k + COARSE if not above else -(-(k + min(above)) // 2)
        wanted = [_at(entrant, candidate.preset, place) for place in (down, up) if place not in others]
        if wanted:
            return wanted
    return []


def _at(entrant: Entrant, preset: str, exponent: int) -> Candidate:
    return Candidate(preset, float(f"{entrant.first_rate * 2.0**exponent:.4g}"))


def _exponent(entrant: Entrant, rate: float) -> int:
    return round(math.log2(rate / entrant.first_rate))
