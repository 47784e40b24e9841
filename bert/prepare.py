"""From a corpus and a tokenizer to memory-mapped blocks of tokens on disk, once for each combination of the two."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.storage import cache_folder, new_folder, sha256_file, sha256_json, write_json

from .corpus import Corpus
from .documents import open_corpus
from .packing import BlockFormat, BlockWriter
from .prepared import PreparedData, open_prepared
from .tokenizer import (
    DEFAULT_SAMPLE_BYTES,
    TRAINER_VERSION,
    TokenizerKind,
    load_tokenizer,
    tokenizer_digest,
    train_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Counted up when the same inputs would give other files.
FORMAT_VERSION = 1
PARTS = ("train", "valid")
# Text tokenized at once, spread over the cores by the tokenizers library.
BATCH_CHARS = 1 << 21


def prepare_pretraining_data(
    data: str | None,
    *,
    encoding: str = "utf-8",
    text_column: str = "text",
    tokenizer_name_or_path: str | None = None,
    vocab_size: int = 50_265,
    tokenizer_kind: TokenizerKind = "bpe",
    block_size: int = 512,
    valid_fraction: float = 0.01,
    seed: int = 0,
    sample_bytes: int = DEFAULT_SAMPLE_BYTES,
    folder: Path | None = None,
) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """The whole way from `--data` to blocks: open, check, train or load the tokenizer, prepare. Each step is cached.

    data, encoding, text_column: see `open_corpus`; tokenizer_name_or_path: None trains one of `vocab_size` tokens of
    `tokenizer_kind` on a sample of `sample_bytes`; seed: of the split; folder: of the prepared data, None for the
    cache.

    Raises: UserError for whatever is wrong with the data or the options, before anything is written.
    """
    _check_options(block_size, valid_fraction)
    corpus = open_corpus(data, encoding, text_column)
    if tokenizer_name_or_path is not None:
        tokenizer = load_tokenizer(tokenizer_name_or_path)
    else:
        tokenizer = _cached_tokenizer(corpus, vocab_size, tokenizer_kind, sample_bytes)
    return prepare(corpus, tokenizer, block_size, valid_fraction, folder, seed), tokenizer


def _cached_tokenizer(
    corpus: Corpus, vocab_size: int, kind: TokenizerKind, sample_bytes: int
) -> PreTrainedTokenizerBase:
    """The tokenizer trained on this corpus with these options, from the cache or now."""
    recipe = {
        "corpus": corpus.identity(),
        "vocab_size": vocab_size,
        "kind": kind,
        "sample_bytes": sample_bytes,
        "version": TRAINER_VERSION,
    }
    folder = cache_folder() / f"tokenizer-{sha256_json(recipe)[:16]}"
    if not folder.is_dir():
        corpus.check()
        size = corpus.num_bytes
        with progress(description=f"Tokenizer of {vocab_size:,} tokens", unit="byte", total=size) as bar:
            tokenizer = train_tokenizer(corpus.documents(bar.update), vocab_size, kind, sample_bytes, size)
        with new_folder(folder) as temporary:
            tokenizer.save_pretrained(str(temporary))
            write_json(temporary / "training_sample.json", {"corpus_name": corpus.name, **recipe})
    return load_tokenizer(str(folder))


def default_folder(key: str) -> Path:
    """Where prepared data of this key is kept when the user names no folder."""
    return cache_folder() / f"prepared-{key[:16]}"


def preparation(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, block_size: int, valid_fraction: float, seed: int
) -> dict[str, Any]:
    """All that the prepared files depend on, as a JSON value; its hash is their key."""
    return {
        "corpus": corpus.identity(),
        "tokenizer_sha256": tokenizer_digest(tokenizer),
        "block_size": block_size,
        "valid_fraction": valid_fraction,
        "split_seed": seed,
        "format": FORMAT_VERSION,
    }


def prepare(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    valid_fraction: float,
    folder: Path | None = None,
    seed: int = 0,
) -> PreparedData:
    """Tokenize, split and pack a corpus into `folder`; where it is there already, open it.

    block_size: tokens, the special ones at both ends included; valid_fraction: share of the documents that make the
    validation part, chosen by their hash; seed: another one chooses others; folder: None for the cache.

    Raises: UserError where the folder holds other data, the corpus cannot be read or is too small for one block of
    each part. Nothing is left behind then.
    """
    inputs = preparation(corpus, tokenizer, block_size, valid_fraction, seed)
    key = sha256_json(inputs)
    folder = default_folder(key) if folder is None else folder
    if folder.exists():
        prepared = open_prepared(folder)
        if prepared.manifest["key"] != key:
            changed = [name for name, value in inputs.items() if prepared.manifest["inputs"].get(name) != value]
            raise UserError(
                f"{folder} holds data prepared from other inputs (different: {', '.join(changed)}): "
                "name another folder, or delete this one"
            )
        return prepared
    form = block_format(tokenizer, block_size)
    corpus.check()
    with new_folder(folder) as temporary:
        manifest = {"key": key, "inputs": inputs, "corpus_name": corpus.name}
        manifest.update(_write_parts(corpus, tokenizer, form, valid_fraction, seed, temporary))
        write_json(temporary / "manifest.json", manifest)
    return open_prepared(folder)


def block_format(tokenizer: PreTrainedTokenizerBase, block_size: int) -> BlockFormat:
    """The blocks' shape for a tokenizer: the special tokens that it puts around one sequence.

    Raises: UserError where a block of this size has no room between them.
    """
    text = "a"
    inner = tokenizer(text, add_special_tokens=False)["input_ids"]
    outer = tokenizer(text)["input_ids"]
    begin = next(i for i in range(len(outer)) if outer[i : i + len(inner)] == inner)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    form = BlockFormat(
        block_size=block_size,
        prefix=tuple(outer[:begin]),
        suffix=tuple(outer[begin + len(inner) :]),
        separator=separator,
        vocab_size=len(tokenizer),
    )
    if form.num_content < 1:
        raise UserError(
            f"a block of {block_size} tokens has no room for text between its special tokens: choose "
            f"`--block_size {block_size - form.num_content + 1}` or more"
        )
    return form


def is_valid_document(document: str, valid_fraction: float, seed: int) -> bool:
    """Whether a document belongs to the validation part: by its own hash, so neither order nor company matter."""
    content = document.encode("utf-8", errors="replace")
    digest = blake2b(content, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") < valid_fraction * 2**64


def _check_options(block_size: int, valid_fraction: float) -> None:
    if block_size < 1:
        raise UserError(f"a block of {block_size} tokens is impossible: choose `--block_size 128`, for example")
    if not 0.0 < valid_fraction < 1.0:
        raise UserError(
            f"a validation part of {valid_fraction} is impossible: choose a fraction between 0 and 1, as 0.01"
        )


def _write_parts(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    form: BlockFormat,
    valid_fraction: float,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Write the parts' files and the counts; the manifest's entries about them."""
    started = time.monotonic()
    num_chars = dict.fromkeys(PARTS, 0)
    with ExitStack() as stack:
        writers = {part: BlockWriter(stack.enter_context(open(folder / f"{part}.bin", "wb")), form) for part in PARTS}
        bar = stack.enter_context(progress(description="Tokens", unit="byte", total=corpus.num_bytes))
        for batch in _batches(corpus.documents(bar.update)):
            for document, ids in zip(batch, _encode(tokenizer, batch), strict=True):
                part = PARTS[is_valid_document(document, valid_fraction, seed)]
                writers[part].add(ids)
                num_chars[part] += len(document)
            num_documents = sum(writer.num_documents for writer in writers.values())
            bar.set_postfix_str(
                f"{num_documents / max(1e-9, time.monotonic() - started):.0f} documents/s", refresh=False
            )
        for writer in writers.values():
            writer.finish()
    _check_enough(writers, form, valid_fraction)
    counts = writers["train"].counts
    counts[[token for token in tokenizer.all_special_ids if token < len(counts)]] = 0
    np.save(folder / "train_counts.npy", counts)
    files = ["train.bin", "valid.bin", "train_counts.npy"]
    return {
        "block_size": form.block_size,
        "vocab_size": form.vocab_size,
        "dtype": np.dtype(form.dtype).name,
        "block_prefix": form.prefix,
        "block_suffix": form.suffix,
        "document_separator": form.separator,
        **{part: _summary(writers[part], num_chars[part]) for part in PARTS},
        "files": {
            name: {"num_bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in files
        },
    }


def _summary(writer: BlockWriter, num_chars: int) -> dict[str, int]:
    return {
        "num_blocks": writer.num_blocks,
        "num_tokens": writer.num_blocks * writer.form.block_size,
        "num_documents": writer.num_documents,
        "num_document_tokens": writer.num_document_tokens,
        "num_dropped_tokens": writer.num_dropped_tokens,
        "num_chars": num_chars,
    }


def _check_enough(writers: dict[str, BlockWriter], form: BlockFormat, valid_fraction: float) -> None:
    for part, writer in writers.items():
        if writer.num_blocks == 0:
            raise UserError(
                f"too little text for one block of {form.block_size} tokens in the {part} part: it has "
                f"{writer.num_document_tokens} tokens in {writer.num_documents} documents, and "
                f"--valid_fraction {valid_fraction}. Add text, choose a smaller --block_size, or a "
                f"{'larger' if part == 'valid' else 'smaller'} --valid_fraction"
            )


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_chars = 0
    for document in documents:
        batch.append(document)
        num_chars += len(document)
        if num_chars >= BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _encode(tokenizer: PreTrainedTokenizerBase, batch: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each document, without special tokens and without truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield from tokenizer(list(batch), add_special_tokens=False, verbose=False)["input_ids"]
        return
    backend.no_truncation()
    backend.no_padding()
    for encoding in backend.encode_batch_fast(list(batch), add_special_tokens=False):
        yield encoding.ids
