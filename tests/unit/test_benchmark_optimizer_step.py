"""The benchmark of the optimizer step, on a model of one layer: its figures, and a mistake in its options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HEADLINE = (
    "ours_over_bandwidth_limit",
    "official_over_ours",
    "optimi_over_ours",
    "adamw_default_over_ours",
    "ours_over_adamw_fused",
)
# Stands in for the authors' file: an optimizer of this name that takes the options of theirs.
OFFICIAL = "import torch\n\nclass Adan(torch.optim.Adam):\n    pass\n"


def benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/optimizer_step.py", "--layers", "1", "--vocabulary", "50", "--rounds", "2"]
    return subprocess.run([*command, "--threads", "1", *options], cwd=PROJECT, capture_output=True, text=True)


def test_figures(tmp_path: Path) -> None:
    official, figures = tmp_path / "adan.py", tmp_path / "figures.json"
    official.write_text(OFFICIAL)
    run = benchmark("--official", str(official), "--json", str(figures))
    assert run.returncode == 0, run.stderr
    result = json.loads(figures.read_text())
    assert all(result["headline"][name] > 0 for name in HEADLINE)
    assert result["machine"]["tensors"] == 26
    assert not result["left_out"]
    for name, row in result["rows"].items():
        assert len(row["all_ms"]) == 2 and row["median_ms"] > 0, name
        assert f"| {name} |" in run.stdout
    assert run.stdout.startswith("nlp_adan.Adan (")


def test_official_code_that_is_not_there(tmp_path: Path) -> None:
    run = benchmark("--official", str(tmp_path / "nowhere.py"))
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "nowhere.py: no such file" in run.stderr
