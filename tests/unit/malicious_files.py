"""Files that run code in whoever loads them as Python's pickle, and a look at whether that happened.

The code creates a file, the marker, and does nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlp_adan.corpora.manifest import write_manifest
from nlp_adan.training.checkpoint.manifest import FileEntry, Manifest

# Names that a loader of checkpoints or models might open because they are there.
WELL_KNOWN = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "rng_state_1.pth",
    "training_args.bin", "pytorch_model.bin", "adapter_model.bin", "global_step1/mp_rank_00_model_states.pt",
    "global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt", "global_step1/zero/optimizer_state.pt",
    "global_step1/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
)  # fmt: skip


class Malice:
    """Pickled, it is a call of `open(marker, "w")` at loading."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def pickled(marker: Path, protocol: int = 2) -> bytes:
    """A plain pickle."""
    return pickle.dumps({"state": Malice(marker)}, protocol)


def torch_file(marker: Path, zipped: bool = True) -> bytes:
    """A file of `torch.save`, in its present format or in the one before."""
    buffer = io.BytesIO()
    torch.save({"state": Malice(marker), "weight": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def numpy_file(marker: Path) -> bytes:
    """A .npy of objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Malice(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def plant(folder: Path, content: bytes, marker: Path, also: str = "") -> list[str]:
    """Put `content` in the place of every pickle of a checkpoint, and wherever a loader might look for one.

    also: a pattern of names, whose files are replaced too.

    A manifest is made to agree, as whoever can write the files can do that too. Returns the names of the files.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    planted = [path for path in files if _is_pickle(path) or (also and path.match(also))]
    planted += [folder / name for name in WELL_KNOWN]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numpy_file(marker) if path.suffix == ".npy" else content)
    (folder / "latest").write_text("global_step1")
    make_manifest_agree(folder)
    return sorted({str(path.relative_to(folder)) for path in planted})


def _is_pickle(path: Path) -> bool:
    """By its first bytes: a zip (torch's files), a pickle of protocol 2 or later, a NumPy array."""
    with open(path, "rb") as file:
        return file.read(6).startswith((b"PK\x03\x04", b"\x80", b"\x93NUMPY"))


def make_manifest_agree(folder: Path) -> None:
    """Let a checkpoint's manifest.json, or one of prepared data, list the files that are there now."""
    path = folder / "manifest.json"
    if not path.is_file():
        return
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file() and file != path}
    hashes = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    manifest = json.loads(path.read_text())
    if "sequences_per_step" in manifest:
        listed = {name: FileEntry(file.stat().st_size, hashes[name]) for name, file in files.items()}
        dataclasses.replace(Manifest.read(folder), files=listed).write(folder)
        return
    del manifest["manifest_sha256"]
    manifest["files"] = {
        name: {**manifest["files"].get(name, {}), "num_bytes": file.stat().st_size, "sha256": hashes[name]}
        for name, file in files.items()
    }
    write_manifest(folder, manifest)


# Kinds of files that would run code, by how they are written.
CONTENTS: dict[str, Callable[[Path], bytes]] = {
    "torch.save": torch_file,
    "torch.save of before": lambda marker: torch_file(marker, zipped=False),
    "pickle 2": pickled,
    "pickle 4": lambda marker: pickled(marker, protocol=4),
}
