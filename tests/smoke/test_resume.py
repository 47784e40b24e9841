"""A run that was interrupted goes on where it was, and ends with the same weights."""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bert import pretrain
from nlp_adan.errors import UserError

pytestmark = pytest.mark.slow


def words(text: Path, run: Path) -> list[str]:
    return [
        "--recipe", "tiny", "--data", str(text), "--vocab_size", "500", "--valid_fraction", "0.3", "--max_steps", "12",
        "--logging_steps", "1", "--save_steps", "9", "--hidden_size", "32", "--intermediate_size", "32",
        "--global_batch_size", "8", "--dropout", "0.1", "--output_dir", str(run),
    ]  # fmt: skip


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Little text, so that twelve steps are several epochs."""
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "text"
    folder.mkdir()
    for name in sorted(pydoc_data.topics.topics)[:12]:
        (folder / f"{name}.txt").write_text(pydoc_data.topics.topics[name][:1500], encoding="utf-8")
    return folder


def test_resumed_within_an_epoch_equals_uninterrupted(text: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pretrain.main(words(text, whole))
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert 1 < log[8]["epoch"] < 1.9  # step 9 lies within the second epoch

    # What a kill after step 10 leaves: no final files, a later log line, a checkpoint that was being written.
    shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("metrics.json"))
    (killed / "model.safetensors").unlink()
    (killed / "checkpoint-12").rename(killed / ".checkpoint-12.partial")
    with pytest.raises(UserError, match="add `--resume auto`"):
        pretrain.main(words(text, killed))
    moved = shutil.copytree(text, tmp_path / "moved")  # the same data at another place, saved and evaluated more often
    watched = ["--save_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"]
    pretrain.main([*words(moved, killed), *watched, "--resume", "auto"])
    assert {path.name for path in killed.glob("checkpoint-*")} == {"checkpoint-11", "checkpoint-12"}

    expected = safetensors.torch.load_file(whole / "model.safetensors")
    found = safetensors.torch.load_file(killed / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    resumed = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in log]


@pytest.fixture
def run(text: Path, tmp_path: Path) -> Path:
    """Four steps, a checkpoint after each second."""
    run = tmp_path / "run"
    pretrain.main([*words(text, run), "--max_steps", "4", "--save_steps", "2"])
    return run


def test_other_data_is_refused(text: Path, run: Path, tmp_path: Path) -> None:
    given = [*words(text, run), "--max_steps", "4"]
    (text / "more.txt").write_text("Another document has come since the run began. " * 30)
    other = shutil.copytree(text, tmp_path / "other")
    with pytest.raises(UserError, match="the data or the tokenizer changed"):  # of a finished run, too
        pretrain.main([*given, "--data", str(other), "--resume", "auto"])
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match="the data or the tokenizer changed"):
        pretrain.main([*given, "--resume", "auto"])
    new = tmp_path / "new"
    with pytest.raises(UserError, match=r"the data or the tokenizer changed since '.*/run' began"):
        pretrain.main([*given, "--output_dir", str(new), "--resume", str(run / "checkpoint-2")])
    (run / "data.json").unlink()
    with pytest.raises(UserError, match=r"no data.json in '.*/run' says on which data checkpoint-2 was trained"):
        pretrain.main([*given, "--output_dir", str(new), "--resume", str(run / "checkpoint-2")])
    assert not new.exists()


def test_from_a_named_checkpoint_into_a_new_folder(text: Path, run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    given = [*words(text, new), "--max_steps", "4", "--resume", str(run / "checkpoint-2")]
    with pytest.raises(UserError, match=r"is of another run \(hidden_size: 32 there, 64 here\)"):
        pretrain.main([*given, "--hidden_size", "64"])
    pretrain.main(given)
    assert [json.loads(line)["step"] for line in (new / "log.jsonl").read_text().splitlines()] == [3, 4]
    weights = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (run, new)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_a_start_that_fails_before_its_first_step_leaves_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise UserError("no such schedule")

    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no such schedule"):
        patch.setattr(pretrain.PretrainingEngine, "create_scheduler", refuse)
        pretrain.main(words(text, run))
    assert not run.exists()


def test_the_figures_are_of_the_step_that_the_weights_are_of(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    best = ["--load_best_model_at_end", "True", "--metric_for_best_model", "eval_mlm_loss"]
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--save_total_limit", "2"]
    # The rate rises until the loss does.
    rising = ["--max_steps", "6", "--learning_rate", "2", "--warmup_steps", "6"]
    pretrain.main([*words(text, run), *best, *evaluated, *rising])
    metrics = json.loads((run / "metrics.json").read_text())
    lines = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_mlm_loss"] for line in lines}
    assert metrics["step"] < 6 and metrics["step"] == min(losses, key=lambda step: losses[step])
    assert lines[-1]["step"] == metrics["step"] and metrics["eval_mlm_loss"] == losses[metrics["step"]]
    kept = safetensors.torch.load_file(run / f"checkpoint-{metrics['step']}" / "model.safetensors")
    found = safetensors.torch.load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())
    assert metrics["trained_tokens"] == 6 * 8 * 64
