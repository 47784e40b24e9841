"""The scaling benchmark without its runs: exponents, formulas, plots, the corpus that it generates, its options."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from benchmarks import scaling, scaling_runs
from bert.costs import masked_lm_costs
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import Devices, Workload, make_plan

LINEAR = [{"x": 10.0, "seconds": 3.0}, {"x": 100.0, "seconds": 12.0}, {"x": 1000.0, "seconds": 102.0}]
RESUMES = [{"x": 10, "seconds": 5.0, "start_seconds": 4.0, "state_bytes": 1000},
           {"x": 1000, "seconds": 5.0, "start_seconds": 4.0, "state_bytes": 1000}]  # fmt: skip


def test_exponents() -> None:
    assert scaling.exponents([{"w": 1, "c": 5}, {"w": 10, "c": 5}, {"w": 20, "c": 20}], "w", "c") == [0, 2]
    ranks = [{"x": 1, "seconds": 8.0}, {"x": 2, "seconds": 4.0}, {"x": 4, "seconds": 4.0}]
    assert scaling.judge("ranks", ranks) == {"rank-seconds a step": 1}


@pytest.mark.parametrize(("growth", "told"), [(1, "nothing grows worse"), (100, "SOMETHING GROWS worse")])
def test_what_grows_worse_than_linearly_is_told_first(growth: float, told: str) -> None:
    rows = [RESUMES[0], {**RESUMES[1], "seconds": 5.0 * growth**2}]
    text = scaling.report({"resume": {"rows": rows}}, "a machine")
    assert text.startswith(told)
    assert ("resuming: grows with the power 2.00 (at most 1.1): EXCEEDED" in text) is (growth > 1)
    assert "| NVIDIA H100 80GB HBM3 | 64 |" in text


def test_the_formulas_go_through_what_was_measured() -> None:
    assert [scaling._by_megabytes(LINEAR, row["x"]) for row in LINEAR] == [3.0, 12.0, 102.0]
    assert scaling._by_megabytes(LINEAR, 1e6) == pytest.approx(100_002)
    assert scaling._constant(RESUMES, 1e6) == 5.0


def test_ranks_and_models_follow_the_plan() -> None:
    def seconds(ranks: int, layers: int) -> tuple[float, dict[str, Any]]:
        config = AutoConfig.for_model(
            "roberta", num_hidden_layers=layers, hidden_size=64, num_attention_heads=1, intermediate_size=256
        )
        plan = make_plan(
            masked_lm_costs(config, 128, 0.15), Workload(128, 8, 64, max_steps=1), Devices(ranks, flops_per_second=1e9)
        )
        assert plan.hours is not None
        spent = plan.hours * 3600
        return spent, {"x": plan.num_parameters, "flops_per_step": plan.flops_per_step, "seconds": spent}

    one = [{"x": 1, "seconds": seconds(1, 2)[0]}]
    assert scaling._by_ranks(one, 8) == pytest.approx(seconds(8, 2)[0])
    small, large = seconds(1, 2)[1], seconds(1, 4)[1]
    assert scaling._by_parameters([small, large], small["x"]) == pytest.approx(small["seconds"])


def test_a_plot_has_points_and_formula() -> None:
    svg = scaling.plot("corpus", LINEAR)
    assert svg.startswith("<svg") and "measured" in svg and "formula" in svg and "MB of text" in svg


def test_a_corpus_repeats_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "documents.jsonl"
    source.write_text("".join(json.dumps({"text": f"first {i}\nsecond {i}"}) + "\n" for i in range(100)))
    monkeypatch.setattr(scaling_runs, "builtin_corpus_file", lambda: source)
    scaling_runs.write_corpus(tmp_path / "text.jsonl", 0.05)
    lines = (tmp_path / "text.jsonl").read_text().splitlines()
    assert 50_000 <= (tmp_path / "text.jsonl").stat().st_size < 52_000
    assert len({json.loads(line)["text"] for line in lines}) == len(lines) > 30


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(UserError, match=r"-c print\('so'\); raise SystemExit\(3\) failed:\nso"):
        scaling_runs.run([sys.executable, "-c", "print('so'); raise SystemExit(3)"], 1)
    done = scaling_runs.run([sys.executable, "-c", "import time; time.sleep(60)"], 1, until=lambda: True)
    assert done.seconds < 30


@pytest.mark.parametrize("text", ["1", "2,2", "1,b"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        scaling.numbers(int)(text)
    assert scaling.numbers(scaling.shape)("4x256,2x128") == [(2, 128), (4, 256)]
