"""The manifest of a folder of prepared data: what the data is, what it is made from, and every file's hash."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.storage import sha256_json, write_json

from .digests import Digests

MANIFEST = "manifest.json"
# What a folder may hold; a manifest that does not say is one of blocks.
BLOCKS = "blocks for masked language models"
STREAM = "a stream for recurrent language models"
TOKEN_DTYPES = ("uint8", "uint16", "uint32")
MAX_NAMED = 3


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds prepared data, whole or not."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a folder of BLOCKS or of a STREAM.

    Raises: UserError where there is none, where it is not as it was written, or where it is of another kind.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        stated = manifest.pop("manifest_sha256")
        sizes = {name: int(entry["num_bytes"]) for name, entry in manifest["files"].items()}
        if manifest.get("dtype", TOKEN_DTYPES[0]) not in TOKEN_DTYPES:
            raise ValueError(f"dtype {manifest['dtype']!r}")
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
    found = manifest.get("kind", BLOCKS)
    if found != kind:
        raise UserError(f"{folder} holds {found}, this takes {kind}: name another folder, or the text itself")
    return {**manifest, "manifest_sha256": stated}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest, with its own hash in it."""
    write_json(folder / MANIFEST, {**manifest, "manifest_sha256": sha256_json(manifest)})


def read_counts(path: Path) -> npt.NDArray[np.int64]:
    """(vocab_size,) int64: how often each token occurs, from a .npy of prepared data.

    Raises: UserError where the file holds anything else, such as objects, which NumPy would have to unpickle.
    """
    try:
        counts = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        counts = None
    if not isinstance(counts, np.ndarray) or counts.ndim != 1 or counts.dtype != np.int64:
        raise UserError(f"{path} holds no counts of tokens: delete {path.parent} and prepare again")
    return counts


def wrong_sizes(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The files that are missing or of another size, and what is wrong with each."""
    wrong = {}
    for name, entry in manifest["files"].items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != entry["num_bytes"]:
            wrong[name] = "is missing" if found is None else f"has {found:,} bytes instead of {entry['num_bytes']:,}"
    return wrong


def damaged_files(
    folder: Path, manifest: Mapping[str, Any], read_all: bool, skip_unknown: bool = True
) -> dict[str, str]:
    """The files that are not what the manifest says, and what is wrong with each.

    read_all: hash every file. Otherwise only those that changed since they were written or hashed here, by their size
    and time of change; skip_unknown: files that were never hashed here, as those of a copied folder, are left out.
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
            elif digests.has(path) or not skip_unknown:
                found = digests.sha256(path)
            else:
                continue
            if found != expected:
                wrong[name] = "has another content than was written (its SHA-256 differs)"
    return wrong


def remember_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Know the files of prepared data by their size and time of change, so that a later start need not read them."""
    with Digests(folder) as digests:
        for name, entry in manifest["files"].items():
            digests.remember(folder / name, entry["sha256"])


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the inputs of two preparations, in words."""
    sources, options = sources_that_differ(before, now), options_that_differ(before, now)
    told = [f"changed since: {', '.join(sources)}"] if sources else []
    told += [f"different: {', '.join(options)}"] if options else []
    return "; ".join(told)


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
