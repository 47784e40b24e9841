"""The search of a race: the same cost whatever is found, outward at an edge, nearer between."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adan.errors import UserError
from nlp_adan.race.entrants import Entrant, make_entrants
from nlp_adan.race.search import Candidate, best, is_edge, next_candidates

RECIPE = {"optim": "adan", "learning_rate": 6e-3, "weight_decay": 0.03}


def entrants(*optimizers: str, rates: dict[str, list[float]] | None = None) -> list[Entrant]:
    return make_entrants(optimizers, rates or {}, {}, RECIPE)


def search(entrant: Entrant, loss: dict[str, float], number: int) -> dict[Candidate, float]:
    """All rounds, where the loss is lowest at a rate for each preset, and the same everywhere else per octave."""
    tried: dict[Candidate, float] = {}
    while wanted := next_candidates(entrant, tried, number):
        assert not set(wanted) & set(tried) and len(set(wanted)) == len(wanted)
        for candidate in wanted:
            tried[candidate] = abs(math.log2(candidate.learning_rate / loss[candidate.preset]))
    return tried


@given(
    optimizer=st.sampled_from(["adan", "adamw_torch", "sgd"]),
    number=st.integers(1, 20),
    exponents=st.lists(st.floats(-8, 8), min_size=2, max_size=2),
)
def test_every_search_costs_the_same(optimizer: str, number: int, exponents: list[float]) -> None:
    entrant = entrants("adafactor", optimizer)[1]
    minima = {preset.name: entrant.first_rate * 2**k for preset, k in zip(entrant.presets, exponents, strict=False)}
    assert len(search(entrant, minima, number)) == number


def test_it_moves_outward_until_the_best_is_inside() -> None:
    entrant = entrants("adamw_torch", "sgd")[1]
    (preset,) = entrant.presets
    tried = search(entrant, {preset.name: 2.0**7}, 11)
    (chosen,) = best(tried)
    assert chosen.learning_rate == 2.0**7 and not is_edge(chosen, list(tried))


def test_it_comes_nearer_between_the_first_rates() -> None:
    entrant = entrants("adamw_torch", "adan")[1]
    minima = {entrant.presets[0].name: 1e9, entrant.presets[1].name: 0.5 * entrant.first_rate}
    tried = search(entrant, minima, 8)
    assert best(tried) == [Candidate(entrant.presets[1].name, 0.5 * entrant.first_rate)]
    assert sum(candidate.preset == entrant.presets[1].name for candidate in tried) == 5


def test_diverged_runs_are_the_worst_and_of_equals_the_lower_rate_wins() -> None:
    tried = {Candidate("a", 1.0): math.inf, Candidate("a", 0.5): 2.0, Candidate("b", 0.25): 2.0}
    assert best(tried, 3) == [Candidate("b", 0.25), Candidate("a", 0.5), Candidate("a", 1.0)]


def test_given_rates_are_tried_with_every_preset_and_no_others() -> None:
    entrant = entrants("adamw_torch", "adan", rates={"adan": [1e-3, 2e-3, 1e-3]})[1]
    wanted = next_candidates(entrant, {}, 3)
    assert {candidate.learning_rate for candidate in wanted} == {1e-3, 2e-3} and len(wanted) == 4
    assert next_candidates(entrant, dict.fromkeys(wanted, 1.0), 100) == []


def test_edges() -> None:
    tried = [Candidate("a", 1.0), Candidate("a", 2.0), Candidate("a", 4.0), Candidate("b", 8.0)]
    assert [is_edge(candidate, tried) for candidate in tried] == [True, False, True, True]


def test_entrants_have_what_is_usual_for_them() -> None:
    adamw, adan, sgd, again = entrants("adamw_torch", "adan", "sgd", "adamw_torch")
    assert [each.name for each in (adamw, adan, sgd, again)] == ["adamw", "adan", "sgd", "adamw-2"]
    assert (adan.first_rate, adan.weight_decay) == (6e-3, 0.03)  # the recipe's own
    assert (adamw.first_rate, adamw.weight_decay) == (1e-3, 0.01) and sgd.weight_decay == 0.0
    assert len(adamw.presets) == len(adan.presets) == 2 and len(sgd.presets) == 1
    assert adamw.seeds(3) == (1, 2, 3) == adan.seeds(3) and set(again.seeds(999)).isdisjoint(adamw.seeds(999))
    assert {adamw.search_seed, again.search_seed}.isdisjoint({*adamw.seeds(999), *again.seeds(999)})
    assert adan.search_seed == adamw.search_seed


def test_one_rate_is_raced_with_the_first_preset() -> None:
    adan = entrants("adamw_torch", "adan", rates={"adan": [1e-3]})[1]
    assert [preset.name for preset in adan.presets] == ["betas 0.98, 0.92, 0.99"]


def test_one_optimizer_is_no_race() -> None:
    with pytest.raises(UserError, match="adan alone is no race"):
        entrants("adan")
