"""Prepared data on disk: blocks of tokens, memory-mapped, beside the manifest that says what they were made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nlp_adan.errors import UserError

from .shards import TokenBlocks, map_blocks


@dataclass(frozen=True)
class PreparedData:
    """A folder of prepared data: manifest.json, train.bin, valid.bin, train_counts.npy."""

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
        counts: npt.NDArray[np.int64] = np.load(self.folder / "train_counts.npy")
        return counts

    def _blocks(self, part: str) -> TokenBlocks:
        num_blocks = int(self.manifest[part]["num_blocks"])
        return map_blocks(self.folder / f"{part}.bin", self.manifest["dtype"], num_blocks, self.block_size)


def open_prepared(folder: Path) -> PreparedData:
    """The prepared data in a folder; sizes are checked, contents are not read.

    Raises: UserError where there is no manifest, or a file is missing or of another size than the manifest says.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        sizes = {name: int(entry["num_bytes"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no prepared data (no manifest.json): name another folder") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / 'manifest.json'} is damaged ({error!r}): delete {folder} and prepare again"
        ) from error
    for name, size in sizes.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise UserError(f"{file} {state}: delete {folder} and prepare again")
    return PreparedData(folder, manifest)
