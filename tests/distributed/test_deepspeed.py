"""What DeepSpeed does to suit Adam, made to suit Adan; and mistakes in its configuration."""

from __future__ import annotations

import pytest

from tests.distributed import launching

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    return launching.cases("tests.distributed.deepspeed_worker")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_full_optimizer_state_of_every_group(results: dict[str, str], stage: int) -> None:
    """All four states, two groups, by DeepSpeed's own accessor. Measured: 3e-8."""
    assert float(results[f"full states, stage {stage}"]) <= 3e-7


def test_no_dummy_step_at_stage_0(results: dict[str, str]) -> None:
    """bf16: the same trajectory with unsharded masters as with sharded ones."""
    assert float(results["bf16, stage 0"]) == 0.0


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("two betas", ["optimizer.params", "betas", "three numbers", "[0.9, 0.99]"]),
        ("max_grad_norm", ["max_grad_norm", "gradient_clipping"]),
        ("unknown key", ['"beta" is not an option', "did you mean 'betas'", "gradient_clipping"]),
        ("a word for a number", ["optimizer.params", "lr must be a number", "'1e-3'"]),
    ],
)
def test_mistakes_are_named_with_their_remedy(results: dict[str, str], case: str, words: list[str]) -> None:
    assert results[case].startswith("refused")
    for word in words:
        assert word in results[case]
