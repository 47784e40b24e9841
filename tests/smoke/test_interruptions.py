"""Kills, signals and another number of ranks in the middle of a run: the same global batches, the same weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import pydoc_data.topics
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bert import pretrain
from nlp_adan.errors import UserError
from nlp_adan.training.signals import RESUME_EXIT_CODE
from tests.distributed import launching

pytestmark = pytest.mark.slow
NUM_STEPS = 60


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little text, so that sixty steps are several epochs, and a cache that the module's runs share."""
    folder = tmp_path_factory.mktemp("text")
    for name in sorted(pydoc_data.topics.topics)[:25]:
        (folder / f"{name}.txt").write_text(pydoc_data.topics.topics[name][:3000], encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = str(tmp_path_factory.getbasetemp() / "interruptions_cache")
    monkeypatch.setenv("NLP_ADAN_CACHE", folder)
    return folder


def words(text: Path, run: Path, *more: str) -> list[str]:
    return [
        "--recipe", "tiny", "--data", str(text), "--vocab_size", "500", "--valid_fraction", "0.2",
        "--max_steps", str(NUM_STEPS), "--logging_steps", "1", "--save_steps", "7", "--hidden_size", "32",
        "--intermediate_size", "32", "--global_batch_size", "8", "--dropout", "0.1", "--disable_tqdm", "True",
        "--output_dir", str(run), *more,
    ]  # fmt: skip


def log_lines(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.fixture(scope="module")
def undisturbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sixty steps in one process, with dropout."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLP_ADAN_CACHE", str(tmp_path_factory.getbasetemp() / "interruptions_cache"))
        pretrain.main(words(text, run))
    return run


def check_equal(run: Path, undisturbed: Path) -> None:
    expected = safetensors.torch.load_file(undisturbed / "model.safetensors")
    found = safetensors.torch.load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for name in ("step", "loss", "grad_norm", "learning_rate", "epoch", "batch_hash"):
        assert [line[name] for line in log_lines(run)] == [line[name] for line in log_lines(undisturbed)], name


def wait_for_step(run: Path, step: int, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Return when the log has come to a step."""
    end = time.monotonic() + launching.TIMEOUT_SECONDS
    while not any(line["step"] >= step for line in log_lines(run)[-1:]):
        assert time.monotonic() < end, f"step {step} did not come within {launching.TIMEOUT_SECONDS} s"
        assert is_alive(), f"the run ended before step {step}"
        time.sleep(0.005)


def train(words: list[str], cache: str) -> None:
    """A process of its own; the libraries are imported already where it is forked from."""
    os.environ["NLP_ADAN_CACHE"] = cache
    pretrain.main(words)


def test_killed_five_times_at_random_moments(text: Path, undisturbed: Path, tmp_path: Path, cache: str) -> None:
    """SIGKILL, whatever the process is doing; among 60 steps of some 20 ms a checkpoint every 7."""
    run = tmp_path / "killed"
    chance = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for kill_at in sorted(chance.sample(range(2, NUM_STEPS - 3), 5)):
        process = context.Process(target=train, args=(words(text, run, "--resume", "auto"), cache))
        process.start()
        wait_for_step(run, kill_at, process.is_alive)
        time.sleep(chance.random() * 0.03)
        process.kill()
        process.join()
    assert not (run / "metrics.json").exists()
    pretrain.main(words(text, run, "--resume", "auto"))
    check_equal(run, undisturbed)
    starts = [json.loads(line)["step"] for line in (run / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 6 and starts[-1] > 0 and starts == sorted(starts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_says_resume_me(
    text: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "signalled"

    def send() -> None:
        wait_for_step(run, 10)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit) as left:
        pretrain.main(words(text, run))
    sender.join()
    assert left.value.code == RESUME_EXIT_CODE
    step = log_lines(run)[-1]["step"]
    assert 10 <= step < NUM_STEPS and (run / f"checkpoint-{step}").is_dir()
    assert f"stopped by {number.name} after step {step}, which is saved" in capsys.readouterr().out
    pretrain.main(words(text, run, "--resume", "auto"))
    check_equal(run, undisturbed)


def run_until_stopped(words: Sequence[str], run: Path) -> None:
    """Two ranks under torchrun, ended by SIGTERM to the launcher after ten steps."""
    process = subprocess.Popen(
        [*launching.TORCHRUN, "run_pretrain.py", "bert", *words], cwd=launching.PROJECT, text=True,
        env=launching.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for_step(run, 10, lambda: process.poll() is None)
    process.terminate()
    told, _ = process.communicate(timeout=launching.TIMEOUT_SECONDS)
    assert process.returncode != 0 and "stopped by SIGTERM after step" in told, told


@pytest.mark.distributed
def test_from_two_ranks_to_one(text: Path, tmp_path: Path) -> None:
    """Losses measured: within 1e-6 of one rank's (bar 1e-5); without dropout, which each rank draws for itself."""
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    without = ["--dropout", "0.0"]
    pretrain.main(words(text, whole, *without))
    run_until_stopped(words(text, moved, *without), moved)
    stopped_at = log_lines(moved)[-1]["step"]
    assert stopped_at < NUM_STEPS
    pretrain.main(words(text, moved, *without, "--resume", "auto"))
    expected, found = log_lines(whole), log_lines(moved)
    assert [line["batch_hash"] for line in found] == [line["batch_hash"] for line in expected]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-5)
    ranks = [json.loads(line)["world_size"] for line in (moved / "starts.jsonl").read_text().splitlines()]
    assert ranks == [2, 1]


def test_a_budget_of_seconds_goes_on_after_an_interruption(text: Path, tmp_path: Path) -> None:
    """Seven seconds in two starts: the rate rises from 0 and ends near 0, the time is the two starts' sum."""
    run, seconds = tmp_path / "budget", 7.2

    def send() -> None:
        wait_for_step(run, 5)
        os.kill(os.getpid(), signal.SIGUSR1)

    budget = [*words(text, run), "--max_hours", str(seconds / 3600), "--warmup_steps", "0.1"]
    place = budget.index("--max_steps")
    del budget[place : place + 2]
    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit):
        pretrain.main(budget)
    sender.join()
    first = log_lines(run)[-1]["trained_seconds"]
    pretrain.main([*budget, "--resume", "auto"])
    lines = log_lines(run)
    times, rates = [line["trained_seconds"] for line in lines], [line["learning_rate"] for line in lines]
    assert 0 < first < seconds and times == sorted(times)
    assert seconds - 2 < times[-1] < seconds + 2
    assert rates[0] < 0.2 * max(rates) and rates[-1] < 0.5 * max(rates)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["step"] == lines[-1]["step"] and metrics["trained_seconds"] == pytest.approx(times[-1], abs=2)


