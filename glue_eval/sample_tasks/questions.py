"""QNLI's sample: does this sentence answer the question?

An answer is about the same agent, verb and thing, and holds what is asked for: a place, a time, a number, a manner.
Every sentence holds one of these four, so that none of them, and no length, tells the label by itself.
"""

from __future__ import annotations

from dataclasses import replace

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.facts import VALUES, Fact
from glue_eval.sample_tasks.lexicon import AGENTS, NUMBERS, THINGS, VERBS

ASKED = ("place", "time", "manner", "number")
OPENINGS = {"place": "Where", "time": "When", "manner": "How"}


def _with(draw: Draw, fact: Fact, slot: str) -> Fact:
    if slot == "number":
        return replace(fact, number=draw.choice(NUMBERS))
    return fact.adding(slot, draw.choice(VALUES[slot]))


def _ask(asked: str, fact: Fact) -> str:
    agent, verb, thing = fact.agent.singular, fact.verb.base, fact.thing
    if asked == "number":
        return f"How many {thing.plural} does the {agent} {verb}?"
    return f"{OPENINGS[asked]} does the {agent} {verb} {thing.plural}?"


def answered_question(draw: Draw, label: str) -> tuple[str, str]:
    """A question and a sentence that answers it (`entailment`) or not (`not_entailment`)."""
    agent = draw.choice(AGENTS)
    fact = Fact(agent, draw.choice(VERBS), draw.other(THINGS, agent))
    asked = draw.choice(ASKED)
    others = [slot for slot in ASKED if slot != asked]
    about = fact
    if label == "entailment":
        told = _with(draw, fact, asked)
    elif draw.chance(0.8):
        told = _with(draw, fact, draw.choice(others))
    else:
        told = _with(draw, fact, asked)
        if draw.chance(0.5):
            about = replace(about, agent=draw.other(AGENTS, agent, fact.thing))
        else:
            about = replace(about, verb=draw.other(VERBS, fact.verb))
    return _ask(asked, about), told.express(passive=draw.chance(0.3), fronted=draw.chance(0.3))
