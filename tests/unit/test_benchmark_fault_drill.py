"""The fault drill without a training: what it draws, what it breaks, how it starts and ends ranks, its tables."""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import tokenizers
import torch

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.manifest import FileEntry, Manifest, verify
from nlp_adan.training.checkpoint.tensor_files import hash_and_sync

PROJECT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 600  # for a busy machine: it is a matter of seconds
FAULTS = ["kill", "flip", "truncate", "full_disk", "stale_lock", "term"]


@pytest.fixture
def drill(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("fault_drill", monkeypatch)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("fault_drill_rounds", monkeypatch)


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(os, "mkdir", os.mkdir)  # as it was, after the test
    return module("fault_drill_rank", monkeypatch)


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    return importlib.import_module(name)


def make_checkpoint(folder: Path, step: int = 4) -> Path:
    """A small checkpoint that verifies."""
    checkpoint = folder / f"checkpoint-{step}"
    for name in ("config.json", "model.safetensors", "optimizer/optimizer.json"):
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_text(f"{name}, {'x' * 40}")
    (checkpoint / "empty").touch()
    files: dict[str, FileEntry] = {
        path.relative_to(checkpoint).as_posix(): hash_and_sync(path) for path in checkpoint.rglob("*") if path.is_file()
    }
    Manifest(step, 2, 2, 8, "2026-01-01T00:00:00+00:00", {}, files).write(checkpoint)
    assert verify(checkpoint) == []
    return checkpoint


def test_every_fault_comes_as_often_at_every_stage(drill: ModuleType) -> None:
    plans = drill.plans(drill.parse(["--rounds", "48"]))
    counts = {(plan.fault, plan.stage): 0 for plan in plans}
    for plan in plans:
        counts[plan.fault, plan.stage] += 1
    assert counts == {(fault, stage): 4 for fault in FAULTS for stage in (2, 3)}
    assert plans == drill.plans(drill.parse(["--rounds", "48"]))
    assert plans[:12] == drill.plans(drill.parse([]))  # a round does not depend on how many there are
    assert plans != drill.plans(drill.parse(["--rounds", "48", "--seed", "1"]))
    again = drill.plans(drill.parse(["--rounds", "48"]), attempt=1)
    assert [plan.fault for plan in again] == [plan.fault for plan in plans] and again != plans


def test_half_of_the_kills_are_aimed_at_a_save(drill: ModuleType) -> None:
    plans = drill.plans(drill.parse(["--faults", "kill", "--rounds", "40"]))
    for stage in (2, 3):
        assert [plan.in_save for plan in plans if plan.stage == stage].count(True) == 10
    assert {plan.ranks for plan in plans} == {(0, 1), (0,), (1,)}
    assert min(plan.at_step for plan in plans) < 5 and max(plan.at_step for plan in plans) > 34


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("steps", [12, 40])
def test_faults_find_what_they_need(drill: ModuleType, rounds: ModuleType, fault: str, steps: int) -> None:
    assert steps >= drill.LEAST_STEPS
    for seed in range(200):
        plan = rounds.draw(fault, 2, steps, seed % 2 == 0, random.Random(seed))
        assert 0 <= plan.at_step <= steps and 0 <= plan.delay_seconds <= 0.1
        assert plan.in_save == (fault == "kill" and seed % 2 == 0)
        if fault in ("flip", "truncate"):
            assert plan.at_step >= 4 and plan.ranks == (0, 1)
        if fault == "full_disk":  # a regular save comes after those that fail
            assert plan.at_step % 2 == 0 and plan.at_step >= 2 and plan.at_step + 2 * plan.saves <= steps - 2


@pytest.mark.parametrize("fault", ["flip", "truncate"])
def test_damage_is_of_one_file_and_is_found(rounds: ModuleType, tmp_path: Path, fault: str) -> None:
    names = set()
    good = make_checkpoint(tmp_path)
    for seed in range(30):
        checkpoint = shutil.copytree(good, tmp_path / str(seed) / good.name)
        before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
        name, what = rounds.damage(checkpoint, fault, random.Random(seed))
        changed = [path for path, content in before.items() if path.read_bytes() != content]
        assert changed == [checkpoint / name] and name in what and "checkpoint-4" in what
        after = changed[0].read_bytes()
        if fault == "flip":
            assert sum(a != b for a, b in zip(before[changed[0]], after, strict=True)) == 1
        else:
            assert len(after) < len(before[changed[0]]) and before[changed[0]].startswith(after)
        assert [damage.file for damage in verify(checkpoint)] == [name]
        names.add(name)
    assert names == {"config.json", "model.safetensors", "optimizer/optimizer.json", "manifest.json"}


def test_a_full_disk_is_one_for_every_library(rank: ModuleType, tmp_path: Path) -> None:
    """Chosen files of chosen checkpoints, whoever makes the folder first, and nothing else."""
    rank.fill_disk([6], "optimizer/part.pt")
    chosen = tmp_path / ".checkpoint-6.partial"
    chosen.mkdir(parents=True)
    chosen.mkdir(exist_ok=True)
    with pytest.raises(FileExistsError):
        chosen.mkdir()
    path = chosen / "optimizer" / "part.pt"
    with pytest.raises(OSError, match="No space left"):
        path.write_bytes(b"1234")
    with pytest.raises(RuntimeError):
        torch.save({"state": torch.zeros(3)}, path)
    with pytest.raises(Exception, match="No space left"):
        tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(path))
    (chosen / "config.json").write_text("{}")
    other = tmp_path / ".checkpoint-8.partial" / "optimizer"
    other.mkdir(parents=True)
    (other / "part.pt").write_text("1234")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-6.partial", ".checkpoint-8.partial"]


