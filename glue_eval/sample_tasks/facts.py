"""A small meaning (who does what to what, where, when), and the sentences that express it.

The pair tasks draw a meaning, change it or not, and express both: the label follows from the change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.lexicon import (
    ADJECTIVES,
    AGENTS,
    MANNERS,
    NUMBERS,
    PLACES,
    THINGS,
    TIMES,
    VERBS,
    Noun,
    Verb,
    sentence,
    with_article,
)

SLOTS = ("adjective", "place", "time", "manner")
VALUES: dict[str, tuple[str, ...]] = {
    "adjective": tuple(ADJECTIVES),
    "place": PLACES,
    "time": TIMES,
    "manner": MANNERS,
}


@dataclass(frozen=True)
class Fact:
    """`agent verb thing`, with modifiers by slot (`SLOTS`), a number of things where `number` is given, or a denial."""

    agent: Noun
    verb: Verb
    thing: Noun
    modifiers: dict[str, str] = field(default_factory=dict)
    number: str | None = None
    negated: bool = False

    def having(self, *slots: str) -> Fact:
        """The fact with these modifiers only."""
        return replace(self, modifiers={slot: self.modifiers[slot] for slot in SLOTS if slot in slots})

    def adding(self, slot: str, value: str) -> Fact:
        """The fact with one modifier more, or another one in its slot."""
        modifiers = {**self.modifiers, slot: value}
        return replace(self, modifiers={known: modifiers[known] for known in SLOTS if known in modifiers})

    def swapped(self) -> Fact:
        """The same with agent and thing exchanged."""
        return replace(self, agent=self.thing, thing=self.agent)

    @property
    def thing_phrase(self) -> str:
        """`a new list`, `three new lists`, or, where the fact is denied, `no new list`: as many words as affirmed."""
        adjective = self.modifiers.get("adjective", "")
        words = f"{adjective} " if adjective else ""
        if self.number is not None:
            return f"{self.number} {words}{self.thing.plural}"
        # `the first value`: these adjectives do not go with `a`.
        definite = adjective in ("first", "last", "current", "default", "only", "final")
        phrase = words + self.thing.singular
        if self.negated:
            return f"no {phrase}"
        return f"the {phrase}" if definite else with_article(phrase)

    def express(self, passive: bool = False, fronted: bool = False, end: str = ".") -> str:
        """One sentence. `fronted` puts the time or place first."""
        tails = [self.modifiers[slot] for slot in ("manner", "place", "time") if slot in self.modifiers]
        agent, thing = f"the {self.agent.singular}", self.thing_phrase
        if passive:
            be = "are" if self.number is not None else "is"
            core = f"{thing} {be} {self.verb.participle} by {agent}"
        else:
            core = f"{agent} {self.verb.third} {thing}"
        if fronted and tails:
            return sentence(" ".join([f"{tails[-1]},", core, *tails[:-1]]), end)
        return sentence(" ".join([core, *tails]), end)


def draw_fact(draw: Draw, num_modifiers: int, with_number: bool = False) -> Fact:
    """A random fact with this many modifiers."""
    agent = draw.choice(AGENTS)
    fact = Fact(agent, draw.choice(VERBS), draw.other(THINGS, agent))
    for slot in draw.some(SLOTS, num_modifiers):
        fact = fact.adding(slot, draw.choice(VALUES[slot]))
    return replace(fact, number=draw.choice(NUMBERS)) if with_number else fact
