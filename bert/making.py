"""A folder of prepared data: made beside its place and moved there, gone on with, compared with its inputs, mended."""

from __future__ import annotations

import errno
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_adan.corpora.corpus import Corpus
from nlp_adan.corpora.documents import FileCorpus, check_outside
from nlp_adan.corpora.encoding import default_num_workers
from nlp_adan.corpora.manifest import (
    BLOCKS,
    damaged_files,
    differences,
    options_that_differ,
    read_manifest,
    remember_files,
    sources_that_differ,
    write_manifest,
)
from nlp_adan.errors import UserError
from nlp_adan.storage import cache_folder, sha256_file, sha256_json, sync_folder

from .build import SHARD_BYTES, Plan, block_format
from .journal import LOCK, Journal, locked
from .parts import make_parts, repair, without_special_tokens
from .prepared import COUNTS, TOKENIZER, PreparedData, open_prepared
from .provenance import num_equal_sources, preparation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# In the folder of a tokenizer that was trained here: from what.
SAMPLE_RECORD = "training_sample.json"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def default_folder(key: str) -> Path:
    """Where prepared data of this key is kept when the user names no folder."""
    return cache_folder() / f"prepared-{key[:16]}"


def unfinished_folder(folder: Path) -> Path:
    """Where prepared data is made before it is whole."""
    return folder.with_name(f".{folder.name}.unfinished")


def prepare(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    valid_fraction: float,
    folder: Path | None = None,
    seed: int = 0,
    *,
    num_workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    verify: bool = False,
) -> PreparedData:
    """Tokenize, split and pack a corpus into `folder`. What is there already is opened, what is damaged made anew.

    block_size: tokens, the special ones at both ends included; valid_fraction: share of the documents that make the
    validation part, chosen by their hash; seed: another one chooses others; folder: None for the cache; num_workers,
    verify: see `prepare_pretraining_data`; shard_bytes: of a shard of the training part.

    Raises: UserError where the folder holds other data, the corpus cannot be read or is too small for one block of
    each part. What was finished until then is kept beside the folder, and the next call goes on from there.
    """
    form = block_format(tokenizer, block_size)
    num_workers = default_num_workers() if num_workers is None else num_workers
    plan = Plan(corpus, tokenizer, form, valid_fraction, seed, shard_bytes, num_workers)
    inputs = preparation(plan)
    key = sha256_json(inputs)
    folder = (default_folder(key) if folder is None else folder).expanduser().resolve()
    if isinstance(corpus, FileCorpus) and corpus.is_folder:
        check_outside(str(corpus.folder), folder, "with `--output_dir` (or NLP_ADAN_CACHE, for the cache)")
    partial = unfinished_folder(folder)
    try:
        if not folder.exists():
            with locked(partial, folder.exists) as must_work:
                if must_work:
                    _make(plan, inputs, partial, folder)
        _open_or_repair(plan, inputs, folder, verify)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _no_space(plan, partial, error) from error
        raise
    return open_prepared(folder)


def _make(plan: Plan, inputs: dict[str, Any], partial: Path, folder: Path) -> None:
    """Make all files in `partial`, then give it its name."""
    try:
        journal = _journal(inputs, partial)
        if not journal.entries:
            plan.corpus.check()
        plan.tokenizer.save_pretrained(str(partial / TOKENIZER))
        parts, counts = make_parts(plan, partial, journal)
    except UserError:
        found = Journal.read(partial)
        if found is None or not found.entries:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            kept = len(found.entries)
            print(f"{partial} keeps {kept} finished shards for the next preparation into {folder}", flush=True)
        raise
    np.save(partial / COUNTS, without_special_tokens(counts, plan))
    sampled = Path(plan.tokenizer.name_or_path or "") / SAMPLE_RECORD
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path != partial / LOCK)
    known = {name: digest for entry in journal.all_entries() for name, digest in entry.digests().items()}
    names = [path.relative_to(partial).as_posix() for path in files]
    manifest = {
        "key": sha256_json(inputs),
        "inputs": inputs,
        "corpus_name": plan.corpus.title,
        "tokenizer_sample": json.loads(sampled.read_text(encoding="utf-8")) if sampled.is_file() else None,
        "block_size": plan.form.block_size,
        "vocab_size": plan.form.vocab_size,
        "dtype": np.dtype(plan.form.dtype).name,
        "block_prefix": plan.form.prefix,
        "block_suffix": plan.form.suffix,
        "document_separator": plan.form.separator,
        **parts,
        "files": {
            name: {"num_bytes": path.stat().st_size, "sha256": known.get(name) or sha256_file(path)}
            for name, path in zip(names, files, strict=True)
        },
    }
    write_manifest(partial, manifest)
    sync_folder(partial)
    partial.rename(folder)
    (folder / LOCK).unlink(missing_ok=True)  # not before: another process would take what is left for its own
    sync_folder(folder.parent)
    remember_files(folder, manifest)


