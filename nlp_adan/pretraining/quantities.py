"""Figures as a reader wants them: durations, large numbers and shares, as text with their units."""

from __future__ import annotations

NOTHING = "-"  # a cell without a value
_PREFIXES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def duration(seconds: float | None) -> str:
    """`6.4 s`, `12.3 min` or `21.9 h`; a dash for None."""
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def quantity(value: float) -> str:
    """Three digits with a metric prefix: `131 G` for 131.1e9."""
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)} {prefix}"
    return _three_digits(value)


def count(value: float) -> str:
    """A number of things: in full below a million, `1.43 M` above."""
    return f"{value:,.0f}" if value < 1e6 else quantity(value)


def with_unit(value: float | None, unit: str) -> str:
    """Three digits with a metric prefix at the unit: `12.5 TFLOP/s`; a dash for None."""
    if value is None:
        return NOTHING
    number, _, prefix = quantity(value).partition(" ")
    return f"{number} {prefix}{unit}"


def share(value: float | None) -> str:
    """A share as per cent: `41.6 %`."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def plain(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
