"""SST-2's sample: does this remark on some software praise (1) or blame (0)?

Half of the remarks turn an adjective around by a negation, or set two opposite clauses against each other, so that
counting good and bad words is not enough.
"""

from __future__ import annotations

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.lexicon import BAD_ADJECTIVES, GOOD_ADJECTIVES

SUBJECTS = (
    "the documentation is",
    "this module is",
    "this function is",
    "the new version is",
    "the interface is",
    "the error message is",
    "the code is",
    "the default behavior is",
    "the examples are",
    "these methods are",
    "the options are",
)
DEGREES = ("", "very ", "really ", "often ")
NEGATIONS = ("not ", "never ", "not at all ")


def _clause(draw: Draw, good: bool, negated: bool, subject: str) -> str:
    adjective = draw.choice(GOOD_ADJECTIVES if good != negated else BAD_ADJECTIVES)
    return f"{subject} {draw.choice(NEGATIONS) if negated else draw.choice(DEGREES)}{adjective}"


def sentiment(draw: Draw, label: str) -> tuple[str, None]:
    """A remark that praises (label 1) or blames (label 0)."""
    good = label == "1"
    subject = draw.choice(SUBJECTS)
    other = draw.other(SUBJECTS, subject)
    # An opposite second clause makes a pair of adjectives whose words alone say nothing: the main clause counts.
    kind = draw.choice(("plain",) * 5 + ("negated",) * 3 + ("but", "although"))
    if kind in ("plain", "negated"):
        return _clause(draw, good, kind == "negated", subject) + draw.choice(("", " and i use it every day", "")), None
    main = _clause(draw, good, draw.chance(0.2), subject)
    side = _clause(draw, not good, draw.chance(0.2), other)
    return (f"{side}, but {main}" if kind == "but" else f"{main}, although {side}"), None
