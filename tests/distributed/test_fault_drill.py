"""A short fault drill: one round of each fault, every one of which ends as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.distributed import launching

FAULTS = ["kill", "flip", "truncate", "full_disk", "stale_lock", "term"]
# Thirteen starts of two ranks. They are forked from one process, which saves each some ten seconds of imports.
WORDS = ["--rounds", str(len(FAULTS)), "--stages", "2", "--steps", "12", "--launcher", "fork"]
TIMEOUT_SECONDS = 900  # a minute on two cores that have nothing else to do

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the drill wrote; `printed` is what it printed."""
    figures = tmp_path_factory.mktemp("fault_drill") / "figures.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/fault_drill.py", *WORDS, "--json", str(figures)],
        cwd=launching.PROJECT,
        env=launching.environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(figures.read_text()), "printed": done.stdout}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_survives_and_ends_with_the_same_bits(result: dict[str, Any], fault: str) -> None:
    (outcome,) = [outcome for outcome in result["rounds"] if outcome["fault"] == fault]
    assert outcome["survived"] and outcome["wrong"] == "", outcome
    assert outcome["bit_equal"], outcome
    assert outcome["what"] and 0 <= outcome["lost_steps"] <= 12
    if fault in ("term", "full_disk"):
        assert outcome["lost_steps"] == 0


def test_figures(result: dict[str, Any]) -> None:
    assert result["headline"] == result["survived"] == 1.0
    assert list(result["rows"]) == [f"{fault}, ZeRO-2" for fault in FAULTS]
    assert result["printed"].startswith("6 of 6 disturbed trainings went on by themselves, 6 ended with the bits of an")