def _journal(inputs: dict[str, Any], partial: Path) -> Journal:
    """The journal to go on with: the one that is there, as far as it holds for these inputs, or a new one.

    Raises: UserError where another preparation is there that was not finished.
    """
    journal = Journal.read(partial)
    if journal is None:
        journal = Journal(partial, inputs, [])
    elif journal.inputs != inputs:
        options = options_that_differ(journal.inputs, inputs)
        sources = sources_that_differ(journal.inputs, inputs)
        if set(options) - {"tokenizer"} or (options and not sources):
            raise UserError(
                f"{partial} holds an unfinished preparation from other inputs (different: {', '.join(options)}): "
                "name another folder with `--output_dir`, or delete this one"
            )
        num_equal = 0 if options else num_equal_sources(journal.inputs, inputs)
        journal.keep_sources(num_equal)
        why = f"the sources differ ({', '.join(sources)})" + (" and so does the tokenizer" if options else "")
        kept = len(journal.entries)
        print(f"{partial}: {why}; {kept} finished shards of before them are kept", flush=True)
        journal = Journal(partial, inputs, journal.entries)
    journal.start()
    return journal


def _open_or_repair(plan: Plan, inputs: dict[str, Any], folder: Path, verify: bool) -> None:
    """Compare what is in `folder` with what it should be.

    Raises: UserError where it was prepared from other inputs, naming what changed.
    """
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)  # of a start that was killed at its very end
    manifest = read_manifest(folder, BLOCKS)
    if manifest["inputs"] != inputs:
        raise UserError(
            f"{folder} holds data prepared from other inputs ({differences(manifest['inputs'], inputs)}): "
            "name another folder with `--output_dir`, or delete this one"
        )
    damaged = damaged_files(folder, manifest, read_all=verify)
    if damaged:
        for name, state in damaged.items():
            print(f"{folder / name} {state}: making it anew", flush=True)
        with locked(unfinished_folder(folder), lambda: False):
            # Another process may have mended it while this one waited.
            files = {name: entry for name, entry in manifest["files"].items() if name in damaged}
            repair(plan, folder, manifest, damaged_files(folder, {"files": files}, read_all=True))
            shutil.rmtree(unfinished_folder(folder))
        remember_files(folder, manifest)


def _no_space(plan: Plan, partial: Path, error: OSError) -> UserError:
    """The error of a full disk: how much was written, and how much more is needed, estimated from the share read."""
    journal = Journal.read(partial)
    written = sum(entry.num_blocks for entry in journal.entries) * plan.form.block_bytes if journal else 0
    total = plan.corpus.num_bytes
    # English has some 4 bytes a token, and a token takes 2 bytes here, or 4.
    guess = f"; all of it needs about {total * np.dtype(plan.form.dtype).itemsize / 4 / 1e9:.2f} GB" if total else ""
    return UserError(
        f"no space left on the disk of {partial} ({error.strerror}): {written / 1e9:.2f} GB of shards are finished"
        f"{guess}. Make room and run the same command again: it goes on after the last finished shard"
    )