def test_a_run_killed_after_its_last_checkpoint_is_only_finished(text: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "ended"
    shutil.copytree(undisturbed, run, ignore=shutil.ignore_patterns("metrics.json"))
    (run / "model.safetensors").unlink()
    pretrain.main(words(text, run, "--resume", "auto"))
    check_equal(run, undisturbed)
    assert json.loads((run / "metrics.json").read_text())["step"] == NUM_STEPS


def test_a_signal_to_all_processes_finds_workers_at_their_work(text: Path, undisturbed: Path, tmp_path: Path) -> None:
    """As a terminal and a scheduler send it: to the run and to its loader's workers."""
    run = tmp_path / "group"
    given = words(text, run, "--dataloader_num_workers", "2")
    program = [sys.executable, "run_pretrain.py", "bert", *given]
    process = subprocess.Popen(program, cwd=launching.PROJECT, env=launching.environment(), start_new_session=True)
    wait_for_step(run, 10, lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(launching.TIMEOUT_SECONDS) == RESUME_EXIT_CODE
    pretrain.main([*given, "--resume", "auto"])
    check_equal(run, undisturbed)


def test_a_run_that_diverges_says_so_at_once(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"the run diverged: its loss at step \d+ is nan; .*--learning_rate \(now 1e\+30"
    ):
        pretrain.main(words(text, tmp_path / "run", "--learning_rate", "1e30"))


def test_epochs_end_within_the_run(text: Path, tmp_path: Path) -> None:
    """Logged, evaluated and saved at the end of each, and once at the run's own."""
    run = tmp_path / "epochs"
    given = words(text, run)
    for option, value in (("--max_steps", "2.5"), ("--logging_steps", "epoch"), ("--save_steps", "epoch")):
        place = given.index(option)
        given[place + 1] = value
        given[place] = {"--max_steps": "--num_train_epochs"}.get(option, option.replace("steps", "strategy"))
    pretrain.main([*given, "--eval_strategy", "epoch"])
    epochs = [line["epoch"] for line in log_lines(run)]
    assert len(epochs) == 3 and [int(epoch) for epoch in epochs] == [1, 2, 2]
    evaluations = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert evaluations == [line["step"] for line in log_lines(run)]
    assert {int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")} <= set(evaluations)


def test_epochs_say_how_many_steps_there_are(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "epochs"
    given = words(text, run)
    place = given.index("--max_steps")
    given[place : place + 2] = ["--num_train_epochs", "0.5"]
    pretrain.main(given)
    last = log_lines(run)[-1]
    assert 0.5 <= last["epoch"] < 0.5 + 8 / 100  # whole steps of eight blocks
