"""The verdict of a race: against an independent computation, in simulated races, and in words."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from nlp_adan.race.comparison import Comparison
from nlp_adan.race.reaching import Crossing, crossing, reach
from nlp_adan.race.results import Point, Race, RunResult
from nlp_adan.race.statistics import Estimate, corrected_confidence, ratio_interval, t_interval
from nlp_adan.race.verdict import verdict
from nlp_adan.race.wording import difference_text, digits_of
from tests.unit.race_runs import diverged, race_of, run_of

LOSSES = st.floats(2.0, 10.0, allow_subnormal=False)
PAIRS = st.lists(st.tuples(LOSSES, LOSSES), min_size=2, max_size=6)
ADAMW, ADAN = [6.121, 6.103, 6.098], [6.075, 6.066, 6.058]


def compared(race: Race) -> Comparison:
    """The only comparison of a race."""
    (found,) = verdict(race).comparisons
    return found


def race_of_pairs(pairs: Sequence[tuple[float, float]], **changes: Any) -> Race:
    return race_of({"adamw": [one for one, _ in pairs], "adan": [other for _, other in pairs]}, **changes)


def sentence(race: Race) -> str:
    return verdict(race).sentence


def interval_of(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None and estimate.interval is not None
    return estimate.interval


# ---- intervals


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.sampled_from([0.9, 0.95, 0.975]))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_that_of_the_t_test(values: list[float], confidence: float) -> None:
    found = t_interval(values, confidence)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12) and found.num == len(values)
    if min(values) == max(values):
        assert found.interval is None
        return
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert interval_of(found) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_the_difference_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    found = compared(race_of_pairs(pairs))
    assert found.difference is not None
    if len({other - one for one, other in pairs}) == 1:
        assert found.difference.interval is None and found.claims == "none"
        return
    test = stats.ttest_rel([other for _, other in pairs], [one for one, _ in pairs])
    expected = test.confidence_interval(0.95)
    assert interval_of(found.difference) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)
    if abs(test.pvalue - 0.05) > 1e-6:
        assert (found.claims != "none") == (test.pvalue < 0.05)


def test_the_interval_of_three_reaches_beyond_them() -> None:
    """A percentile bootstrap of three values cannot: its ends are at most the lowest and the highest."""
    low, high = interval_of(t_interval([1.0, 2.0, 3.0], 0.95))
    assert low == pytest.approx(2 - 4.302653 / math.sqrt(3)) and high == pytest.approx(2 + 4.302653 / math.sqrt(3))


def test_ratios_are_averaged_as_ratios() -> None:
    found = ratio_interval([0.5, 2.0], 0.95)
    low, high = interval_of(found)
    assert found.mean == pytest.approx(1.0) and low * high == pytest.approx(1.0)
    assert not found.excludes(1.0) and found.excludes(high * 1.01) and found.excludes(low * 0.99)


def test_comparisons_share_the_five_per_cent() -> None:
    assert [corrected_confidence(number) for number in (0, 1, 2, 5)] == pytest.approx([0.95, 0.95, 0.975, 0.99])
    found = verdict(race_of({"adamw": ADAMW, "adan": ADAN, "sgd": [6.4, 6.5, 6.45]}))
    assert found.confidence == 0.975 and found.claims == {"adan": "better", "sgd": "worse"}
    alone = compared(race_of({"adamw": ADAMW, "adan": ADAN}))
    (low, high), (less_low, less_high) = map(interval_of, (found.comparisons[0].difference, alone.difference))
    assert low < less_low < less_high < high


# ---- properties


@given(PAIRS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_seeds_does_not_matter(pairs: list[tuple[float, float]], random: Any) -> None:
    race = race_of_pairs(pairs)
    order = random.sample(range(len(pairs)), len(pairs))
    mixed = dataclasses.replace(
        race,
        seeds={name: tuple(seeds[place] for place in order) for name, seeds in race.seeds.items()},
        finals={name: tuple(runs[place] for place in order) for name, runs in race.finals.items()},
    )
    one, other = compared(race), compared(mixed)
    assert one.difference == other.difference and one.claims == other.claims
    assert (one.to_baseline.steps, one.to_entrant.steps) == (other.to_baseline.steps, other.to_entrant.steps)
    assert one.step_time == other.step_time


@given(PAIRS)
@example([(3.0, 3.0), (4.0, 4.0)])
@settings(max_examples=60, deadline=None)
def test_swapped_entrants_swap_the_verdict(pairs: list[tuple[float, float]]) -> None:
    race = race_of_pairs(pairs)
    swapped = dataclasses.replace(race, searches={name: race.searches[name] for name in ("adan", "adamw")})
    one, other = compared(race), compared(swapped)
    assert (one.entrant, one.baseline) == (other.baseline, other.entrant)
    assert one.difference is not None and other.difference is not None
    assert one.difference.mean == -other.difference.mean
    if one.difference.interval is not None:
        assert one.difference.interval == tuple(-end for end in reversed(interval_of(other.difference)))
    assert other.claims == {"better": "worse", "worse": "better", "none": "none"}[one.claims]
    assert one.to_baseline == other.to_entrant and one.to_entrant == other.to_baseline
    assert one.step_time is not None and other.step_time is not None
    assert one.step_time.mean == pytest.approx(1 / other.step_time.mean)


@given(PAIRS, st.floats(-1.5, 5))
@settings(max_examples=60, deadline=None)
def test_a_constant_on_both_losses_changes_nothing(pairs: list[tuple[float, float]], constant: float) -> None:
    def moved(run: RunResult) -> RunResult:
        curve = tuple(dataclasses.replace(point, loss=point.loss + constant) for point in run.curve)
        return dataclasses.replace(run, loss=run.loss + constant, curve=curve)

    pairs = [(round(one, 3), round(other, 3)) for one, other in pairs]
    race = race_of_pairs(pairs)
    one = compared(race)
    other = compared(dataclasses.replace(race, finals={n: tuple(map(moved, runs)) for n, runs in race.finals.items()}))
    assert one.difference is not None and other.difference is not None
    assert other.difference.mean == pytest.approx(one.difference.mean, abs=1e-9)
    if min(abs(first - second) for first, second in pairs) > 1e-6:  # which of two equal ones is lower is rounding
        assert other.to_baseline.num_reached == one.to_baseline.num_reached


# ---- reaching a loss


def run_with(points: Sequence[tuple[int, float]], **changes: Any) -> RunResult:
    """A run of these (step, loss), of two seconds a step; the last is its end."""
    curve = tuple(Point(step, 2.0 * step, loss) for step, loss in points)
    step, loss = points[-1]
    return run_of("adan", 1, loss, steps=step, seconds=2.0 * step, curve=curve, **changes)


FALLING = [(100, 5.0), (200, 4.0), (300, 3.0), (400, 2.5)]


@pytest.mark.parametrize(
    ("points", "loss", "step"),
    [
        pytest.param(FALLING, 3.25, 275.0, id="between evaluations"),
        pytest.param(FALLING, 3.0, 300.0, id="at one exactly"),
        pytest.param(FALLING, 2.5, 400.0, id="at the end exactly"),
        pytest.param(FALLING, 2.4, None, id="never"),
        pytest.param(FALLING, 6.0, 100.0, id="before the first"),
        pytest.param([(100, 5.0), (200, 2.0), (300, 4.0), (400, 2.5)], 3.0, 300 + 100 * 2 / 3, id="for good"),
        pytest.param([(100, 5.0), (200, 2.0), (300, 4.0)], 3.0, None, id="lost again"),
        pytest.param([(0, 9.0), (100, 5.0)], 7.0, 100.0, id="step 0 is no step"),
        pytest.param([(100, 5.0), (200, math.inf), (300, 3.0)], 4.0, 300.0, id="after no number"),
        pytest.param([(100, 5.0), (200, math.nan), (300, 3.0)], 6.0, 300.0, id="after not a number"),
        pytest.param([(300, 3.0)], 4.0, 300.0, id="one evaluation"),
    ],
)
def test_where_a_loss_is_reached(points: list[tuple[int, float]], loss: float, step: float | None) -> None:
    found = crossing(run_with(points), loss)
    if step is None:
        assert found is None
    else:
        assert found is not None and (found.steps, found.seconds) == pytest.approx((step, 2 * step))


def test_a_run_without_a_curve_is_at_its_loss_at_its_end() -> None:
    run = dataclasses.replace(run_with(FALLING), curve=())
    assert crossing(run, 2.5) == Crossing(400, 800.0) and crossing(run, 2.4) is None


def test_shares_are_of_the_others_run() -> None:
    """Twice the batch in half the steps: as many samples."""
    pairs = [(run_with(FALLING, batch_size=64), run_of("adamw", 1, loss, steps=800, seconds=1000.0))
             for loss in (3.0, 3.5)]  # fmt: skip
    found = reach("adan", "adamw", pairs, 0.95)
    assert found.steps is not None and found.samples is not None and found.seconds is not None
    assert found.steps.mean == pytest.approx(math.sqrt(300 * 250) / 800)
    assert found.samples.mean == pytest.approx(2 * found.steps.mean)
    assert found.seconds.mean == pytest.approx(math.sqrt(600 * 500) / 1000)
    logs = np.log([300 / 800, 250 / 800])
    expected = np.exp(stats.t.interval(0.95, 1, logs.mean(), stats.sem(logs)))
    assert interval_of(found.steps) == pytest.approx(tuple(expected))


def test_where_some_seeds_do_not_reach_it_there_is_no_share() -> None:
    found = compared(race_of({"adamw": [6.0, 6.1, 6.2], "adan": [5.9, 6.0, 6.3]}))
    assert (found.to_baseline.num_reached, found.to_entrant.num_reached) == (2, 1)
    assert found.to_baseline.crossings[2] is None
    assert found.to_baseline.steps is None and found.to_baseline.seconds is None and found.to_entrant.steps is None


def test_a_diverged_run_is_no_target_and_reaches_none() -> None:
    good, bad = run_of("adan", 1, 6.0), diverged(run_of("adamw", 1, 6.0))
    assert reach("adan", "adamw", [(good, bad)], 0.95).crossings == ()
    assert reach("adamw", "adan", [(bad, good)], 0.95).crossings == (None,)


# ---- what is claimed


def test_races_of_equals_claim_a_difference_at_the_nominal_rate() -> None:
    """2,000 races of 3 seeds; losses share what the seed does to both. Binomial: 0.05 +- 0.005."""
    random = np.random.default_rng(9)
    seed_effects = random.normal(scale=0.03, size=(2000, 3, 1))
    losses = 6.0 + seed_effects + random.normal(scale=0.02, size=(2000, 3, 2))
    one = run_of("adamw", 1, 6.0, evaluations=1)
    claims = []
    for pairs in losses:
        runs = {
            name: tuple(dataclasses.replace(one, seed=seed, loss=loss, curve=())
                        for seed, loss in enumerate(column.tolist(), 1))
            for name, column in zip(("adamw", "adamw-2"), pairs.T, strict=True)
        }  # fmt: skip
        claims.append(compared(race_of({name: [0.0] * 3 for name in runs}, finals=runs)).claims)
    share = sum(claim != "none" for claim in claims) / len(claims)
    assert 0.03 <= share <= 0.07
    assert abs(claims.count("better") - claims.count("worse")) < 45  # +- 10 if either is as likely


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "better"),
        ({"adan": [6.2, 6.19, 6.21]}, "worse"),
        ({"adan": [6.105, 6.116, 6.07]}, "none"),
        ({"adan": ADAMW}, "none"),
        ({"adan": [loss - 1.0 for loss in (6.0, 6.0, 6.0)], "adamw": [6.0, 6.0, 6.0]}, "none"),
    ],
    ids=["better", "worse", "within chance", "identical", "seeds change nothing"],
)
def test_a_claim_needs_an_interval_without_zero(changes: dict[str, list[float]], expected: str) -> None:
    assert compared(race_of({"adamw": ADAMW, "adan": ADAN} | changes)).claims == expected


def lost(name: str, seed: int) -> RunResult:
    return diverged(run_of(name, seed, 6.0))


@pytest.mark.parametrize(
    ("adamw", "adan", "expected"),
    [
        (ADAMW, [lost("adan", 1), 5.0, 5.0], "worse"),
        (ADAMW, [lost("adan", seed) for seed in (1, 2, 3)], "worse"),
        ([6.0, lost("adamw", 2), 6.0], ADAN, "better"),
        ([6.0, lost("adamw", 2), 6.0], [lost("adan", 1), 6.0, 6.0], "none"),
        ([6.0], [lost("adan", 1)], "none"),
        ([6.0], [5.0], "none"),
    ],
)
def test_a_diverged_run_loses_and_has_no_interval(adamw: list[Any], adan: list[Any], expected: str) -> None:
    found = compared(race_of({"adamw": adamw, "adan": adan}))
    assert found.claims == expected
    assert found.difference is None or found.difference.interval is None
    assert json.dumps(found.to_json(), allow_nan=False)


def test_a_place_without_both_runs_is_left_out() -> None:
    race = race_of({"adamw": ADAMW, "adan": ADAN})
    found = compared(dataclasses.replace(race, finals={**race.finals, "adan": race.finals["adan"][1:]}))
    assert (found.num_pairs, found.num_seeds) == (2, 3)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx((6.066 - 6.103 + 6.058 - 6.098) / 2)
    none = dataclasses.replace(race, finals={**race.finals, "adan": ()})
    assert compared(none).claims == "none"
    assert sentence(none) == "adan against adamw: no verdict, with no seed did both finish."


def test_pairs_are_equal_places_where_the_seeds_differ() -> None:
    seeds = {"adamw": (1, 2, 3), "adamw-2": (1001, 1002, 1003)}
    finals = {name: [run_of(name, seed, 6 + 0.1 * place + 0.01 * number) for place, seed in enumerate(each)]
              for number, (name, each) in enumerate(seeds.items())}  # fmt: skip
    shuffled = {"adamw": tuple(finals["adamw"]), "adamw-2": tuple(reversed(finals["adamw-2"]))}
    found = compared(race_of({name: [0.0] * 3 for name in seeds}, finals=shuffled, seeds=seeds))
    assert found.num_pairs == 3 and found.difference is not None
    assert found.difference.mean == pytest.approx(0.01)


def test_time_and_memory_are_ratios_of_pairs() -> None:
    race = race_of({"adamw": ADAMW, "adan": ADAN})
    found = compared(race)
    steps = [run.step_seconds / other.step_seconds
             for run, other in zip(race.finals["adan"], race.finals["adamw"], strict=True)]  # fmt: skip
    assert found.step_time is not None and found.time is not None
    assert found.step_time.mean == pytest.approx(stats.gmean(steps)) == pytest.approx(found.time.mean)
    assert found.memory == 1.5 and (found.state_bytes, found.baseline_state_bytes) == (12_582_912, 8_388_608)
    unknown = tuple(dataclasses.replace(run, step_seconds=math.nan, state_bytes=0) for run in race.finals["adamw"])
    found = compared(dataclasses.replace(race, finals={**race.finals, "adamw": unknown}))
    assert found.step_time is None and found.memory is None


# ---- in words


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((ADAMW, ADAN),
         "adan ends 0.041 nats lower than adamw (95 % interval 0.030 to 0.052, 3 seeds) and reaches adamw's final loss "
         "after 84 % (81 to 88 %) of adamw's steps and 91 % (88 to 93 %) of its training time."),
        ((ADAMW, [6.205, 6.216, 6.21]),
         "adan ends 0.103 nats higher than adamw (95 % interval 0.062 to 0.144, 3 seeds); adamw reaches adan's final "
         "loss after 72 % (67 to 79 %) of adan's steps and 67 % (65 to 70 %) of its training time."),
        ((ADAMW, [6.105, 6.116, 6.07]),
         "adan against adamw: no difference shown; adan ends 0.010 nats lower on average (95 % interval 0.063 lower to "
         "0.042 higher, 3 seeds); a step of adan takes 1.08 (1.02 to 1.14) times as long."),
        ((ADAMW, ADAMW),
         "adan against adamw: no difference shown; both end alike with every seed (3 seeds), so that there is no "
         "interval."),
        (([6.5, 6.5], [6.0, 6.0]),
         "adan against adamw: no difference shown; adan ends 0.500 nats lower, by as much with every seed (2 seeds), "
         "so that there is no interval."),
        (([6.121], [6.105]), "adan against adamw, one seed: no verdict; adan ends 0.016 nats lower."),
        (([6.121], [lost("adan", 1)]),
         "adan against adamw, one seed: no verdict; adan diverged with 1 of 1 seed, adamw with none."),
        ((ADAMW, [6.0, 6.0, lost("adan", 3)]),
         "adan loses to adamw: adan diverged with 1 of 3 seeds, adamw with none."),
        (([lost("adamw", 1), 6.0, 6.0], ADAN),
         "adan wins against adamw: adan diverged with none, adamw with 1 of 3 seeds."),
        (([lost("adamw", 1), 6.0], [6.0, lost("adan", 2)]),
         "adan against adamw: no difference shown; adan diverged with 1 of 2 seeds, adamw with 1 of 2 seeds."),
    ],
)  # fmt: skip
def test_the_sentence(losses: tuple[list[Any], list[Any]], expected: str) -> None:
    assert sentence(race_of({"adamw": losses[0], "adan": losses[1]})) == expected


def test_a_claim_that_not_every_seed_bears_says_so() -> None:
    pairs = [(6.0, 5.9), (6.0, 5.88), (6.0, 5.91), (6.0, 5.9), (6.0, 6.001), (6.0, 5.9), (6.0, 5.9), (6.0, 5.89)]
    assert sentence(race_of_pairs(pairs)).endswith("8 seeds) and reaches adamw's final loss with 7 of 8 seeds.")


def test_every_entrant_has_its_sentence_and_one_alone_none() -> None:
    found = verdict(race_of({"adamw": ADAMW, "adan": ADAN, "sgd": [6.4, 6.5, 6.45]}))
    assert list(found.sentences) == ["adan", "sgd"] and found.sentence == " ".join(found.sentences.values())
    assert "97.5 % interval" in found.sentence
    alone = verdict(race_of({"adamw": ADAMW}))
    assert (alone.sentence, alone.claims) == ("adamw ran alone: nothing to compare.", {})


def test_small_differences_keep_two_digits() -> None:
    assert digits_of(Estimate(0.0001, (-0.0003, 0.0005), 3)) == 5
    assert difference_text(Estimate(-0.00012, (-0.00015, -0.00009), 3)) == "-0.000120 (-0.000150 to -0.000090)"
    assert difference_text(Estimate(-1.0, None, 1)) == "-1.000" and difference_text(None) == "-"


def test_the_verdict_for_programs() -> None:
    found = verdict(race_of({"adamw": ADAMW, "adan": ADAN})).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["claims"] == {"adan": "better"} and found["baseline"] == "adamw" and found["confidence"] == 0.95
    adan = found["comparisons"]["adan"]
    assert adan["difference"]["mean"] == pytest.approx(-0.041) and adan["difference"]["num"] == 3
    assert adan["to_baseline"]["num_reached"] == 3 and adan["to_entrant"]["steps_share"] is None
    assert adan["to_baseline"]["steps_share"]["low"] < adan["to_baseline"]["steps_share"]["mean"] < 1
    assert adan["sentence"] == found["sentence"] and adan["memory"] == 1.5
