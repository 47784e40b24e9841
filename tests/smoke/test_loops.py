"""The three loops of examples/ train the same: plain torch, deepspeed.initialize, the Trainer."""

from __future__ import annotations

import sys

import pytest

from tests.distributed import launching

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def losses(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("step ")]


@pytest.fixture(scope="module")
def plain() -> list[str]:
    done = launching.run([sys.executable, "examples/loop_torch.py"])
    assert done.returncode == 0, done.stderr
    found = losses(done.stdout)
    assert len(found) == 20 and found[0] != found[-1]
    return found


@pytest.mark.parametrize("script", ["loop_deepspeed.py", "loop_trainer.py"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_losses(plain: list[str], script: str, ranks: int) -> None:
    """To the fifth digit, which is what is printed; a rounding may fall to the other side of it."""
    if ranks == 1:
        done = launching.run([sys.executable, f"examples/{script}"])
    elif script == "loop_deepspeed.py":
        done = launching.deepspeed(f"examples/{script}")
    else:
        done = launching.torchrun(f"examples/{script}")
    assert done.returncode == 0, done.stderr
    found = losses(done.stdout)
    assert len(found) == len(plain)
    for ours, theirs in zip(found, plain, strict=True):
        assert ours.split()[:3] == theirs.split()[:3]
        assert float(ours.split()[3]) == pytest.approx(float(theirs.split()[3]), abs=1.5e-5), (ours, theirs)
