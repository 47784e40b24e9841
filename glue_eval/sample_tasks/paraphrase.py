"""The samples of MRPC, QQP and STS-B: do two sentences mean the same, and if not, how near are they?

The same meaning is said with synonyms, in the passive, with its parts in another order. Another meaning has one word
changed to another of its kind, or agent and thing exchanged: as many words are shared as between paraphrases.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.facts import VALUES, Fact, draw_fact
from glue_eval.sample_tasks.lexicon import (
    AGENTS,
    SYNONYM_ADJECTIVES,
    SYNONYM_NOUNS,
    SYNONYM_VERBS,
    Noun,
    Verb,
)

Item = TypeVar("Item")

ALL_VERBS: tuple[Verb, ...] = tuple(verb for pair in SYNONYM_VERBS for verb in pair)
ALL_THINGS: tuple[Noun, ...] = tuple(noun for pair in SYNONYM_NOUNS for noun in pair)
ALL_ADJECTIVES: tuple[str, ...] = tuple(word for pair in SYNONYM_ADJECTIVES for word in pair)

# Each changed part takes its weight from the 5.0 of equal meanings; with all changed, 0.0 is left.
STSB_WEIGHTS = {"agent": 1.0, "verb": 1.2, "thing": 1.2, "place": 0.6, "negation": 1.0}

HOW = ("How can I", "How do I", "What is the way to")
WHY = ("Why should I", "Why do I", "What is the reason to")
WHEN = ("When should I", "When do I", "What is the time to")


def _synonym(pairs: tuple[tuple[Item, Item], ...], word: Item) -> Item:
    """The other word of the pair, or the word itself where it is in none."""
    for one, other in pairs:
        if word in (one, other):
            return other if word == one else one
    return word


def _different(draw: Draw, pairs: tuple[tuple[Item, Item], ...], word: Item) -> Item:
    """A word of another meaning, from the same pairs."""
    return draw.other([item for pair in pairs for item in pair], word, _synonym(pairs, word))


def _meaning(draw: Draw, num_modifiers: int) -> Fact:
    """A fact whose verb and thing have synonyms."""
    thing = draw.choice(ALL_THINGS)
    agents = [agent for agent in AGENTS if agent not in (thing, _synonym(SYNONYM_NOUNS, thing))]
    fact = replace(draw_fact(draw, num_modifiers), agent=draw.choice(agents), verb=draw.choice(ALL_VERBS), thing=thing)
    return fact.adding("adjective", draw.choice(ALL_ADJECTIVES)) if "adjective" in fact.modifiers else fact


def _reword(draw: Draw, fact: Fact, probability: float = 0.5) -> Fact:
    """The same meaning, each word replaced by its synonym with this probability."""
    if draw.chance(probability):
        fact = replace(fact, verb=_synonym(SYNONYM_VERBS, fact.verb))
    if draw.chance(probability):
        fact = replace(fact, thing=_synonym(SYNONYM_NOUNS, fact.thing))
    if "adjective" in fact.modifiers and draw.chance(probability):
        fact = fact.adding("adjective", _synonym(SYNONYM_ADJECTIVES, fact.modifiers["adjective"]))
    return fact


def _change(draw: Draw, fact: Fact) -> Fact:
    """Another meaning: one part changed, or the roles exchanged."""
    kind = draw.choice(("verb", "thing", "agent", "roles", "modifier"))
    if kind == "verb":
        return replace(fact, verb=_different(draw, SYNONYM_VERBS, fact.verb))
    if kind == "thing":
        return replace(fact, thing=_different(draw, SYNONYM_NOUNS, fact.thing))
    if kind == "agent":
        return replace(fact, agent=draw.other(AGENTS, fact.agent, fact.thing))
    if kind == "roles":
        return fact.swapped()
    slot = draw.choice(list(fact.modifiers))
    if slot == "adjective":
        return fact.adding(slot, _different(draw, SYNONYM_ADJECTIVES, fact.modifiers[slot]))
    return fact.adding(slot, draw.other(VALUES[slot], fact.modifiers[slot]))


def paraphrase(draw: Draw, label: str) -> tuple[str, str]:
    """Two statements that mean the same (label 1) or not (label 0), as in MRPC."""
    fact = other = _meaning(draw, 1)
    if label == "0" and draw.chance(0.4):
        fact, other = _denied_on_one_side(draw, fact, other)
    elif label == "0":
        other = _change(draw, fact)
    first = fact.express(passive=draw.chance(0.3), fronted=draw.chance(0.3))
    return first, _reword(draw, other).express(passive=draw.chance(0.3), fronted=draw.chance(0.3))


def _denied_on_one_side(draw: Draw, first: Fact, second: Fact) -> tuple[Fact, Fact]:
    in_first = draw.chance(0.5)
    return replace(first, negated=in_first), replace(second, negated=not in_first)


def _question(draw: Draw, opening: tuple[str, ...], fact: Fact) -> str:
    tails = [text for slot, text in fact.modifiers.items() if slot != "adjective"]
    return " ".join([draw.choice(opening), fact.verb.base, fact.thing_phrase, *tails]) + "?"


def duplicate_question(draw: Draw, label: str) -> tuple[str, str]:
    """Two questions that ask the same (label 1) or not (label 0), as in QQP."""
    kinds = (HOW, WHY, WHEN)
    asked = draw.choice(kinds)
    fact = _meaning(draw, draw.index(2))
    other, other_asked = fact, asked
    if label == "0":
        if draw.chance(0.7):
            other_asked = draw.other(kinds, asked)
        else:
            changed = draw.choice(("verb", "thing"))
            if changed == "verb":
                other = replace(fact, verb=_different(draw, SYNONYM_VERBS, fact.verb))
            else:
                other = replace(fact, thing=_different(draw, SYNONYM_NOUNS, fact.thing))
    return _question(draw, asked, fact), _question(draw, other_asked, _reword(draw, other))


def graded_similarity(draw: Draw) -> tuple[str, str, float]:
    """Two statements and how near their meanings are, 0.0 to 5.0, as in STS-B."""
    fact = _meaning(draw, 0)
    fact = fact.adding("place", draw.choice(VALUES["place"]))
    other = fact
    # The number of changed words is even over 0..4; a denial comes in a third of the pairs, whatever else is changed.
    words = [part for part in STSB_WEIGHTS if part != "negation"]
    changed = draw.some(words, draw.index(len(words) + 1)) + ["negation"] * draw.chance(1 / 3)
    for part in changed:
        if part == "agent":
            other = replace(other, agent=draw.other(AGENTS, fact.agent, fact.thing))
        elif part == "verb":
            other = replace(other, verb=_different(draw, SYNONYM_VERBS, fact.verb))
        elif part == "thing":
            other = replace(other, thing=_different(draw, SYNONYM_NOUNS, fact.thing))
        elif part == "place":
            other = other.adding("place", draw.other(VALUES["place"], fact.modifiers["place"]))
        else:
            fact, other = _denied_on_one_side(draw, fact, other)
    score = 5.0 - sum(STSB_WEIGHTS[part] for part in changed)
    first = fact.express(fronted=draw.chance(0.2))
    second = _reword(draw, other, probability=0.3).express(passive=draw.chance(0.2), fronted=draw.chance(0.2))
    return first, second, round(score, 3)
