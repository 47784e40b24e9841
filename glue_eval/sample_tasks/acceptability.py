"""CoLA's sample: is this sentence English? Each wrong sentence differs from a right one in a single form or place.

In every kind but `_irregular`, the context (is the subject plural?) and the form (returns or return?) are drawn so that
each word stands as often in right sentences as in wrong ones: only the combination tells, never a word.
"""

from __future__ import annotations

from collections.abc import Callable

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.lexicon import (
    ADJECTIVES,
    AGENTS,
    MANNERS,
    PERSONS,
    PLACES,
    THINGS,
    TIMES,
    VERBS,
    sentence,
    with_article,
)

VOWEL_WORDS = ("array", "object", "option", "error", "image")
CONSONANT_WORDS = ("list", "string", "value", "file", "key")
IRREGULAR_VERBS = (("written", "writed"), ("found", "finded"), ("built", "builded"), ("chosen", "choosed"))


def _tail(draw: Draw) -> str:
    return " " + draw.choice(draw.choice((PLACES, TIMES, MANNERS))) if draw.chance(0.3) else ""


def _agreement(draw: Draw, good: bool) -> str:
    """The methods return a list. / The methods returns a list."""
    plural = draw.chance(0.5)
    subject = draw.choice(draw.choice((AGENTS, AGENTS, PERSONS))).form(plural)
    verb = draw.choice(VERBS).present(plural == good)
    adjective = draw.choice(ADJECTIVES) + " " if draw.chance(0.3) else ""
    return f"the {subject} {verb} the {adjective}{draw.choice(THINGS).form(draw.chance(0.3))}{_tail(draw)}"


def _attractor(draw: Draw, good: bool) -> str:
    """The methods of the class return a list. / The methods of the class returns a list."""
    plural, near_plural = draw.chance(0.5), draw.chance(0.5)
    subject = draw.choice(AGENTS)
    near = draw.other(AGENTS, subject)
    link = draw.choice(("of the", "in the", "that calls the" if not plural else "that call the"))
    verb = draw.choice(VERBS).present(plural == good)
    return f"the {subject.form(plural)} {link} {near.form(near_plural)} {verb} the {draw.choice(THINGS).singular}"


def _determiner(draw: Draw, good: bool) -> str:
    """These values are stored. / This values are stored. (The verb's form stays neutral: can, may, must.)"""
    plural = draw.chance(0.5)
    determiner = draw.choice((("this", "these"), ("that", "those"), ("each", "all"), ("every", "several")))
    shown = determiner[plural == good]
    adjective = draw.choice(ADJECTIVES) + " " if draw.chance(0.3) else ""
    modal = draw.choice(("can", "may", "must", "will"))
    noun = draw.choice(THINGS).form(plural)
    return f"{shown} {adjective}{noun} {modal} be {draw.choice(VERBS).participle}{_tail(draw)}"


def _article(draw: Draw, good: bool) -> str:
    """The method returns an object. / The method returns a object."""
    vowel = draw.chance(0.5)
    noun = draw.choice(VOWEL_WORDS if vowel else CONSONANT_WORDS)
    article = "an" if vowel == good else "a"
    subject = draw.choice(AGENTS).singular
    return f"the {subject} {draw.choice(VERBS).third} {article} {noun}{_tail(draw)}"


def _auxiliary(draw: Draw, good: bool) -> str:
    """The list is returned by the method. The method can return the list. / ... is return ... can returned ..."""
    verb, agent, thing = draw.choice(VERBS), draw.choice(AGENTS).singular, draw.choice(THINGS).singular
    passive = draw.chance(0.5)
    shown = verb.participle if passive == good else verb.base
    if passive:
        auxiliary = draw.choice(("is", "was", "has been"))
        return f"the {thing} {auxiliary} {shown} by the {agent}{_tail(draw)}"
    auxiliary = draw.choice(("can", "must", "will", "does not"))
    return f"the {agent} {auxiliary} {shown} the {thing}{_tail(draw)}"


def _existence(draw: Draw, good: bool) -> str:
    """There are two lists in the cache. / There is two lists in the cache."""
    plural = draw.chance(0.5)
    noun = draw.choice(THINGS)
    number = draw.choice(("two", "three", "many", "several"))
    what = f"{number} {noun.plural}" if plural else with_article(noun.singular)
    verb = "are" if plural == good else "is"
    return f"there {verb} {what} {draw.choice(PLACES)}"


def _reflexive(draw: Draw, good: bool) -> str:
    """The functions call themselves. / The functions call itself."""
    plural = draw.chance(0.5)
    pronoun = "themselves" if plural == good else "itself"
    verb = draw.choice(VERBS).present(plural)
    return f"the {draw.choice(AGENTS).form(plural)} {verb} {pronoun}{_tail(draw)}"


def _irregular(draw: Draw, good: bool) -> str:
    """The file was written by the parser. / The file was writed by the parser. (Here a word does tell.)"""
    right, wrong = draw.choice(IRREGULAR_VERBS)
    auxiliary = draw.choice(("is", "was", "has been"))
    shown = right if good else wrong
    return f"the {draw.choice(THINGS).singular} {auxiliary} {shown} by the {draw.choice(AGENTS).singular}{_tail(draw)}"


def _article_place(draw: Draw, good: bool) -> str:
    """The method returns the new list. / The method returns new the list."""
    adjective = draw.choice(ADJECTIVES)
    phrase = f"the {adjective}" if good else f"{adjective} the"
    subject, thing = draw.choice(AGENTS).singular, draw.choice(THINGS).singular
    return f"the {subject} {draw.choice(VERBS).third} {phrase} {thing}{_tail(draw)}"


def _order(draw: Draw, good: bool) -> str:
    """A sentence in its order, or with one word moved to another place."""
    plural = draw.chance(0.5)
    thing = draw.choice(ADJECTIVES) + " " + draw.choice(THINGS).form(draw.chance(0.3))
    place = draw.choice(draw.choice((PLACES, TIMES)))
    words = f"the {draw.choice(AGENTS).form(plural)} {draw.choice(VERBS).present(plural)} the {thing} {place}".split()
    if good:
        return " ".join(words)
    # The words at 0..5 are: the, subject, verb, the, adjective, noun. None of these moves makes another right sentence.
    source, target = draw.choice(((2, 0), (2, 4), (5, 3), (4, 5), (1, 3), (3, 1), (2, len(words) - 1)))
    moved = words.pop(source)
    words.insert(target, moved)
    return " ".join(words)


# How often each kind is drawn. Local ones lead: a small model learns the others last.
SHARES: tuple[tuple[Callable[[Draw, bool], str], int], ...] = (
    (_agreement, 2),
    (_attractor, 1),
    (_determiner, 2),
    (_article, 1),
    (_auxiliary, 3),
    (_existence, 1),
    (_reflexive, 1),
    (_irregular, 4),
    (_article_place, 3),
    (_order, 2),
)
KINDS = tuple(kind for kind, share in SHARES for _ in range(share))


def acceptability(draw: Draw, label: str) -> tuple[str, None]:
    """A sentence that is English (label 1) or not (label 0)."""
    return sentence(draw.choice(KINDS)(draw, label == "1")), None
