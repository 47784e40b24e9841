"""From `--data` to blocks of tokens on disk: corpus, tokenizer, preparation, each once and then from the cache."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from nlp_adan.corpora.corpus import Corpus
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.corpora.manifest import is_prepared
from nlp_adan.corpora.pretrained_tokenizer import tokenizer_digest
from nlp_adan.corpora.sample import DEFAULT_SAMPLE_BYTES, CorpusSample
from nlp_adan.errors import UserError
from nlp_adan.storage import cache_folder, new_folder, sha256_json, write_json

from .build import SHARD_BYTES
from .data_options import CorpusOptions
from .given import check_given_prepared
from .making import SAMPLE_RECORD, default_folder, prepare
from .prepared import PreparedData, open_prepared
from .tokenizer import TRAINER_VERSION, TokenizerKind, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PreparedData", "default_folder", "open_prepared", "prepare", "prepare_corpus", "prepare_pretraining_data"]


def prepare_pretraining_data(
    data: str | None,
    *,
    encoding: str = "utf-8",
    text_column: str = "text",
    one_document_per_file: bool | None = None,
    tokenizer_name_or_path: str | None = None,
    vocab_size: int = 50_265,
    tokenizer_kind: TokenizerKind = "bpe",
    block_size: int = 512,
    valid_fraction: float = 0.01,
    seed: int = 0,
    sample_bytes: int = DEFAULT_SAMPLE_BYTES,
    folder: Path | None = None,
    num_workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    verify: bool = False,
) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """The whole way from `--data` to blocks: open, check, train or load the tokenizer, prepare. Each step is cached.

    data, encoding, text_column, one_document_per_file: see `open_corpus`; tokenizer_name_or_path: None trains one of
    `vocab_size` tokens of `tokenizer_kind` on a sample of `sample_bytes`; seed: of the split; folder: of the prepared
    data, None for the cache; num_workers: processes that tokenize, None for one a core, up to four; verify: hash files
    that are there already.

    Raises: UserError for whatever is wrong with the data or the options.
    """
    _check_options(block_size, valid_fraction)
    corpus = open_corpus(data, encoding, text_column, one_document_per_file)
    if tokenizer_name_or_path is not None:
        tokenizer = load_tokenizer(tokenizer_name_or_path)
    else:
        tokenizer = _cached_tokenizer(corpus, vocab_size, tokenizer_kind, sample_bytes)
    prepared = prepare(
        corpus, tokenizer, block_size, valid_fraction, folder, seed,
        num_workers=num_workers, shard_bytes=shard_bytes, verify=verify,
    )  # fmt: skip
    return prepared, tokenizer


def prepare_corpus(
    options: CorpusOptions,
    folder: Path | None = None,
    num_workers: int | None = None,
    verify: bool = False,
    given: Collection[str] = (),
) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """`prepare_pretraining_data` with the options of a command; `--data` may also name prepared data.

    given: the names of the options that then have to be true of it, those on the command line.

    Raises: UserError for whatever is wrong with them, with the data or with the disk.
    """
    try:
        if options.data is not None and is_prepared(Path(options.data)):
            return _given(options, Path(options.data), given)
        return prepare_pretraining_data(
            options.data,
            encoding=options.encoding,
            text_column=options.text_column,
            one_document_per_file={"file": True, "blank_line": False}.get(options.documents),
            tokenizer_name_or_path=options.tokenizer,
            vocab_size=options.vocab_size,
            tokenizer_kind="wordpiece" if options.tokenizer_kind == "wordpiece" else "bpe",
            block_size=options.block_size,
            valid_fraction=options.valid_fraction,
            seed=options.split_seed,
            sample_bytes=options.tokenizer_sample_bytes,
            folder=folder,
            num_workers=num_workers,
            verify=verify,
        )
    except OSError as error:
        raise UserError(
            f"{error.filename or options.data}: {error.strerror or error}; check permissions and free space there "
            "(NLP_ADAN_CACHE names another folder for the cache)"
        ) from error


def _given(
    options: CorpusOptions, folder: Path, given: Collection[str]
) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """Data that was prepared before, without its sources."""
    prepared = open_prepared(folder)
    check_given_prepared(options, given, folder, prepared.manifest)
    if options.block_size != prepared.block_size:
        raise UserError(
            f"--block_size {options.block_size}: {folder} holds blocks of {prepared.block_size} tokens; "
            f"give `--block_size {prepared.block_size}`, or name its sources with `--data` to prepare others"
        )
    if options.tokenizer is not None:
        digest = tokenizer_digest(load_tokenizer(options.tokenizer))
        if digest != prepared.manifest["inputs"]["tokenizer_sha256"]:
            raise UserError(
                f"--tokenizer {options.tokenizer!r} is not the one that made the blocks in {folder}: leave it out"
            )
    return prepared, prepared.tokenizer()


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
        sample = CorpusSample(corpus, sample_bytes)
        tokenizer = train_tokenizer(sample, vocab_size, kind)
        corpus.check_unchanged()
        with new_folder(folder) as temporary:
            tokenizer.save_pretrained(str(temporary))
            write_json(temporary / SAMPLE_RECORD, {"corpus_name": corpus.title, **recipe, "sample": sample.record})
    return load_tokenizer(str(folder))


def _check_options(block_size: int, valid_fraction: float) -> None:
    if block_size < 1:
        raise UserError(f"a block of {block_size} tokens is impossible: choose `--block_size 128`, for example")
    if not 0.0 < valid_fraction < 1.0:
        raise UserError(
            f"a validation part of {valid_fraction} is impossible: choose a fraction between 0 and 1, as 0.01"
        )
