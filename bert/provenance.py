"""What prepared data is made from: told apart by a key, and what differs between two of them in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .build import Plan
from .tokenizer import tokenizer_digest

# Counted up when the same inputs would give other files.
FORMAT_VERSION = 2
MAX_NAMED = 3


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


def options_that_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the inputs other than the sources that differ between two preparations."""
    names = {name for name in {*before, *now} - {"corpus"} if before.get(name) != now.get(name)}
    options = [inputs.get("corpus", {}).get("options", {}) for inputs in (before, now)]
    names |= {name for name in {*options[0], *options[1]} if options[0].get(name) != options[1].get(name)}
    return sorted("tokenizer" if name == "tokenizer_sha256" else name for name in names)


def sources_that_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The sources that changed, are missing or are new, in words; the first few."""
    old, new = (
        {source["path"]: source["sha256"] for source in inputs.get("corpus", {}).get("sources", [])}
        for inputs in (before, now)
    )
    found = [f"{path} changed" for path in old if path in new and old[path] != new[path]]
    found += [f"{path} is missing" for path in old if path not in new]
    found += [f"{path} is new" for path in new if path not in old]
    return found if len(found) <= MAX_NAMED else [*found[:MAX_NAMED], f"{len(found) - MAX_NAMED} more differ"]


def num_equal_sources(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """How many sources are the same in both, from the first one on."""
    pairs = list(zip(before["corpus"]["sources"], now["corpus"]["sources"], strict=False))
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))
