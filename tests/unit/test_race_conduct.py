"""A race's course where its runs are made up: what breaks, budgets of hours, a command that changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.race import conduct
from nlp_adan.race.conduct import RunsFailed, Setup, conduct_race, race_and_report
from nlp_adan.race.results import RunResult, Search, Settings
from nlp_adan.runs import Run
from nlp_adan.training.recipe import word_value
from tests.unit.race_runs import diverged, run_of
from tests.unit.test_race_setup import cache, folder, prepared

__all__ = ["cache", "folder"]


def made_up(run: Run) -> RunResult:
    """Half as many steps with batches of twice the size; the loss of a seed is the same for all."""
    settings, words = run.arguments["settings"], run.arguments["words"]
    size, seed = int(word_value("--global_batch_size", words) or 16), int(word_value("--seed", words) or 0)
    found = run_of(run.arguments["entrant"], seed, 6.0 + 0.01 * seed, steps=6400 // size)
    return dataclasses.replace(found, settings=settings, batch_size=size, command=tuple(words))


def breaks_at(size: str, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Have runs of a batch size break, and all others end at once; the runs that were asked for."""
    asked: list[Run] = []

    def do(setup: Setup, runs: Sequence[Run]) -> list[RunResult]:
        asked.extend(runs)
        failures = [f"{run.name}: out of memory" for run in runs if f"batch {size}," in run.name]
        if failures:
            raise RunsFailed(failures)
        return [made_up(run) for run in runs]

    monkeypatch.setattr(conduct, "_do", do)
    return asked


def test_a_batch_size_that_breaks_leaves_the_rest_of_the_race(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks_at("64", monkeypatch)
    setup = prepared(folder, "--budget", "steps:400", "--lr", "1e-3", "--batch_sizes", "32,64,128", "--output_dir",
                     str(tmp_path / "out"))  # fmt: skip
    assert race_and_report(setup) == 6  # three rates of both, of one seed
    told = capsys.readouterr()
    assert "batch 64, seed 0" in told.err and "the same command tries these runs again" in told.err
    assert "report: " in told.out
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Failed runs" in text and "out of memory" in text and "## Final runs" in text
    race = conduct_race(setup)
    assert all(sorted(sizes) == [32, 128] for sizes in race.batches.values()) and len(race.failures) == 6
    only = dataclasses.replace(setup, sizes=[64])
    assert not conduct_race(only).batches and race_and_report(only) == 6


def test_broken_final_runs_leave_no_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks_at("16", monkeypatch)
    setup = prepared(folder, "--budget", "steps:400", "--lr", "1e-3", "--output_dir", str(tmp_path / "out"))
    assert race_and_report(setup) == 6 and not (tmp_path / "out" / "report.md").exists()


def searched(*runs: tuple[float, int, bool]) -> Search:
    """Of (rate, steps, whether it diverged), the first of which was chosen."""
    longer = []
    for rate, steps, is_lost in runs:
        run = run_of("adan", 0, 6.0, steps=steps, settings=Settings("", rate, 0.0))
        longer.append(diverged(run) if is_lost else run)
    return Search((), tuple(longer), longer[0].settings, False)


def test_evaluations_in_hours_go_by_the_steps_of_the_run_that_was_chosen(folder: Path) -> None:
    setup = prepared(folder, "--budget", "hours:1", "--evaluations", "10")
    assert conduct._eval_steps(setup, searched((1e-3, 500, False), (4e-3, 30, True))) == 100
    assert conduct._eval_steps(setup, searched((1e-3, 500, False), (4e-3, 30, True)), 64) == 25
    assert conduct._eval_steps(setup, searched((1e-3, 30, True))) is None
    steps = prepared(folder, "--budget", "steps:400")
    assert conduct._eval_steps(steps, searched((1e-3, 500, False))) is None


def test_evaluations_in_hours_of_a_rate_that_was_not_searched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's, which knows how long it takes: 100 steps of a large model's day would be thousands of them."""
    asked = breaks_at("none", monkeypatch)
    out = ["--output_dir", str(tmp_path / "out")]
    race = conduct_race(prepared(folder, "--budget", "hours:1", "--lr", "1e-3", "--batch_sizes", "32", *out))
    finals = [run.arguments["words"] for run in asked if "batch 16," in run.name]
    assert {word_value("--eval_steps", words) for words in finals} == {"300"}
    assert {word_value("--max_hours", words) for words in finals} == {"1"}
    told: Any = conduct.write_race_report(tmp_path / "report", race)
    assert told and "Every run has the same hours, whatever its batch." in (tmp_path / "report/report.md").read_text()


def test_a_command_that_changed_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks_at("none", monkeypatch)

    def told(*words: str) -> str:
        conduct_race(prepared(folder, "--lr", "1e-3", "--output_dir", str(tmp_path), *words))
        return capsys.readouterr().out

    assert told("--budget", "steps:400") == "" and told("--budget", "steps:400", "--jobs", "2", "--seeds", "4") == ""
    changed = told("--budget", "steps:500", "--max_grad_norm", "1")
    assert "budget: steps:400 before, steps:500 now" in changed and "--max_grad_norm 1 now" in changed
    assert "code" not in changed and told("--budget", "steps:500", "--max_grad_norm", "1") == ""
    monkeypatch.setattr("nlp_adan.race.planning.code_sha256", lambda *modules: "other")
    assert "the code or a library changed" in told("--budget", "steps:500", "--max_grad_norm", "1")
    (tmp_path / "race.json").write_text('{"budget": "ste')  # as another program may leave it
    assert told("--budget", "steps:500") == ""
