"""A run that goes on with another number of ranks and at another ZeRO stage ends where it would have ended."""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bert import pretrain
from nlp_adan.training.checkpoint.manifest import Manifest
from tests.distributed import launching

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

FIRST, SECOND, LAST = 5, 10, 30  # steps at which the run moves, and its last
# The largest difference of a parameter, 20 steps after the second move; DDP's from one process is 2e-7 here.
TOLERANCE = 1e-6


def words(folder: Path, run: str) -> list[str]:
    return [
        "--recipe", "tiny", "--data", str(folder / "text.txt"), "--vocab_size", "500", "--hidden_size", "32",
        "--intermediate_size", "48", "--dropout", "0", "--global_batch_size", "8", "--per_device_train_batch_size", "4",
        "--max_steps", str(LAST), "--save_steps", str(FIRST), "--save_total_limit", "99", "--resume", "auto",
        "--output_dir", str(folder / run),
    ]  # fmt: skip


def on_two_ranks(folder: Path, run: str, config: str | None) -> None:
    given = words(folder, run) + ([] if config is None else ["--deepspeed", f"ds_configs/{config}.json"])
    started = launching.deepspeed("run_pretrain.py", "bert", *given)
    assert started.returncode == 0, started.stderr


def moved(folder: Path, run: str, at: int, to: str) -> None:
    """What a run had written when it was killed after step `at`, in another folder."""
    shutil.copytree(folder / run, folder / to, ignore=shutil.ignore_patterns("metrics.json", ".lock"))
    for checkpoint in (folder / to).glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > at:
            shutil.rmtree(checkpoint)


def difference(one: Path, other: Path) -> float:
    """The largest of a parameter. Attention's keys have no bias in these models, whose gradient would be noise."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def write_text(folder: Path) -> None:
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)[:12]]
    (folder / "text.txt").write_text("\n\n".join(topics))


def test_the_best_checkpoints_weights_are_the_models_under_zero_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    write_text(tmp_path)
    rising = ["--learning_rate", "2", "--warmup_steps", "6", "--max_steps", "6"]  # until the loss does
    best = ["--load_best_model_at_end", "True", "--metric_for_best_model", "eval_mlm_loss", "--eval_strategy", "steps"]
    each = ["--eval_steps", "2", "--save_steps", "2", "--save_total_limit", "1", "--deepspeed", "ds_configs/zero3.json"]
    ended = launching.deepspeed("run_pretrain.py", "bert", *words(tmp_path, "run"), *rising, *best, *each)
    assert ended.returncode == 0, ended.stderr
    step = json.loads((tmp_path / "run" / "metrics.json").read_text())["step"]
    assert step < 6
    kept = load_file(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors")
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert kept.keys() == found.keys() and all((found[name] == kept[name]).all() for name in kept)


def test_two_ranks_then_one_then_two_at_another_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    write_text(tmp_path)
    on_two_ranks(tmp_path, "undisturbed", "zero2")
    moved(tmp_path, "undisturbed", FIRST, "alone")
    pretrain.main(words(tmp_path, "alone"))  # without DeepSpeed
    moved(tmp_path, "alone", SECOND, "again")
    on_two_ranks(tmp_path, "again", "zero3")
    manifests = [
        Manifest.read(tmp_path / name / f"checkpoint-{step}")
        for name, step in (("undisturbed", FIRST), ("alone", SECOND), ("again", LAST))
    ]
    assert [(found.world_size, found.zero_stage) for found in manifests] == [(2, 2), (1, None), (2, 3)]
    assert difference(tmp_path / "undisturbed", tmp_path / "alone") < TOLERANCE
    assert difference(tmp_path / "undisturbed", tmp_path / "again") < TOLERANCE
    trained = load_file(tmp_path / "again" / "model.safetensors")
    early = load_file(tmp_path / "undisturbed" / f"checkpoint-{FIRST}" / "model.safetensors")
    moves = [(trained[name] - early[name]).abs().max() for name in early if trained[name].ndim == 2]
    assert min(moves) > 1000 * TOLERANCE  # the weights would not agree because nothing happened
