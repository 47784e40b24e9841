"""A run that was interrupted goes on where it was, and ends with the same weights."""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
from pathlib import Path

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
        "--global_batch_size", "8", "--output_dir", str(run),
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
    shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("metrics.json", "*.safetensors"))
    shutil.rmtree(killed / "checkpoint-12")
    shutil.copy(whole / "checkpoint-9" / "model.safetensors", killed / "checkpoint-9")
    (killed / "checkpoint-11").mkdir()
    with pytest.raises(UserError, match="add `--resume auto`"):
        pretrain.main(words(text, killed))
    pretrain.main([*words(text, killed), "--resume", "auto"])

    expected = safetensors.torch.load_file(whole / "model.safetensors")
    found = safetensors.torch.load_file(killed / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    resumed = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in log]


def test_other_data_is_refused(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain.main(words(text, run))
    (run / "metrics.json").unlink()
    (text / "more.txt").write_text("Another document has come since the run began. " * 30)
    with pytest.raises(UserError, match="the data or the tokenizer changed"):
        pretrain.main([*words(text, run), "--resume", "auto"])
