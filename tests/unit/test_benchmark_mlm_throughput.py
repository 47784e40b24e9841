"""The benchmark of masked-LM throughput, on a tiny model: its figures, its GPU loop on the CPU, mistakes."""

from __future__ import annotations

import importlib
import json
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path

import pytest

from nlp_adan.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
TINY = {"layers": 1, "hidden": 16, "vocabulary": 600, "batch": 4, "length": 32, "rounds": 2, "steps": 2}


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    sizes = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "benchmarks/mlm_throughput.py",
        *sizes,
        "--curve_steps",
        "20",
        "--no_gpu",
        "--threads",
        "1",
    ]
    return subprocess.run([*command, *words], cwd=PROJECT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The topics of Python's own documentation."""
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": topic}) + "\n" for topic in pydoc_data.topics.topics.values()))
    return path


def test_figures(documents: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    run = benchmark("--documents", str(documents), "--max_bytes", "60000", "--json", str(figures))
    assert run.returncode == 0, run.stderr
    result = json.loads(figures.read_text())
    assert result["headline"] == result["figures"]["tokens_per_second_ratio"] > 0
    assert result["figures"]["mfu_base"] is None and "not measured" in run.stdout
    for side, row in result["segments"].items():
        assert len(row["all_tokens_per_second"]) == 2 and f"| {side} |" in run.stdout
        assert sum(row["phase_shares"].values()) == pytest.approx(1)
        assert all(row["phase_shares"][name] > 0 for name in ("data", "forward", "backward", "optimizer"))
    curves = result["curves"]["losses"]
    assert all(len(curve) == 20 for curve in curves.values())
    # One initialization, one order: at first the curves differ by masks and dropout only, and ln 600 is 6.40.
    assert all(curve[0] == pytest.approx(6.40, abs=0.15) for curve in curves.values())
    assert curves["hugging_face_1"] != curves["hugging_face_2"]


def test_the_gpu_loop_runs_with_torch_and_transformers_alone() -> None:
    """A machine with a GPU may lack the rest."""
    program = """
import sys
for name in ("datasets", "deepspeed", "evaluate", "accelerate"):
    sys.modules[name] = None
sys.path.insert(0, "benchmarks")
import torch, mlm_mfu
assert {case.name.split(",")[0] for case in mlm_mfu.CASES} == {"BERT-base", "BERT-large"}
case = mlm_mfu.Case("tiny", layers=2, hidden=16, heads=2, length=16, batch=4, compiled=False)
row = mlm_mfu.measure(case, torch.device("cpu"), vocabulary=64, steps=1)
assert row["mfu"] is None and row["flops_per_second"] > 0, row
assert abs(row["tokens_per_second"] * row["milliseconds"] / 64000 - 1) < 1e-6, row
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_mistakes(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    parse = importlib.import_module("mlm_throughput").parse
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file"):
        parse(["--documents", "nowhere.jsonl"])
    with pytest.raises(UserError, match=r"--rounds must be 2 or more, got 1"):
        parse(["--rounds", "1"])
    run = benchmark("--documents", str(documents), "--max_bytes", "60000", "--curve_steps", "9999")
    assert run.returncode == 2 and "9999 steps are more than an epoch" in run.stderr and "Traceback" not in run.stderr
