"""QNLI's sample: does this sentence answer the question?

An answer is about the same agent, verb and thing, and holds what is asked for: a place, a time, a number, a manner.
Every sentence holds two of these four, so that none of them, and no length, tells the label by itself.
"""

from __future__ import annotations

from dataclasses import replace

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.facts import VALUES, Fact
from glue_eval.sample_tasks.lexicon import AGENTS, NUMBERS, THINGS, VERBS

ASKED = ("place", "time", "manner", "number")
OPENINGS = {"place": "Where", "time": "When", "manner": "How"}


def _with(draw: Draw, fact: Fact, slots: list[str]) -> Fact:
    for slot in slots:
        if slot == "number":
            fact = replace(fact, number=draw.choice(NUMBERS))
        else:
            fact = fact.adding(slot, draw.choice(VALUES[slot]))
    return fact


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
        told = _with(draw, fact, [asked, draw.choice(others)])
    elif draw.chance(0.7):
        told = _with(draw, fact, draw.some(others, 2))
    else:
        told = _with(draw, fact, [asked, draw.choice(others)])
        if draw.chance(0.5):
            about = replace(about, agent=draw.other(AGENTS, agent, fact.thing))
        else:
            about = replace(about, verb=draw.other(VERBS, fact.verb))
    return _ask(asked, about), told.express(passive=draw.chance(0.3), fronted=draw.chance(0.3))
