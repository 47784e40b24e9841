"""What a run of a race leaves behind, read from its logs: losses, times, and what is not known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.race.report import write_race_report
from nlp_adan.race.results import Point, RunResult, Settings
from nlp_adan.race.run import result_of
from nlp_adan.training.run_folder import RunFolder
from tests.unit.race_runs import race_of

LOSS = "eval_loss"


def read(
    folder: Path, log: list[dict[str, Any]], evaluations: list[tuple[int, float]], steps: int | None, diverged: str = ""
) -> RunResult:
    """The result of a run with these logs, as it is read back; steps: None for one that has no end."""
    run = RunFolder(folder)
    for line in log:
        run.append("log.jsonl", {"loss": 5.0, **line})
    for step, loss in evaluations:
        run.append("eval.jsonl", {"step": step, LOSS: loss})
    if steps is not None:
        run.finish({"step": steps, LOSS: evaluations[-1][1], "trained_tokens": 64 * steps, "optimizer_state_bytes": 8})
    result = result_of(
        run, loss_name=LOSS, batch_size=4, diverged=diverged, entrant="adan", settings=Settings("", 1e-3, 0.0), seed=1,
        command=(),
    )  # fmt: skip
    return RunResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))


def test_losses_and_times_of_a_run(tmp_path: Path) -> None:
    log = [{"step": 10, "step_seconds": 0.3}, {"step": 20, "step_seconds": 0.1}]
    found = read(tmp_path, log, [(15, 6.0), (20, 5.5)], steps=20)
    assert (found.loss, found.steps, found.tokens, found.state_bytes) == (5.5, 20, 1280, 8)
    assert (found.seconds, found.step_seconds) == pytest.approx((4.0, 0.2))
    assert found.curve == (Point(15, 3.5, 6.0), Point(20, 4.0, 5.5))


def test_steps_after_the_last_log_line_took_time_too(tmp_path: Path) -> None:
    """Budgets of hours end at any step."""
    log = [{"step": 10, "step_seconds": 0.5}, {"step": 20, "step_seconds": 0.1}, {"step": 30, "step_seconds": 0.1}]
    found = read(tmp_path, log, [(20, 6.0), (38, 5.5)], steps=38)
    assert found.seconds == pytest.approx(7.0 + 8 * 0.1) and found.step_seconds == pytest.approx(0.1)
    assert [point.seconds for point in found.curve] == pytest.approx([6.0, 7.8])


def test_an_evaluation_that_a_resumed_run_repeats_counts_once(tmp_path: Path) -> None:
    log = [{"step": 20, "step_seconds": 0.1}]
    found = read(tmp_path, log, [(10, 6.0), (20, 5.5), (20, 5.5)], steps=20)
    assert [(point.step, point.loss) for point in found.curve] == [(10, 6.0), (20, 5.5)]


def test_a_run_that_diverged_before_its_first_log_line_is_compared_and_reported(tmp_path: Path) -> None:
    lost = read(tmp_path / "run", [], [], steps=None, diverged="loss at step 10 is nan")
    assert lost.loss == math.inf and lost.steps == 0 and math.isnan(lost.step_seconds)
    found = write_race_report(tmp_path / "report", race_of({"adamw": [6.0, 6.1, 6.2], "adan": [lost, 6.1, 6.2]}))
    assert found.claims == {"adan": "worse"} and found.comparisons[0].step_time is None


def test_a_run_without_times_is_reported_without_them(tmp_path: Path) -> None:
    runs = [read(tmp_path / str(seed), [], [(20, 6.0 + seed)], steps=20) for seed in (1, 2)]
    write_race_report(tmp_path / "report", race_of({"adan": runs, "adamw": [6.0, 6.1]}))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "nan" not in text and "None" not in text
