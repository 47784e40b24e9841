"""Seeded choices that come out alike on every platform and Python version."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Draw:
    """Choices made from `random.Random.random()` alone.

    Python promises one sequence of `random()` for one seed, for ever; how `choice` and `shuffle` use it has changed
    between versions. Sets are never drawn from: their order depends on PYTHONHASHSEED.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def index(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        return int(self._random.random() * count)

    def choice(self, items: Sequence[Item]) -> Item:
        """One of `items`."""
        return items[self.index(len(items))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All of `items` in a random order."""
        rest = list(items)
        return [rest.pop(self.index(len(rest))) for _ in items]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different ones of `items`, in the order of `items`."""
        kept = sorted(self.shuffled(range(len(items)))[:count])
        return [items[position] for position in kept]

    def other(self, items: Sequence[Item], *excluded: Item) -> Item:
        """One of `items` that is none of `excluded`."""
        return self.choice([item for item in items if item not in excluded])
