"""Prepared data on disk: blocks of tokens in shards, their tokenizer, and the manifest that says what they are of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nlp_adan.corpora.manifest import BLOCKS, read_counts, read_manifest, wrong_sizes
from nlp_adan.errors import UserError

from .shards import ShardLayout, TokenBlocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        return read_counts(self.folder / COUNTS)

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


def open_prepared(folder: Path) -> PreparedData:
    """The prepared data in a folder; names and sizes of files are checked, blocks when they are read.

    Raises: UserError where there is no manifest, where it was changed, or where a file is missing or of another size.
    """
    manifest = read_manifest(folder, BLOCKS)
    for name, state in wrong_sizes(folder, manifest).items():
        raise UserError(
            f"{folder / name} {state}: prepare again with the same options into this folder to make it anew "
            f"(`python run_pretrain.py prepare --verify {folder}` names all that is damaged)"
        )
    return PreparedData(folder, manifest)
