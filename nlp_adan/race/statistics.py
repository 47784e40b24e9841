"""Means of a few paired values with Student-t intervals.

A percentile bootstrap is no alternative: of three values it never leaves their range. In 2,000 simulated races between
equals, three seeds each, its 95 % interval (1,000 draws) excluded 0 in 24 of 100, Student's in 5.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SIGNIFICANCE = 0.05  # chance that any of a race's comparisons claims a difference where there is none


@dataclass(frozen=True)
class Estimate:
    """A mean of `num` values with its interval (low, high); None where the values give none."""

    mean: float
    interval: tuple[float, float] | None
    num: int

    def excludes(self, value: float) -> bool:
        """Whether there is an interval and the value lies outside of it."""
        return self.interval is not None and not self.interval[0] <= value <= self.interval[1]

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """Mean and interval under a function that rises everywhere."""
        if self.interval is None:
            return Estimate(function(self.mean), None, self.num)
        low, high = self.interval
        return Estimate(function(self.mean), (function(low), function(high)), self.num)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with `mean`, `low`, `high` and `num`."""
        low, high = self.interval or (None, None)
        return {"mean": self.mean, "low": low, "high": high, "num": self.num}


def corrected_confidence(num_comparisons: int) -> float:
    """Of each interval, so that all of them together err in at most 5 % of races (Bonferroni)."""
    return 1 - SIGNIFICANCE / max(num_comparisons, 1)


def t_interval(values: Sequence[float], confidence: float) -> Estimate:
    """Mean m of n values and m -+ t s / sqrt(n): s their standard deviation, t Student's quantile, n - 1 degrees.

    There is no interval of one value, nor of values that are all equal: then nothing is known of how they spread.

    Args:
        values: at least one, finite; their order does not matter.
        confidence: of the interval, between 0 and 1.
    """
    from scipy.special import stdtrit  # a report is written once, at the end

    mean, num = statistics.fmean(values), len(values)
    if min(values) == max(values):
        return Estimate(values[0], None, num)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (num - 1))
    half = float(stdtrit(num - 1, (1 + confidence) / 2)) * deviation / math.sqrt(num)
    return Estimate(mean, (mean - half, mean + half), num)


def ratio_interval(ratios: Sequence[float], confidence: float) -> Estimate:
    """The geometric mean of positive ratios, and the interval of the mean of their logarithms, as ratios."""
    return t_interval([math.log(ratio) for ratio in ratios], confidence).mapped(math.exp)
