"""A comparison in words: one sentence that claims no more than its interval shows, and its figures as text."""

from __future__ import annotations

import math

from nlp_adan.pretraining.quantities import NOTHING
from nlp_adan.race.comparison import Comparison
from nlp_adan.race.reaching import Reach
from nlp_adan.race.statistics import Estimate

LEAST_DIGITS, MOST_DIGITS = 3, 6  # behind the point of a loss


def percent(confidence: float) -> str:
    """`95 %`, `98.33 %`."""
    return f"{100 * confidence:.4g} %"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def digits_of(estimate: Estimate) -> int:
    """Digits behind the point that show two of the interval's half width, or of a mean without one."""
    width = abs(estimate.mean) if estimate.interval is None else estimate.interval[1] - estimate.mean
    if not 0 < width < math.inf:
        return LEAST_DIGITS
    return min(MOST_DIGITS, max(LEAST_DIGITS, 1 - math.floor(math.log10(width))))


def difference_text(estimate: Estimate | None) -> str:
    """`-0.043 (-0.065 to -0.021)`; a dash for None."""
    if estimate is None:
        return NOTHING
    digits = digits_of(estimate)
    return f"{estimate.mean:+.{digits}f}" + _interval_text(estimate, f"+.{digits}f")


def ratio_text(estimate: Estimate | None) -> str:
    """`1.08 (1.05 to 1.11)`; a dash for None."""
    return NOTHING if estimate is None else f"{estimate.mean:.2f}" + _interval_text(estimate, ".2f")


def share_text(estimate: Estimate | None) -> str:
    """`71 % (62 to 81 %)`; a dash for None."""
    if estimate is None:
        return NOTHING
    percents = estimate.mapped(lambda share: 100 * share)
    return f"{percents.mean:.0f} %" + _interval_text(percents, ".0f", " %")


def _interval_text(estimate: Estimate, form: str, unit: str = "") -> str:
    """` (LOW to HIGH)`; nothing where there is no interval."""
    if estimate.interval is None:
        return ""
    low, high = estimate.interval
    return f" ({low:{form}} to {high:{form}}{unit})"


def reach_text(found: Reach, estimate: Estimate | None) -> str:
    """A share of what the other's run took, or with how many seeds it is not reached."""
    num, reached = len(found.crossings), found.num_reached
    if not num:
        return NOTHING
    if reached < num:
        return f"not reached with {part_of(num - reached, num)}"
    return share_text(estimate)


def part_of(part: int, whole: int) -> str:
    """`2 of 3 seeds`."""
    return f"{part} of {counted(whole, 'seed')}"


def sentence(found: Comparison) -> str:
    """The comparison in one sentence, without its full stop."""
    names = f"{found.entrant} against {found.baseline}"
    if not found.num_pairs:
        return f"{names}: no verdict, with no seed did both finish"
    if found.num_diverged or found.num_baseline_diverged:
        return _diverged(found, names)
    estimate = found.difference
    assert estimate is not None  # of pairs without a diverged run
    digits = digits_of(estimate)
    size = f"{found.entrant} ends {abs(estimate.mean):.{digits}f} nats {_direction(estimate.mean)}"
    if found.num_pairs == 1:
        pairs = "one seed" if found.num_seeds == 1 else f"one seed of {found.num_seeds} finished"
        return f"{names}, {pairs}: no verdict; {'both end alike' if not estimate.mean else size}"
    if estimate.interval is None:
        what = "both end alike with every seed" if not estimate.mean else f"{size}, by as much with every seed"
        return f"{names}: no difference shown; {what} ({_seeds(found)}), so that there is no interval"
    if found.claims == "none":
        low, high = (f"{abs(end):.{digits}f} {_direction(end)}" for end in estimate.interval)
        interval = f"{percent(found.confidence)} interval {low} to {high}"
        return f"{names}: no difference shown; {size} on average ({interval}, {_seeds(found)}){_step_time(found)}"
    ends = sorted(map(abs, estimate.interval))
    interval = f"{percent(found.confidence)} interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f}, {_seeds(found)}"
    return f"{size} than {found.baseline} ({interval}){_reach(found)}"


def _direction(difference: float) -> str:
    return "lower" if difference < 0 else "higher"


def _seeds(found: Comparison) -> str:
    if found.num_pairs == found.num_seeds:
        return counted(found.num_pairs, "seed")
    return part_of(found.num_pairs, found.num_seeds)


def _step_time(found: Comparison) -> str:
    """Where the losses do not differ, the time may."""
    if found.step_time is None or not found.step_time.excludes(1.0):
        return ""
    return f"; a step of {found.entrant} takes {ratio_text(found.step_time)} times as long"


def _reach(found: Comparison) -> str:
    """The winner's way to the loser's final loss."""
    way = found.to_baseline if found.claims == "better" else found.to_entrant
    link = " and reaches" if way.entrant == found.entrant else f"; {way.entrant} reaches"
    num, reached = len(way.crossings), way.num_reached
    if reached < num:
        return f"{link} {way.target}'s final loss with {part_of(reached, num)}"
    text = f"{link} {way.target}'s final loss after {share_text(way.steps)} of {way.target}'s steps"
    return text if way.seconds is None else f"{text} and {share_text(way.seconds)} of its training time"


def _diverged(found: Comparison, names: str) -> str:
    ours, theirs = (
        part_of(number, found.num_pairs) if number else "none"
        for number in (found.num_diverged, found.num_baseline_diverged)
    )
    runs = f"{found.entrant} diverged with {ours}, {found.baseline} with {theirs}"
    if found.num_pairs == 1:
        return f"{names}, one seed: no verdict; {runs}"
    if found.claims == "none":
        return f"{names}: no difference shown; {runs}"
    outcome = "loses to" if found.claims == "worse" else "wins against"
    return f"{found.entrant} {outcome} {found.baseline}: {runs}"
