"""The samples of MNLI and RTE: does the second sentence follow from the first?

What decides: a modifier left out (follows) or added (does not); a more general word (follows) or a more particular
one; another number, an opposite adjective, a denial on one side (contradicts); agent and thing exchanged (neither).
Within a kind, premises have equally many modifiers under every label, and so have hypotheses. A denial stands on either
side or on both: as in MNLI, one in the hypothesis hints at a contradiction, and does not prove it.
"""

from __future__ import annotations

from dataclasses import replace

from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.facts import SLOTS, VALUES, Fact, draw_fact
from glue_eval.sample_tasks.lexicon import AGENTS, HYPERNYMS, NUMBERS, OPPOSITE_ADJECTIVES, PERSONS

Pair = tuple[Fact, Fact]


def _deletion(draw: Draw, label: str) -> Pair:
    """Entailment: one of two modifiers stays. Neutral: one comes that the premise does not have."""
    premise = draw_fact(draw, 2)
    if label == "entailment":
        return premise, premise.having(draw.choice(list(premise.modifiers)))
    slot = draw.choice([slot for slot in SLOTS if slot not in premise.modifiers])
    return premise, premise.having().adding(slot, draw.choice(VALUES[slot]))


def _negation(draw: Draw, label: str) -> Pair:
    """Contradiction: a denial on one side. Entailment: on both or none. Neutral: another agent."""
    premise = replace(draw_fact(draw, 1), negated=draw.chance(0.25))
    if label == "contradiction":
        return premise, replace(premise, negated=not premise.negated)
    if label == "entailment":
        return premise, premise
    other = draw_fact(draw, 0)
    return premise, replace(premise, agent=other.agent, negated=draw.chance(0.25))


def _number(draw: Draw, label: str) -> Pair:
    """Entailment: the same number. Contradiction: another number. Neutral: the number of another thing."""
    premise = draw_fact(draw, 2, with_number=True)
    hypothesis = premise.having(draw.choice(list(premise.modifiers)))
    if label == "entailment":
        return premise, hypothesis
    if label == "contradiction":
        return premise, replace(hypothesis, number=draw.other(NUMBERS, str(premise.number)))
    return premise, replace(hypothesis, thing=draw_fact(draw, 0).thing)


def _opposite(draw: Draw, label: str) -> Pair:
    """`the empty list` against `the full list`; entailment keeps the adjective, neutral has an unrelated one."""
    words = draw.choice(OPPOSITE_ADJECTIVES)
    here, there = words if draw.chance(0.5) else (words[1], words[0])
    slot = draw.choice(SLOTS[1:])
    premise = draw_fact(draw, 0).adding(slot, draw.choice(VALUES[slot])).adding("adjective", here)
    if label == "entailment":
        return premise, premise.having("adjective")
    if label == "neutral":
        there = draw.choice(draw.other(OPPOSITE_ADJECTIVES, words))
    return premise, premise.having("adjective").adding("adjective", there)


def _general(draw: Draw, label: str) -> Pair:
    """Entailment: a list is a sequence. Neutral: not every sequence is one. Contradiction: one side denies it."""
    particular, general = draw.choice(HYPERNYMS)
    base = draw_fact(draw, 1)
    above, below = replace(base, thing=general), replace(base, thing=particular)
    if label == "entailment":
        return below, above
    if label == "neutral":
        return above, below
    # `uses a list` denies `does not use a sequence`, on whichever side each stands.
    in_premise = draw.chance(0.25)
    denied = replace(above, negated=True)
    return (denied, below) if in_premise else (below, denied)


def _roles(draw: Draw, label: str) -> Pair:
    """Entailment: active and passive of one fact. Neutral: agent and thing exchanged. Contradiction: one denies it."""
    premise = draw_fact(draw, 1)
    if label == "neutral":
        return premise, premise.swapped()
    if label == "entailment":
        return premise, premise
    in_premise = draw.chance(0.25)
    return replace(premise, negated=in_premise), replace(premise, negated=not in_premise)


KINDS = {
    "deletion": _deletion,
    "negation": _negation,
    "number": _number,
    "opposite": _opposite,
    "general": _general,
    "roles": _roles,
}
BY_LABEL = {
    "entailment": ("deletion", "deletion", "negation", "negation", "number", "opposite", "general", "roles"),
    "neutral": ("deletion", "deletion", "deletion", "negation", "number", "opposite", "general", "roles"),
    "contradiction": ("negation", "negation", "negation", "number", "number", "opposite", "opposite", "general"),
}


def inference(draw: Draw, label: str, people: bool = False) -> tuple[str, str]:
    """A premise and a hypothesis with an MNLI label; with `people`, of persons who act instead of programs."""
    pair = KINDS[draw.choice(BY_LABEL[label])](draw, label)
    if people:
        pair = (_with_people(pair[0]), _with_people(pair[1]))
    passive = draw.chance(0.4)
    # One and the same fact is said in the other voice: a repetition would tell the label to whoever compares strings.
    other_passive = not passive if pair[0] == pair[1] else draw.chance(0.4)
    return (
        pair[0].express(passive, fronted=draw.chance(0.3)),
        pair[1].express(other_passive, fronted=draw.chance(0.3)),
    )


def inference_about_people(draw: Draw, label: str) -> tuple[str, str]:
    """The same of another kind of text, for MNLI's mismatched files."""
    return inference(draw, label, people=True)


def _with_people(fact: Fact) -> Fact:
    persons = dict(zip(AGENTS, PERSONS, strict=True))
    return replace(fact, agent=persons.get(fact.agent, fact.agent), thing=persons.get(fact.thing, fact.thing))


def entailment(draw: Draw, label: str) -> tuple[str, str]:
    """A premise, now and then with another sentence beside it, and a hypothesis with an RTE label."""
    if label == "not_entailment":
        label = draw.choice(("neutral", "contradiction", "contradiction"))
    premise, hypothesis = inference(draw, label)
    if draw.chance(0.2):
        premise = " ".join(draw.shuffled((premise, draw_fact(draw, 0).express())))
    return premise, hypothesis
