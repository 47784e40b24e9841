"""The words of the sample tasks: documentation English, so that a vocabulary learnt from documentation holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Noun:
    """A countable noun."""

    singular: str
    plural: str

    def form(self, is_plural: bool) -> str:
        """The singular or the plural."""
        return self.plural if is_plural else self.singular


@dataclass(frozen=True)
class Verb:
    """A transitive verb whose four forms differ: return, returns, returned (past and participle)."""

    base: str
    third: str
    participle: str

    def present(self, is_plural: bool) -> str:
        """The present tense of the third person."""
        return self.base if is_plural else self.third


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def nouns(words: str) -> tuple[Noun, ...]:
    """Nouns from singular forms; `singular/plural` where the plural does not just add an s."""
    pairs = (word.partition("/") for word in words.split())
    return tuple(Noun(singular, plural or singular + "s") for singular, _, plural in pairs)


def verbs(words: str) -> tuple[Verb, ...]:
    """Verbs from base forms; `base/third/participle` where they do not just add an s and ed."""
    found = []
    for word in words.split():
        base, third, participle = [*word.split("/"), "", ""][:3]
        regular = base + ("d" if base.endswith("e") else "ed")
        found.append(Verb(base, third or base + "s", participle or regular))
    return tuple(found)


def in_pairs(words: tuple[Item, ...]) -> tuple[tuple[Item, Item], ...]:
    """The first with the second, the third with the fourth, and so on."""
    return tuple(zip(words[::2], words[1::2], strict=True))


# What acts, and what is acted on.
AGENTS = nouns("function method class/classes module parser server script program test client")
THINGS = nouns("list string value file array tensor object number message line key name")
PERSONS = nouns("teacher student doctor writer worker child/children artist farmer driver reader")  # one for each agent

VERBS = verbs("return create write/writes/written remove update load store print change replace open use/uses/used")

ADJECTIVES = _words("new empty default optional internal large small public")
PLACES = ("in the cache", "in memory", "on the server", "in the current directory")
TIMES = ("at the start", "before the test", "after the call", "after an error")
MANNERS = ("by default", "without warning", "with care", "at random")
NUMBERS = ("two", "three", "five", "ten")

# Words of one meaning, for what this documentation is about.
SYNONYM_VERBS = in_pairs(
    verbs(
        "create make/makes/made remove delete change modify/modifies/modified check verify/verifies/verified "
        "select choose/chooses/chosen store save"
    )
)
SYNONYM_NOUNS = in_pairs(
    nouns("function routine folder directory/directories exception error argument parameter text string")
)
SYNONYM_ADJECTIVES = (("large", "big"), ("empty", "blank"), ("simple", "basic"), ("last", "final"))
# A word and a more general one: every list is a sequence.
HYPERNYMS = in_pairs(
    nouns("list sequence tuple sequence integer number float number dictionary/dictionaries mapping image file")
)
OPPOSITE_ADJECTIVES = (("large", "small"), ("public", "private"), ("internal", "external"), ("old", "new"))
GOOD_ADJECTIVES = _words("clear useful simple fast correct safe stable efficient reliable helpful")
BAD_ADJECTIVES = _words("confusing useless slow wrong unsafe broken invalid ambiguous difficult obsolete")


def with_article(words: str) -> str:
    """`a` or `an` before the words; every lexicon word that starts with a, e, i or o starts with a vowel's sound."""
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def sentence(words: str, end: str = ".") -> str:
    """The words with a capital letter and a final mark."""
    return words[0].upper() + words[1:] + end