def test_a_full_disk_without_room_for_a_folder(rank: ModuleType, tmp_path: Path) -> None:
    rank.fill_disk([6], "")
    with pytest.raises(OSError) as caught:
        (tmp_path / ".checkpoint-6.partial").mkdir()
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    (tmp_path / ".checkpoint-8.partial").mkdir()


def launched(code: str, log: Path, wait: bool = True) -> subprocess.Popen[str]:
    """A process that is the launcher of two ranks, each of which does what `code` says."""
    program = f"""
import os, signal, sys, time
sys.path.insert(0, "benchmarks")
import fault_drill_rank
def rank():
{textwrap.indent(textwrap.dedent(code), "    ")}
fault_drill_rank.launch(["bert"], {{"MASTER_PORT": "1"}}, {str(log)!r}, rank)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, text=True)
    if wait:
        process.wait(TIMEOUT_SECONDS)
    return process


def test_a_launch_forks_ranks_and_hands_on_their_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    good = launched('print(os.environ["RANK"], os.environ["WORLD_SIZE"], *sys.argv, flush=True)', log)
    assert good.returncode == 0
    assert sorted(log.read_text().splitlines()) == ["0 2 run_pretrain.py bert", "1 2 run_pretrain.py bert"]
    bad = launched(f'sys.exit(3) if os.environ["RANK"] == "1" else time.sleep({2 * TIMEOUT_SECONDS})', log)
    assert bad.returncode == 3  # the other rank was ended
    raised = launched('raise ValueError("so")', log)
    assert raised.returncode == 1 and "ValueError: so" in log.read_text()


def test_ranks_outlive_a_launch_that_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    starts = module("fault_drill_starts", monkeypatch)
    process = launched('print("here", flush=True); time.sleep(600)', tmp_path / "log", wait=False)
    with starts.Start(process.pid, process.poll, tmp_path / "log", is_two=False) as start:
        start.wait_until(lambda: start.output.count("here") == 2, "two ranks")
        ranks = start.ranks()
        assert [each.pid for each in ranks] == sorted(each.pid for each in ranks) and len(ranks) == 2
        with starts.suspended(ranks):
            assert {each.status() for each in ranks} == {"stopped"}
            (launcher,) = start.launchers()
            launcher.kill()
            assert start.wait() == -signal.SIGKILL
            assert {each.pid for each in start.members()} == {each.pid for each in ranks}
        with pytest.raises(starts.Missed):
            start.ranks()
    start.wait_until_gone()
    assert start.members() == []


def test_a_run_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = module("fault_drill_starts", monkeypatch).Run(tmp_path / "run")
    assert (run.step, run.is_saving, run.starts, run.finished) == (-1, False, [], False)
    run.folder.mkdir()
    (run.folder / ".lock").touch()
    assert run.step == 0
    lines = [{"step": step, "loss": 1.0, "batch_hash": "a", "seconds": 1} for step in (1, 2)]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3')
    (run.folder / "checkpoint-2").mkdir()
    assert run.step == 2 and run.log == [(1, 1.0, "a"), (2, 1.0, "a")] and not run.is_saving
    (run.folder / ".checkpoint-4.partial").mkdir()
    assert run.is_saving


def test_equal_is_to_the_bit(rounds: ModuleType, tmp_path: Path) -> None:
    def file(name: str, **tensors: Any) -> Path:
        safetensors.torch.save_file({key: torch.as_tensor(value) for key, value in tensors.items()}, tmp_path / name)
        return tmp_path / name

    one = file("one", a=[0.0, float("nan")], b=1)
    assert rounds.is_equal(one, file("same", b=1, a=[0.0, float("nan")]))
    for other in ({"a": [-0.0, float("nan")], "b": 1}, {"a": [0.0, float("nan")]}, {"a": [[0.0, float("nan")]], "b": 1},
                  {"a": [0.0, float("nan")], "b": 1.0}):  # fmt: skip
        assert not rounds.is_equal(one, file("other", **other))
    cut = tmp_path / "cut"
    cut.write_bytes(one.read_bytes()[:-1])
    assert not rounds.is_equal(one, cut) and not rounds.is_equal(one, tmp_path / "nowhere")


def outcomes(rounds: ModuleType) -> list[Any]:
    equal = {"survived": True, "bit_equal": True}
    return [
        rounds.Outcome(1, "kill", 2, "SIGKILL of rank 1 after step 7", True, **equal, lost_steps=1, seconds=3.0),
        rounds.Outcome(2, "term", 2, "SIGTERM to all ranks", **equal, lost_steps=0, seconds=2.0),
        rounds.Outcome(3, "kill", 2, "SIGKILL of all processes", **equal, lost_steps=4, seconds=5.0),
        rounds.Outcome(4, "term", 2, "SIGTERM to rank 0", wrong="ended with exit code 1 instead of 75", seconds=1.0),
    ]


def test_figures_and_report(drill: ModuleType, rounds: ModuleType) -> None:
    result = drill.figures(outcomes(rounds))
    assert result["headline"] == result["survived"] == 0.75 and result["in_save"] == 1
    assert list(result["rows"]) == ["kill, ZeRO-2", "term, ZeRO-2"]
    assert result["rows"]["kill, ZeRO-2"] == {
        "rounds": 2, "in_save": 1, "survived": 2, "bit_equal": 2, "lost_steps_median": 2.5, "lost_steps_max": 4,
        "seconds_median": 4.0,
    }  # fmt: skip
    packages = {"torch": "2", "deepspeed": "0"}
    result["machine"] = {"packages": packages, "num_cpu_cores": 2, "cpu": "some"}
    printed = drill.report(result, drill.parse([])).splitlines()
    assert printed[0].startswith("3 of 4 disturbed trainings went on by themselves, 3 ended with the bits")
    assert "| kill | ZeRO-2 | 2 | 1 | 2 | 2 | 2.5 | 4 | 4.0 |" in printed
    assert "| term | ZeRO-2 | 2 | 0 | 1 | 1 | 0 | 0 | 1.5 |" in printed
    assert printed[-1].startswith("round 4, term, ZeRO-2 (SIGTERM to rank 0) ended with exit code 1 instead of 75; its")


def test_a_fault_that_comes_too_late_is_planned_again(
    drill: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[Any] = []

    def run_round(number: int, plan: Any, trainings: Any, run: Any) -> Any:
        run.folder.mkdir()
        tried.append(plan)
        if len(tried) < 3:
            raise drill.Missed
        return "done"

    monkeypatch.setattr(drill, "run_round", run_round)
    drawn = [drill.plans(drill.parse(["--rounds", "1"]), attempt)[0] for attempt in range(drill.ATTEMPTS)]
    run = SimpleNamespace(folder=tmp_path / "run")
    assert drill.disturb(1, drawn, None, run) == "done" and tried == drawn[:3]
    tried.clear()
    (tmp_path / "run").rmdir()
    given_up = drill.disturb(1, drawn[:2], None, run)
    assert not given_up.survived and "when the run was finished" in given_up.wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--faults", "kill,filp"], r"--faults: 'filp' is none of .*did you mean 'flip'"),
        (["--faults", "kill,kill"], "names one twice"),
        (["--stages", "0"], "--stages: '0' is none of 1, 2, 3"),
        (["--rounds", "0"], "--rounds must be 1 or more, got 0"),
        (["--steps", "6"], "--steps must be 12 or more, got 6"),
        (["--steps", "13"], "--steps must be a multiple of 2, got 13"),
    ],
)
def test_mistakes(drill: ModuleType, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        drill.parse(words)


def test_a_mistake_ends_with_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr("sys.argv", ["fault_drill.py", "--faults", "flood"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(PROJECT / "benchmarks" / "fault_drill.py"), run_name="__main__")
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.count("\n") == 1 and "'flood' is none of kill, flip" in told
