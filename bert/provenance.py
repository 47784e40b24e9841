"""What prepared data is made from: told apart by a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_adan.corpora.pretrained_tokenizer import tokenizer_digest

from .build import Plan

# Counted up when the same inputs would give other files.
FORMAT_VERSION = 2


def preparation(plan: Plan) -> dict[str, Any]:
    """All that the prepared files depend on, as a JSON value; its hash is their key."""
    return {
        "corpus": plan.corpus.identity(),
        "tokenizer_sha256": tokenizer_digest(plan.tokenizer),
        "block_size": plan.form.block_size,
        "valid_fraction": plan.valid_fraction,
        "split_seed": plan.seed,
        "shard_bytes": plan.shard_bytes,
        "format": FORMAT_VERSION,
    }


def num_equal_sources(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """How many sources are the same in both, from the first one on."""
    pairs = list(zip(before["corpus"]["sources"], now["corpus"]["sources"], strict=False))
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))
