"""The command line of a race: budgets, numbers for all or for each, what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adan.errors import UserError
from nlp_adan.race.budget import LEAST_STEPS, Budget, parse_budget
from nlp_adan.race.options import batch_sizes, entrant_names, numbers_of_each, optimizer_names, parse_race

ENTRANTS = ["adamw", "adan"]


def test_the_words_are_divided_between_the_race_and_the_family() -> None:
    words = ["--optim", "adamw,adan", "--data", "x", "--lr", "adan=1e-3,2e-3", "adamw=1", "--tgt_len", "7", "--jobs=2"]
    options, rest = parse_race(words)
    assert options.optim == "adamw,adan" and options.lr == ["adan=1e-3,2e-3", "adamw=1"] and options.jobs == 2
    assert rest == ["--data", "x", "--tgt_len", "7"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--learning_rate", "1"], "--learning_rate: the race sets it for every run; use --lr"),
        (["--max_steps=5"], "--max_steps: .* use --budget steps:N"),
        (["--seed", "5"], "--seed: .* use --seeds"),
        (["--seeds", "0"], "--seeds: 0 is out of range"),
        (["--seeds", "1000"], "--seeds: 1000 is out of range"),
        (["--jobs", "0"], "--jobs: 0 is out of range"),
        (["--short_share", "1.5"], "--short_share: 1.5 is out of range"),
        (["--search_runs", "0"], "--search_runs: 0"),
        (["--evaluations", "0"], "--evaluations: 0"),
        (["--output_dir", ""], "--output_dir: name the folder"),
        (["--seeds", "many"], "--seeds"),
        (["--logging_strategy", "no"], "--logging_strategy: .* use nothing"),
        (["--save_total_limit", "3"], "--save_total_limit: .* use --keep_models"),
        (["--push_to_hub"], "--push_to_hub: .* use nothing"),
    ],
)
def test_what_cannot_be_is_named(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse_race(words)


def test_optimizers() -> None:
    assert optimizer_names("adamw, adan,sgd") == ["adamw_torch", "adan", "sgd"]
    with pytest.raises(UserError, match="empty name"):
        optimizer_names("adamw,,adan")


def test_numbers_for_all_and_for_each() -> None:
    assert numbers_of_each("lr", ["1e-3,2e-3"], ENTRANTS) == {"adamw": [1e-3, 2e-3], "adan": [1e-3, 2e-3]}
    assert numbers_of_each("lr", ["adamw=1", "adan=2,3"], ENTRANTS) == {"adamw": [1.0], "adan": [2.0, 3.0]}
    assert numbers_of_each("lr", ["adan=2"], ENTRANTS) == {"adan": [2.0]} and not numbers_of_each("lr", [], ENTRANTS)
    assert numbers_of_each("weight_decay", ["adan=0"], ENTRANTS) == {"adan": [0.0]}
    itself = entrant_names(["adamw_torch", "adamw_torch"])
    assert numbers_of_each("lr", ["adamw_torch=1", "adamw-2=100"], itself) == {"adamw": [1.0], "adamw-2": [100.0]}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("", "is an empty list"),
        ("adan=", "'adan=' is an empty list"),
        ("1e-3,", "is an empty list"),
        ("adna=1", "'adna' does not race .did you mean 'adan'"),
        ("fast", "'fast' is no number"),
        ("0", "0 is out of range"),
        ("-1e-3", "out of range"),
        ("nan", "out of range"),
        ("inf", "out of range"),
        ("adan=1,adamw=2", "names two optimizers"),
    ],
)
def test_numbers_that_are_none(item: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        numbers_of_each("lr", [item], ENTRANTS)


def test_a_decay_may_be_zero_and_a_rate_may_not() -> None:
    with pytest.raises(UserError, match="--weight_decay: -1 is out of range; give numbers of 0 or more"):
        numbers_of_each("weight_decay", ["-1"], ENTRANTS)
    with pytest.raises(UserError, match="--lr: 0 is out of range; give numbers above 0"):
        numbers_of_each("lr", ["0"], ENTRANTS)


def test_numbers_are_said_once() -> None:
    with pytest.raises(UserError, match="a second time"):
        numbers_of_each("lr", ["1", "adan=2"], ENTRANTS)


def test_batch_sizes() -> None:
    assert batch_sizes(None) == [] and batch_sizes("128, 32") == [32, 128]
    for text in ("32,x", "0", "", "32,32", "\u00b2"):
        with pytest.raises(UserError, match="--batch_sizes"):
            batch_sizes(text)


@pytest.mark.parametrize(
    ("text", "recipe", "found"),
    [
        ("steps:1500", {}, (1500, None)),
        ("steps:1e3", {}, (1000, None)),
        ("tokens:1_000_000", {}, (500, None)),
        ("hours:0.5", {}, (None, 0.5)),
        (None, {"max_steps": 700, "max_hours": None}, (700, None)),
        (None, {"max_steps": -1, "max_hours": 2}, (None, 2.0)),
    ],
)
def test_budgets(text: str | None, recipe: dict[str, Any], found: tuple[int | None, float | None]) -> None:
    budget = parse_budget(text, recipe, tokens_per_step=2000)
    assert (budget.steps, budget.hours) == found


@pytest.mark.parametrize("text", ["1500", "steps", "steps:", "step:5", "steps:-1", "hours:nan", "tokens:0", "steps:a"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text, {}, 1)


def test_a_recipe_of_passes_needs_a_budget() -> None:
    with pytest.raises(UserError, match="counts passes over the data"):
        parse_budget(None, {"max_steps": -1, "max_hours": None}, 1)


def test_a_budget_too_small_for_the_search_is_named_with_the_least() -> None:
    shares = {"short_share": 0.25}
    with pytest.raises(UserError, match=r"steps:60 is too small: --short_share 0.25 of it are 15 steps; .* steps:80"):
        Budget("steps:60", 60, None).check(shares)
    Budget("steps:80", 80, None).check(shares)
    with pytest.raises(UserError, match=r"hours:0.001 is too small"):
        Budget("hours:0.001", None, 0.001).check(shares)
    with pytest.raises(UserError, match=f"it is {LEAST_STEPS - 1} steps; give at least steps:{LEAST_STEPS}$"):
        Budget("steps:19", LEAST_STEPS - 1, None).check({"budget": 1.0})


@given(steps=st.integers(1, 10_000), evaluations=st.integers(1, 100))
def test_evaluations_end_with_the_run_where_they_can(steps: int, evaluations: int) -> None:
    every = Budget("", steps, None).eval_steps(evaluations)
    assert 1 <= every <= steps
    assert evaluations / 2 - 1 <= steps // every <= max(2 * evaluations, 1) or steps < 2 * evaluations
    if steps % (steps // evaluations or 1) == 0:
        assert steps % every == 0


def test_another_batch_size_sees_as_many_sequences() -> None:
    budget = Budget("steps:1500", 1500, None)
    assert budget.at_batch_size(64, 32).steps == 750 and budget.at_batch_size(16, 32).steps == 3000
