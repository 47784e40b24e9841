"""Folders as pretraining runs leave them, made in a moment: for the tests of reports and model cards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

SETTINGS: dict[str, Any] = {
    "recipe": "tiny", "data": None, "tokenizer": None, "tokenizer_kind": "bpe", "block_size": 64,
    "mask_probability": 0.3, "model_type": "modernbert", "optim": "adan", "optim_args": "beta1=0.9,beta2=0.9",
    "learning_rate": 0.006, "lr_scheduler_type": "linear", "weight_decay": 0.02, "adam_beta1": 0.9, "max_steps": 100,
    "max_hours": None, "num_train_epochs": 3.0, "global_batch_size": 32, "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1, "bf16": True, "fp16": False,
}  # fmt: skip
ENVIRONMENT: dict[str, Any] = {
    "date": "2026-03-01T12:00:00+00:00", "command": "run_pretrain.py bert --recipe 'a|b'", "cpu": "Some CPU",
    "gpus": ["NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB"], "world_size": 2,
    "packages": {"torch": "2.13.0", "scipy": None}, "git": {"commit": "abc123", "modified": True},
}  # fmt: skip
MANIFEST: dict[str, Any] = {
    "key": "key-of-the-data", "corpus_name": "two novels", "vocab_size": 4096,
    "tokenizer_sample": {"corpus_name": "three novels", "kind": "wordpiece"},
    "inputs": {"tokenizer_sha256": "def456", "corpus": {"sources": [{"path": "a.txt", "num_bytes": 2_500_000,
                                                                    "sha256": "0123456789abcdef0123"}]}},
    "train": {"num_blocks": 1600, "num_tokens": 102_400, "num_documents": 2, "num_chars": 400_000},
    "valid": {"num_blocks": 50, "num_tokens": 3200, "num_documents": 1, "num_chars": 13_000},
}  # fmt: skip
TRAINED_SECONDS_PER_STEP = 36.0


def log_line(step: int, **changes: Any) -> dict[str, Any]:
    """A line of log.jsonl: 36 s a step."""
    return {
        "step": step, "epoch": step / 50, "loss": 6.0 + 2 * math.exp(-step / 30), "grad_norm": 1.0,
        "learning_rate": 1e-3, "tokens_per_second": 1000.0 + step, "flops_per_second": 2e12 * (1000 + step) / 1000,
        "mfu": 0.0032, "data_wait": 0.02, "batch_hash": "00", "trained_seconds": TRAINED_SECONDS_PER_STEP * step,
        "seconds": TRAINED_SECONDS_PER_STEP * step, **changes,
    }  # fmt: skip


def evaluation(step: int, **changes: Any) -> dict[str, Any]:
    """A line of eval.jsonl."""
    return {
        "step": step, "eval_loss": 5.9, "eval_mlm_loss": 5.9 + math.exp(-step / 30), "eval_unigram_cross_entropy": 6.6,
        "eval_top1_accuracy": 0.11, "eval_top5_accuracy": 0.25, "eval_five_commonest_accuracy": 0.16,
        "eval_masked_tokens": 9609, "eval_runtime": 1.0, **changes,
    }  # fmt: skip


def make_run(
    folder: Path,
    *,
    base: dict[str, Any] = SETTINGS,
    settings: dict[str, Any] | None = None,
    log: list[dict[str, Any]] | None = None,
    evaluations: list[dict[str, Any]] | None = None,
    metrics: dict[str, Any] | None = None,
    starts: list[dict[str, Any]] | None = None,
    manifest: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> Path:
    """A run's folder without weights: 100 steps, evaluated twice, finished; `metrics={}` leaves it unfinished.

    base: all settings, of which `settings` are changes; a masked LM's.
    """
    if metrics is None:
        metrics = {**evaluation(100), "trained_seconds": 3600.0, "trained_tokens": 204_800, "trained_flops": 4.5e14}
    files: dict[str, list[dict[str, Any]]] = {
        "log.jsonl": [log_line(step) for step in range(10, 101, 10)] if log is None else log,
        "eval.jsonl": [evaluation(50), evaluation(100)] if evaluations is None else evaluations,
        "starts.jsonl": [{"step": 0, "date": ENVIRONMENT["date"], "world_size": 2, "command": ""}] if starts is None
        else starts,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved.yaml").write_text(yaml.safe_dump({**base, **(settings or {})}), encoding="utf-8")
    for name, lines in files.items():
        if lines:
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    prepared = folder.parent / f"{folder.name}-data"
    values = {"environment.json": ENVIRONMENT if environment is None else environment, "metrics.json": metrics,
              "data.json": {"key": MANIFEST["key"], "folder": str(prepared)}}  # fmt: skip
    for name, value in values.items():
        if value:
            (folder / name).write_text(json.dumps(value), encoding="utf-8")
    if manifest != {}:
        prepared.mkdir(exist_ok=True)
        (prepared / "manifest.json").write_text(json.dumps(manifest or MANIFEST), encoding="utf-8")
    return folder
