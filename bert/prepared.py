"""Prepared data on disk: blocks of tokens in shards, their tokenizer, and the manifest that says what they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nlp_adan.corpora.digests import Digests
from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.storage import sha256_json, write_json

from .shards import ShardLayout, TokenBlocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "manifest.json"
COUNTS = "train_counts.npy"
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class PreparedData:
    """A folder of prepared data. It needs nothing outside of it and may be copied anywhere."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def block_size(self) -> int:
        """Tokens in a block, special tokens included."""
        return int(self.manifest["block_size"])

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.manifest["vocab_size"])

    @cached_property
    def train(self) -> TokenBlocks:
        """The blocks to train on."""
        return self._blocks("train")

    @cached_property
    def valid(self) -> TokenBlocks:
        """The blocks held out for validation."""
        return self._blocks("valid")

    @cached_property
    def unigram_counts(self) -> npt.NDArray[np.int64]:
        """(vocab_size,) int64: how often each token occurs in the training blocks.

        Special tokens, which are never masked, have 0; so may tokens that only the validation part has.
        """
        counts: npt.NDArray[np.int64] = np.load(self.folder / COUNTS)
        return counts

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that made the blocks.

        Raises: UserError where its files are not what they were.
        """
        from .tokenizer import load_tokenizer

        for name, entry in self.manifest["files"].items():
            if name.startswith(f"{TOKENIZER}/"):
                content = (self.folder / name).read_bytes()
                if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                    raise UserError(f"{self.folder / name} was changed: prepare again with the same options")
        return load_tokenizer(str(self.folder / TOKENIZER))

    def _blocks(self, part: str) -> TokenBlocks:
        entry = self.manifest[part]
        dtype = np.dtype(self.manifest["dtype"])
        layout = ShardLayout(
            self.folder, part, int(entry["num_blocks"]), int(entry["blocks_per_shard"]), self.block_size, dtype
        )
        return TokenBlocks(layout)


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds prepared data, whole or not."""
    return (folder / MANIFEST).is_file()


def open_prepared(folder: Path) -> PreparedData:
    """The prepared data in a folder; names and sizes of files are checked, blocks when they are read.

    Raises: UserError where there is no manifest, where it was changed, or where a file is missing or of another size.
    """
    manifest = read_manifest(folder)
    for name, state in wrong_sizes(folder, manifest).items():
        raise UserError(
            f"{folder / name} {state}: prepare again with the same options into this folder to make it anew "
            f"(`python run_pretrain.py prepare --verify {folder}` names all that is damaged)"
        )
    return PreparedData(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises: UserError where there is none, or where it is not as it was written.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        stated = manifest.pop("manifest_sha256")
        sizes = {name: int(entry["num_bytes"]) for name, entry in manifest["files"].items()}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} holds no prepared data (no {MANIFEST}): name another folder") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        older = isinstance(error, KeyError) and "manifest_sha256" in str(error)
        what = "is of an older version, or damaged" if older else "is damaged"
        raise UserError(f"{path} {what} ({error!r}): delete {folder} and prepare again") from error
    if not sizes or sha256_json(manifest) != stated:
        raise UserError(
            f"{path} was changed after it was written (its own hash differs): "
            f"bring it back, or delete {folder} and prepare again"
        )
    return {**manifest, "manifest_sha256": stated}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest, with its own hash in it."""
    write_json(folder / MANIFEST, {**manifest, "manifest_sha256": sha256_json(manifest)})


def wrong_sizes(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The files that are missing or of another size, and what is wrong with each."""
    wrong = {}
    for name, entry in manifest["files"].items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != entry["num_bytes"]:
            wrong[name] = "is missing" if found is None else f"has {found:,} bytes instead of {entry['num_bytes']:,}"
    return wrong


def damaged_files(folder: Path, manifest: Mapping[str, Any], read_all: bool) -> dict[str, str]:
    """The files that are not what the manifest says, and what is wrong with each.

    read_all: hash every file. Otherwise only those that changed since they were written or hashed here, by their size
    and time of change.
    """
    wrong = wrong_sizes(folder, manifest)
    entries = {name: entry["sha256"] for name, entry in manifest["files"].items() if name not in wrong}
    listed = entries.items()
    with Digests(folder) as digests:
        for name, expected in (
            progress(listed, description="Files hashed", unit="file", leave=False) if read_all else listed
        ):
            path = folder / name
            if read_all:
                found = digests.read(path)
            elif digests.has(path):
                found = digests.sha256(path)
            else:  # copied here: its blocks are checked as they are read
                continue
            if found != expected:
                wrong[name] = "has another content than was written (its SHA-256 differs)"
    return wrong
