"""However streams are split over ranks, micro-batches and ZeRO stages: the same losses, the same model."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import set_seed

from tests.distributed import launching
from tests.distributed.stream_worker import model

WORKER = "tests.distributed.stream_worker"
FAMILIES = ("xl", "xl_adaptive", "lstm")
WHOLE = [f"{family}:plain:8:1" for family in FAMILIES]
ONE_RANK = [f"{family}:plain:2:4" for family in FAMILIES]
# Without DeepSpeed first: a process that has used it once cannot leave it.
DDP = [f"{family}:plain:4:1" for family in FAMILIES]
SHARDED = [
    *(f"{family}:zero2:4:1" for family in FAMILIES), "xl:zero2:2:2", "lstm:zero2:1:4",
    *(f"{family}:zero3:4:1" for family in FAMILIES),
]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each case found, by its name; two-rank cases as `2 CASE`."""
    return launching.split_cases(WORKER, [*WHOLE, *ONE_RANK], [*DDP, *SHARDED], tmp_path_factory.mktemp("cases"))


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a parameter."""
    return max(float((one["parameters"][name] - tensor).abs().max()) for name, tensor in other["parameters"].items())


@pytest.mark.parametrize("case", [*ONE_RANK, *(f"2 {case}" for case in (*DDP, *SHARDED))])
def test_equals_one_process_with_all_streams(results: dict[str, dict[str, Any]], case: str) -> None:
    """Twenty steps, nearly two passes. The bar for ZeRO: three times DDP's difference, or 1e-6."""
    family = case.removeprefix("2 ").split(":")[0]
    whole, split = results[f"{family}:plain:8:1"], results[case]
    assert len(whole["loss"]) == 20 and len(set(whole["batch_hash"])) > 10
    assert split["batch_hash"] == whole["batch_hash"]
    assert split["loss"] == pytest.approx(whole["loss"], abs=4e-6)
    assert split["grad_norm"] == pytest.approx(whole["grad_norm"], abs=4e-6)
    assert split["eval_loss"] == pytest.approx(whole["eval_loss"], abs=4e-6)
    by_ddp = difference(results[f"2 {family}:plain:4:1"], whole)
    assert difference(split, whole) <= max(3 * by_ddp, 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parameters_move(results: dict[str, dict[str, Any]], family: str) -> None:
    """What is compared above is not a model that stood still: Adan's steps of 1e-3 are far above the tolerances."""
    set_seed(7)
    fresh = {name: parameter.detach() for name, parameter in model(family).named_parameters()}
    trained = results[f"{family}:plain:8:1"]["parameters"]
    assert all((trained[name] - tensor).abs().max() > 1e-4 for name, tensor in fresh.items())
