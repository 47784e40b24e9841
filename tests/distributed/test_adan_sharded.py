"""Adan alone on sharded parameters: right where they know the whole (FSDP2's DTensors), clipping refused where not."""

from __future__ import annotations

import pytest

from tests.distributed import launching

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    return launching.cases("tests.distributed.sharding_worker")


@pytest.mark.parametrize("case", ["fsdp2", "fsdp2 clipped"])
def test_fsdp2_equals_one_process(results: dict[str, str], case: str) -> None:
    """Also with Adan's own clipping: the norm is that of all ranks together. Measured: 3e-8."""
    assert float(results[case]) <= 3e-7


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("fsdp1 flat", "clip_grad_norm_"),
        ("fsdp1 original parameters", "clip_grad_norm_"),
        ("zero 1", '"gradient_clipping"'),
        ("zero 2", '"gradient_clipping"'),
        ("zero 3", '"gradient_clipping"'),
    ],
)
def test_a_shard_refuses_to_clip(results: dict[str, str], case: str, remedy: str) -> None:
    assert results[case].startswith("refused: Adan: max_grad_norm") and remedy in results[case]
