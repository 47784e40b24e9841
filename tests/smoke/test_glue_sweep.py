"""Sweeps that are killed, interrupted, or lose a run: what is finished stays, and the report is what it would be."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import glue_eval.__main__
import glue_eval.sweep
from glue_eval import PRELOAD
from nlp_adan.training.signals import RESUME_EXIT_CODE
from tests.run_sets import fresh_server, results, start, wait_for
from tests.tiny_glue import tiny_bert, write_glue

pytestmark = pytest.mark.slow
NUM_KILLS = 10
NUM_RUNS = 6
TASKS = "CoLA,RTE,STS-B"
KILLED_STEPS = 100  # of a run that is killed in between: 4.2 s of a core's time, its first step ends at 0.6
KILLED_AFTER = 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a BERT of two layers, GLUE files of some dozen examples, and a cache."""
    folder = tmp_path_factory.mktemp("sweeps")
    tiny_bert(folder / "model", hidden_size=32, num_hidden_layers=2)
    write_glue(folder / "glue", *TASKS.split(","))
    fresh_server((*PRELOAD, __name__))
    return folder


@pytest.fixture(autouse=True)
def surroundings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(folder / "cache"))


def words(folder: Path, out: str, *more: str, steps: Sequence[str] = ("--max_steps", "3")) -> list[str]:
    return [
        "--model", str(folder / "model"), "--data", str(folder / "glue"), "--tasks", TASKS, "--allow_partial", "True",
        "--seeds", "2", "--jobs", "2", *steps, "--output_dir", str(folder / out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """A sweep that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLP_ADAN_CACHE", str(folder / "cache"))
        glue_eval.__main__.main(words(folder, "undisturbed"))
    return folder / "undisturbed"


def without_timing(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_timing(item) for name, item in value.items() if name not in ("timing", "environment")}
    return [without_timing(item) for item in value] if isinstance(value, list) else value


def test_killed_ten_times_at_random_moments(folder: Path, undisturbed: Path) -> None:
    """SIGKILL, whatever the sweep is doing: planning, training, or writing the report."""
    out, chance = folder / "killed", random.Random(0)
    seen: dict[Path, int] = {}
    num_done_at = sorted(chance.choices(range(NUM_RUNS), k=NUM_KILLS - 1))
    for num_done in [*num_done_at, NUM_RUNS]:
        process = start(glue_eval.__main__.command, words(folder, "killed"), folder / "cache")
        wait_for(num_done, out, process)
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.join()
        assert seen.items() <= results(out).items()
        seen = results(out)
    glue_eval.__main__.main(words(folder, "killed"))
    assert len(seen) == NUM_RUNS and results(out) == seen
    expected, found = (json.loads((each / "report.json").read_text()) for each in (undisturbed, out))
    assert without_timing(found) == without_timing(expected) and len(found["runs"]) == NUM_RUNS
    command = ["python", "-m", "glue_eval", *words(folder, "killed")]  # for who wants to do it again
    assert found["environment"]["command"] == shlex.join(command)
    files = sorted(path.relative_to(undisturbed) for path in undisturbed.glob("*/*/predictions/*"))
    assert len(files) == 2 * NUM_RUNS
    assert all((out / file).read_bytes() == (undisturbed / file).read_bytes() for file in files)


def test_interrupted_from_the_terminal(folder: Path, undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = folder / "interrupted"
    process = start(glue_eval.__main__.command, words(folder, "interrupted"), folder / "cache")
    wait_for(1, out, process)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == RESUME_EXIT_CODE
    kept = results(out)
    assert kept and len(kept) < NUM_RUNS and not (out / "report.json").exists()
    glue_eval.__main__.main(words(folder, "interrupted"))
    assert kept.items() <= results(out).items() and len(results(out)) == NUM_RUNS
    assert not list(out.glob("*/*/failed.json"))


def test_a_run_that_fails_is_alone_in_it(folder: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told, reported, and tried again by the next call, which keeps the others."""
    out = shutil.copytree(undisturbed, folder / "failing")
    (run,) = out.glob("RTE/seed-1-*")
    (run / "result.json").unlink()
    shutil.rmtree(run / "predictions")
    (run / "predictions").touch()  # a file where a folder is to be
    others = results(out)
    for attempt in (1, 2):
        with pytest.raises(SystemExit) as left:
            glue_eval.__main__.main(words(folder, "failing"))
        assert left.value.code == 1
        told = capsys.readouterr()
        assert "RTE seed 1 FAILED: FileExistsError" in told.out and "error: RTE seed 1: FileExistsError" in told.err
        assert results(out) == others and len(others) == NUM_RUNS - 1
        assert json.loads((run / "failed.json").read_text())["attempts"] == attempt
        assert "FileExistsError" in (out / "report.md").read_text()


def holder(lock: Path) -> int:
    """The process that a lock's file names; 0 where it names none yet."""
    return int((lock.read_text().split() or ["", "0"])[1])


def cpu_seconds(pid: int) -> float:
    """What a process has used: on a busy machine it comes later, but at the same place of the program."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_that_is_killed_while_it_trains(folder: Path) -> None:
    """As by a system that has no memory left: the sweep goes on without it, and the next call repeats it alone."""
    out = folder / "worker"
    (folder / "steps.yaml").write_text(f"tasks: {{RTE: {{max_steps: {KILLED_STEPS}}}, CoLA: {{max_steps: 3}}}}")
    steps = ("--config", str(folder / "steps.yaml"))
    given = words(folder, "worker", "--tasks", "RTE,CoLA", "--seeds", "1", "--jobs", "1", steps=steps)
    process = start(glue_eval.__main__.command, given, folder / "cache")
    until = time.monotonic() + 300
    while not (locks := list(out.glob("RTE/seed-1-*/.lock"))) or cpu_seconds(holder(locks[0])) < KILLED_AFTER:
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.002)
    run = locks[0].parent
    os.kill(holder(locks[0]), signal.SIGKILL)
    process.join(300)
    assert process.exitcode == 1 and not (run / "result.json").exists()
    others = results(out)
    assert len(others) == 1  # which began after it
    assert json.loads((run / "failed.json").read_text())["error"].startswith("ended by SIGKILL")
    found = json.loads((out / "report.json").read_text())
    assert [(each["task"], each["seed"]) for each in found["failures"]] == [("RTE", 1)] and len(found["runs"]) == 1
    assert "failed runs: RTE" in found["summary"] and "ended by SIGKILL" in (out / "report.md").read_text()
    glue_eval.__main__.main(given)
    assert others.items() <= results(out).items() and len(results(out)) == 2
    assert not (run / "failed.json").exists()
    assert json.loads((out / "report.json").read_text())["failures"] == []
