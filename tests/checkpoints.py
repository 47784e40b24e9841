"""Checkpoints for tests: small made ones, and manifests for files that a test has changed on purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nlp_adan.storage import sha256_file
from nlp_adan.training.checkpoint.manifest import MANIFEST, FileEntry, Manifest

FILES = {"model.safetensors": b"weights", "optimizer/part-00000-of-00001.safetensors": b"state"}


def make_checkpoint(
    run: Path, step: int, *, files: Mapping[str, bytes] = FILES, world_size: int = 1, sequences_per_step: int = 8
) -> Path:
    """A checkpoint that verifies, of files that hold nothing of use."""
    path = run / f"checkpoint-{step}"
    state = {"global_step": step, "stateful_callbacks": {}}
    for name, content in {**files, "trainer_state.json": json.dumps(state).encode()}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    Manifest(step, world_size, None, sequences_per_step, "2026-01-01T00:00:00+00:00", {}, entries(path)).write(path)
    return path


def entries(path: Path) -> dict[str, FileEntry]:
    """Sizes and hashes of a checkpoint's files as they are."""
    files = [file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST]
    return {str(file.relative_to(path)): FileEntry(file.stat().st_size, sha256_file(file)) for file in files}


def sign(path: Path) -> None:
    """Make the manifest fit the files as they are now."""
    replace(Manifest.read(path), files=entries(path)).write(path)
