"""`--dry_run`: the plan in words with an estimate of its time, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glue_eval import __main__ as door
from glue_eval.dry_run import Timing, makespan
from glue_eval.planning import Workload
from tests.tiny_glue import tiny_bert, write_glue


def test_a_plan_is_printed_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(tmp_path)
    tiny_bert(tmp_path / "model")
    write_glue(tmp_path / "glue", "CoLA", "RTE")
    (tmp_path / "mine.yaml").write_text("tasks: {RTE: {warmup_steps: 7, dropout: 0.2, max_steps: 70}}")
    files, environment = sorted(tmp_path.rglob("*")), dict(os.environ)
    door.main([
        "--model", "model", "--data", "glue", "--tasks", "CoLA,RTE", "--allow_partial", "True", "--seeds", "3",
        "--jobs", "2", "--config", "mine.yaml", "--output_dir", "out", "--dry_run",
    ])  # fmt: skip
    new = set(tmp_path.rglob("*")) - set(files)
    kernels = tmp_path / "cache" / "kernels"  # compiled once: what is timed is a step with it
    assert all(path in (kernels.parent, kernels) or path.parent == kernels for path in new)
    assert dict(os.environ) == environment
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    # The recipe's 5 epochs: ceil(5 x 45 / 32) = 8 steps; 70 x 32 / 45 = 49.8 epochs.
    assert rows[1][:7] == ["CoLA", "3", "3", "45", "5.69", "8", "32"]
    assert rows[2][:7] == ["RTE", "3", "3", "45", "49.8", "70", "32"]
    cola, rte = (next(row for row in rows[4:] if row and row[0] == name) for name in ("CoLA", "RTE"))
    assert cola[1:] == ["adan", "beta1=0.9,beta2=0.9,beta3=0.999", "0.002", "linear", "10 %", "0.02", "1",
                        "the model's", "128"]  # fmt: skip
    assert (rte[5], rte[-2:]) == ("7 steps", ["0.2", "256"])
    assert any("6 of 6 runs to do, 2 at a time: about" in line for row in rows for line in row)
    assert any("recipe small-adan, over it mine.yaml" in line for row in rows for line in row)


def test_the_estimate_is_of_steps_and_predictions() -> None:
    timing = Timing(step_seconds=0.5, example_seconds=0.01, length=9)
    seconds = [timing.run_seconds(Workload(100, 300, steps, 16, 9)) for steps in (0, 10)]
    assert seconds[1] - seconds[0] == pytest.approx(5) and 3 < seconds[0] < 5


def test_the_longest_runs_begin_first() -> None:
    assert makespan([1, 1, 1, 3], jobs=2) == 3 and makespan([2, 2, 2], jobs=2) == 4
    assert makespan([1, 2, 3], jobs=1) == 6 and makespan([], jobs=3) == 0 and makespan([5], jobs=3) == 5
