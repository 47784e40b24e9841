"""What every report tells of itself: names and values in two columns, and where the run took place."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from nlp_adan.reporting.document import Column, Note, Section, Table


def facts_table(facts: Sequence[tuple[str, str]], names: tuple[str, str] = ("What", "Value")) -> Table:
    """A table of two columns, with these heads."""
    return Table((Column(names[0]), Column(names[1])), tuple(facts))


def environment_section(where: Mapping[str, Any]) -> Section:
    """The section about an environment, as `nlp_adan.training.environment` and environment.json tell it."""
    facts = []
    for name, value in where.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items() if item is not None) or "none"
        elif isinstance(value, (list, tuple)):
            counts = collections.Counter(str(item) for item in value)
            value = ", ".join(f"{number} x {item}" if number > 1 else item for item, number in counts.items()) or "none"
        facts.append((name, "not known" if value is None else str(value)))
    return Section("Environment", (facts_table(facts) if facts else Note("It is not recorded."),))
