"""WNLI's sample: to which of two things does `it` refer? The second sentence puts one of them in its place.

In most of the examples the adjective decides (a file is too large, a parser too slow), in the others the verb: who asks
for something lacks it, who is asked has it, so that the second sentence alone does not tell.
"""

from __future__ import annotations

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.lexicon import Noun, nouns

ACTORS: tuple[Noun, ...] = nouns("parser server program script client")
CONTENTS: tuple[Noun, ...] = nouns("file list table image message")
OF_ACTORS = ("too slow", "busy", "not running")
OF_CONTENTS = ("too large", "empty", "damaged")
ACTIONS = (("read", "read"), ("load", "loaded"), ("open", "opened"), ("process", "processed"), ("print", "printed"))


def _adjective(draw: Draw, refers: bool) -> tuple[str, str]:
    actor, content = draw.choice(ACTORS).singular, draw.choice(CONTENTS).singular
    verb, participle = draw.choice(ACTIONS)
    of_actor = draw.chance(0.5)
    reason = draw.choice(OF_ACTORS if of_actor else OF_CONTENTS)
    if draw.chance(0.5):
        premise = f"The {actor} did not {verb} the {content} because it was {reason}."
    else:
        premise = f"The {content} was not {participle} by the {actor} because it was {reason}."
    named = actor if of_actor == refers else content
    return premise, f"The {named} was {reason}."


def _verb(draw: Draw, refers: bool) -> tuple[str, str]:
    first = draw.choice(ACTORS)
    asking, asked = first.singular, draw.other(ACTORS, first).singular
    content = draw.choice(CONTENTS).singular
    of_asking = draw.chance(0.5)
    state = draw.choice(("needed", "required") if of_asking else ("had", "stored"))
    if draw.chance(0.5):
        premise = f"The {asking} asked the {asked} for the {content} because it {state} the {content}."
    else:
        premise = f"The {asked} sent the {asking} the {content} because it {state} the {content}."
    named = asking if of_asking == refers else asked
    return premise, f"The {named} {state} the {content}."


def pronoun_reference(draw: Draw, label: str) -> tuple[str, str]:
    """A sentence with `it`, and the same with a thing named in its place, rightly (label 1) or wrongly (label 0)."""
    return draw.choice((_adjective, _adjective, _verb))(draw, label == "1")
