"""Checkpoints of a run while it trains: what is in them, what a slow disk or a full one does to the training."""

from __future__ import annotations

import errno
import functools
import json
import os
import pydoc_data.topics
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerState, modeling_utils

from benchmarks.fault_drill_rank import fill_disk
from bert import pretrain
from bert.pretrain import MaskedLMPretraining
from nlp_adan.errors import UserError
from nlp_adan.training import saving
from nlp_adan.training.checkpoint.manifest import Manifest, verify
from nlp_adan.training.checkpoint.writer import CheckpointWriter
from nlp_adan.training.signals import RESUME_EXIT_CODE, exits_to_be_resumed

pytestmark = pytest.mark.slow


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Eight steps of a tiny BERT into a folder of this name, with other options behind."""
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)[:8]))

    def run(name: str, *more: str) -> Path:
        pretrain.main([
            "--recipe", "tiny", "--data", str(text), "--vocab_size", "500", "--hidden_size", "32", "--dropout", "0.1",
            "--intermediate_size", "32", "--global_batch_size", "8", "--max_steps", "8", "--save_steps", "2",
            "--save_total_limit", "9", "--logging_steps", "1", "--output_dir", str(tmp_path / name), *more,
        ])  # fmt: skip
        return tmp_path / name

    return run


def writing_with(monkeypatch: pytest.MonkeyPatch, write: Callable[[int, memoryview], int]) -> None:
    monkeypatch.setattr(saving, "CheckpointWriter", functools.partial(CheckpointWriter, write=write))


def states(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint has in safetensors files."""
    return {
        f"{path.relative_to(checkpoint)}:{name}": tensor
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_a_slow_disk_writes_the_step_that_was_saved(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file takes longer than a step; its content is that of its own step all the same."""

    def slow(descriptor: int, data: memoryview) -> int:
        time.sleep(0.05)
        return os.write(descriptor, data)

    quick = train("quick")
    writing_with(monkeypatch, slow)
    found = train("slow")
    for step in (2, 4, 6, 8):
        expected = states(quick / f"checkpoint-{step}")
        written = states(found / f"checkpoint-{step}")
        assert expected.keys() == written.keys() and len(expected) > 20
        assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    earlier, later = (states(found / f"checkpoint-{step}") for step in (2, 4))
    assert sum(not torch.equal(earlier[name], tensor) for name, tensor in later.items()) > 20  # it could have failed


def test_what_is_in_a_checkpoint(train: Callable[..., Path]) -> None:
    checkpoint = train("run") / "checkpoint-8"
    names = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    assert names == {
        "manifest.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "trainer_state.json", "scheduler.pt", "rng_state.pth", "optimizer/optimizer.json",
        "optimizer/part-00000-of-00001.safetensors",
    }  # fmt: skip
    manifest = Manifest.read(checkpoint)
    assert (manifest.step, manifest.world_size, manifest.zero_stage, manifest.sequences_per_step) == (8, 1, None, 8)
    assert names - {"manifest.json"} == set(manifest.files) and manifest.versions["torch"] == torch.__version__
    assert not verify(checkpoint)
    assert not (checkpoint.parent / "training_args.bin").exists()  # a pickle that nothing needs
    assert callable(modeling_utils.safe_save_file)  # what `save_pretrained` writes with, and `_deferred_weights` takes


def test_a_full_disk_does_not_end_the_training(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = states(train("roomy") / "checkpoint-8")
    failing = [True] * 3

    def full(descriptor: int, data: memoryview) -> int:
        if failing:
            failing.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)

    writing_with(monkeypatch, full)
    monkeypatch.setattr(saving, "RETRY_SECONDS", 0.0)
    run = train("full", "--save_steps", "4")
    told = capsys.readouterr().out
    assert told.count("WARNING: the checkpoint of step") == 3 and "No space left on device" in told
    assert "the training goes on" in told and "are free" in told
    steps = sorted(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
    # Of step 4 it fails, and as often as it is tried again; then one is written before the next regular one.
    assert steps[-1] == 8 and 4 not in steps and len(steps) == 2
    assert not list(run.glob(".checkpoint-*"))
    found = states(run / "checkpoint-8")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_that_is_stopped_and_cannot_save_says_so(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def ask_to_stop(self: object, *args: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    writing_with(monkeypatch, denied)
    monkeypatch.setattr(pretrain.RunLog, "on_step_end", ask_to_stop, raising=False)
    told = r"stopped by SIGTERM after step 1, but the checkpoint .*Permission denied.*`--resume auto`"
    with pytest.raises(UserError, match=told):
        train("denied", "--save_strategy", "no")


def test_a_second_signal_does_not_cut_the_last_checkpoint_off(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher and a scheduler may both ask; the checkpoint takes longer than the time between the two."""

    def slow(descriptor: int, data: memoryview) -> int:
        time.sleep(0.15)
        return os.write(descriptor, data)

    def ask_to_stop(*args: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    writing_with(monkeypatch, slow)
    monkeypatch.setattr(pretrain.RunLog, "on_step_end", ask_to_stop, raising=False)
    with pytest.raises(SystemExit) as left, exits_to_be_resumed("the same command"):
        train("asked", "--save_strategy", "no")
    assert left.value.code == RESUME_EXIT_CODE
    time.sleep(0.5)
    assert [path.name for path in (tmp_path / "asked").glob("*checkpoint-*")] == ["checkpoint-1"]
    assert not verify(tmp_path / "asked" / "checkpoint-1")


# The figures of an evaluation that measures nothing.
FINAL = dict.fromkeys(
    ("eval_mlm_loss", "eval_unigram_cross_entropy", "eval_top5_accuracy", "eval_five_commonest_accuracy"), 1.0
)
BEST = [
    "--load_best_model_at_end", "True", "--metric_for_best_model", "eval_mlm_loss", "--eval_strategy", "steps",
    "--eval_steps", "1", "--save_steps", "1", "--learning_rate", "2", "--warmup_steps", "6",
]  # fmt: skip


def test_a_stopped_run_keeps_its_last_checkpoint_where_an_earlier_one_is_the_best(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one: the Trainer would delete the last, which a start is to go on from."""

    def ask_to_stop(self: object, args: object, state: TrainerState, *more: object, **options: object) -> None:
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(pretrain.RunLog, "on_step_end", ask_to_stop, raising=False)
    with pytest.raises(SystemExit) as left:
        train("stopped", *BEST, "--save_total_limit", "1")
    assert left.value.code == RESUME_EXIT_CODE
    losses = {}
    for line in map(json.loads, (tmp_path / "stopped" / "eval.jsonl").read_text().splitlines()):
        losses[line["step"]] = line["eval_mlm_loss"]
    best = min(losses, key=lambda step: losses[step])
    assert best < 4 and {path.name for path in (tmp_path / "stopped").glob("checkpoint-*")} == {
        f"checkpoint-{best}", "checkpoint-4",
    }  # fmt: skip


def test_a_save_that_fails_does_not_take_the_best_model_away(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 is the best one and is saved; the last steps find no room."""
    monkeypatch.setattr(os, "mkdir", os.mkdir)  # as it was, afterwards
    fill_disk([3, 4], "")
    run = train("best", *BEST, "--max_steps", "4")
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert json.loads((run / "metrics.json").read_text())["step"] == 1
    kept, found = (load_file(folder / "model.safetensors") for folder in (run / "checkpoint-1", run))
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())


def test_the_best_is_the_best_of_those_that_were_saved(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best one of all, step 3, finds no room; step 4 is better than steps 1 and 2."""
    losses = {1: 5.0, 2: 6.0, 3: 1.0, 4: 4.0}

    def measured(self: Trainer, *args: Any, **options: Any) -> dict[str, float]:
        found = {"eval_mlm_loss": losses[self.state.global_step], "eval_loss": 0.0}
        self.log(dict(found))
        return found

    monkeypatch.setattr(os, "mkdir", os.mkdir)
    fill_disk([3], "")
    monkeypatch.setattr(Trainer, "evaluate", measured)
    monkeypatch.setattr(MaskedLMPretraining, "final_metrics", lambda *_: FINAL)
    run = train("best", *BEST, "--max_steps", "4")
    assert json.loads((run / "metrics.json").read_text())["step"] == 4
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    assert (state["best_global_step"], state["best_metric"]) == (4, 4.0)


def test_its_state_says_how_far_it_is(train: Callable[..., Path]) -> None:
    state = json.loads((train("run") / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["global_step"] == 6 and state["stateful_callbacks"]["RunControl"]["attributes"]["trained_seconds"] > 0
