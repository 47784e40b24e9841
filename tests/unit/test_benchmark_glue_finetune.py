"""The benchmark of GLUE fine-tuning, on a tiny model: its figures, its check of equal steps, mistakes."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nlp_adan.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
TINY = {"layers": 1, "hidden": 16, "vocabulary": 400, "batch": 8, "rounds": 2, "our_steps": 2, "their_steps": 1,
        "threads": 1, "max_examples": 64}  # fmt: skip


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark's module; it sets the number of threads."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    before = torch.get_num_threads()
    yield importlib.import_module("glue_finetune")
    torch.set_num_threads(before)


def test_figures(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    sizes = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    figures = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["glue_finetune.py", *sizes, "--tasks", "CoLA,RTE", "--json", str(figures)])
    benchmark.main()
    printed = capsys.readouterr().out
    result = json.loads(figures.read_text())
    ratios = result["figures"]["ratios"]
    assert list(ratios) == ["CoLA", "RTE"] and result["headline"] ** 2 == pytest.approx(ratios["CoLA"] * ratios["RTE"])
    assert result["is_sample"] and printed.count("not measured") == 4  # the bars are about GLUE's own files
    for name, row in result["tasks"].items():
        theirs, ours = row["sides"]["run_glue"], row["sides"]["ours"]
        assert row["ratio"] == pytest.approx(theirs["epoch_seconds"] / ours["epoch_seconds"])
        assert (row["examples"], row["steps_in_epoch"]) == (64, 8) and f"| {name} | 64 |" in printed
        assert len(ours["all_epoch_seconds"]) == 2
        assert 0 <= ours["padding_share"] < 0.5 < theirs["padding_share"] < 1
        same = row["parity"]
        assert same["loss_ours"] == pytest.approx(same["loss_run_glue"], abs=1e-5)
    assert "mean over 2 tasks" in printed


def test_sides_that_compute_something_else_are_told(benchmark: Any) -> None:
    check = benchmark.check_parity
    same = {"loss_run_glue": 0.7, "loss_ours": 0.7, "largest_gradient": 0.1, "largest_gradient_difference": 1e-8}
    check(same, "CoLA")
    for change in ({"loss_ours": 0.71}, {"largest_gradient_difference": 1e-4}):
        with pytest.raises(RuntimeError, match="CoLA: the sides differ"):
            check({**same, **change}, "CoLA")


def test_bars_are_judged_on_the_own_files_only(benchmark: Any) -> None:
    bars = benchmark.bars
    tasks = {"CoLA": {"ratio": 4.0}, "MRPC": {"ratio": 1.79}}
    lines = bars({"tasks": tasks, "is_sample": False})
    assert lines[0].endswith(": met") and lines[1].endswith("NOT met")
    assert all("not measured" in line for line in lines[2:])
    assert all("not measured" in line for line in bars({"tasks": tasks, "is_sample": True}))


def test_mistakes(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--rounds must be 2 or more, got 1"):
        benchmark.parse(["--rounds", "1"])
    with pytest.raises(UserError, match="--max_examples must be 32 or more, got 10"):
        benchmark.parse(["--max_examples", "10"])
    monkeypatch.setattr(sys, "argv", ["glue_finetune.py", "--tasks", "MNLI"])
    with pytest.raises(UserError, match="--tasks: MNLI has not two labels"):
        benchmark.main()
    monkeypatch.setattr(sys, "argv", ["glue_finetune.py", "--data", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="nowhere"):
        benchmark.main()
