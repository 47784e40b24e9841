"""From `--data` to a stream of token ids on disk: made once, then opened from its folder or the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from nlp_adan.corpora.documents import known_encoding
from nlp_adan.corpora.manifest import (
    STREAM,
    differences,
    is_prepared,
    read_manifest,
    remember_files,
    write_manifest,
)
from nlp_adan.corpora.pretrained_tokenizer import load_tokenizer, num_token_ids, tokenizer_digest
from nlp_adan.errors import UserError, nearest
from nlp_adan.progress import progress
from nlp_adan.storage import cache_folder, new_folder, sha256_file, sha256_json

from .data_options import StreamOptions
from .encoder import REMEDY, TextEncoder, codes_of, separator_id, text_blocks, words_of
from .stream import COUNTS, TOKENIZER, PreparedStream, open_stream
from .texts import PARTS, Texts, open_texts, unit_by_name
from .vocabulary import TextRules, Unit, Vocabulary, build_vocabulary, byte_symbols, count_codes, count_words, rules_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Counted up when the same inputs would give other files.
FORMAT_VERSION = 1
NUM_BYTES = 256
MIN_PART_TOKENS = 2  # one is read, the other predicted
# Options that say how a vocabulary is counted, and have no say where a tokenizer is given.
VOCABULARY_OPTIONS = ("unit", "lower_case", "max_vocab", "min_count")


def default_folder(key: str) -> Path:
    """Where a stream of this key is kept when the user names no folder."""
    return cache_folder() / f"stream-{key[:16]}"


def prepare_stream(
    options: StreamOptions, folder: Path | None = None, given: Collection[str] | None = None
) -> PreparedStream:
    """The stream of a text: opened where it was made before, from the cache or `folder`, else made now.

    options: `data` may also name a prepared stream; given: the names of the options that then have to be true of it,
    those that the user gave: a recipe's are meant for another text. None: those that differ from their default.

    Raises: UserError for whatever is wrong with the options, the text or the disk, and where `folder` holds something
    else. Nothing is left behind then.
    """
    try:
        if options.data is not None and is_prepared(Path(options.data).expanduser()):
            _check(options)
            return _given(options, Path(options.data).expanduser(), given)
        return _prepared(options, folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or options.data}: {error.strerror or error}; check permissions and free space there "
            "(NLP_ADAN_CACHE names another folder for the cache)"
        ) from error


def _check(options: StreamOptions) -> None:
    """Raises: UserError for a value that is out of range, and for options that contradict each other."""
    units = ("auto", *(unit for unit in get_args(Unit) if unit != "document"))
    if options.unit not in units:
        raise UserError(f"--unit {options.unit!r}{nearest(options.unit, units)}: choose one of {', '.join(units)}")
    if options.max_vocab is not None and options.max_vocab < 2:
        raise UserError(f"--max_vocab {options.max_vocab}: choose 2 or more tokens")
    if options.min_count < 1:
        raise UserError(f"--min_count {options.min_count}: choose 1, which keeps every word, or more")
    for part in ("valid", "test"):
        share = getattr(options, f"{part}_fraction")
        if not 0.0 < share < 1.0 or options.valid_fraction + options.test_fraction >= 1.0:
            raise UserError(
                f"--{part}_fraction {share} is impossible: choose shares between 0 and 1 that leave text to train on, "
                "as 0.05"
            )
    if options.tokenizer is not None:
        _refuse(options, VOCABULARY_OPTIONS, "--tokenizer has a vocabulary and rules of its own")


def _refuse(options: StreamOptions, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if name in _changed(options):
            raise UserError(f"--{name} {getattr(options, name)}: {why}; leave one of them out")


def _changed(options: StreamOptions) -> list[str]:
    """The names of the options that differ from their default."""
    return [field.name for field in fields(StreamOptions) if getattr(options, field.name) != field.default]


def tokenization(options: StreamOptions) -> tuple[TextRules, PreTrainedTokenizerBase | None]:
    """How a text is to become tokens, and the tokenizer if the options name one. No text is read.

    Raises: UserError for options that cannot be, and for a tokenizer that is not there or cannot end a document.
    """
    _check(options)
    if options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
        rules = rules_of(tokenizer)
        if rules.unit == "document":
            separator_id(tokenizer)
        return rules, tokenizer
    unit: Any = unit_by_name(options.data) if options.unit == "auto" else options.unit
    if unit == "byte":
        why = "a byte is a byte, and all 256 are in the vocabulary"
        _refuse(options, ("lower_case", "min_count"), why)
        if options.max_vocab is not None and options.max_vocab < NUM_BYTES:
            _refuse(options, ("max_vocab",), why)
    return TextRules(unit, options.lower_case), None


def _prepared(options: StreamOptions, folder: Path | None) -> PreparedStream:
    rules, tokenizer = tokenization(options)
    texts = open_texts(
        options.data, rules.unit, options.encoding, options.text_column, options.valid_fraction, options.test_fraction
    )
    inputs = {
        "corpus": texts.identity(),
        "rules": asdict(rules),
        "max_vocab": options.max_vocab,
        "min_count": options.min_count,
        "tokenizer_sha256": None if tokenizer is None else tokenizer_digest(tokenizer),
        "format": FORMAT_VERSION,
    }
    folder = (default_folder(sha256_json(inputs)) if folder is None else folder).expanduser().resolve()
    if is_prepared(folder):
        found = read_manifest(folder, STREAM)["inputs"]
        if found != inputs:
            raise UserError(
                f"{folder} holds a stream prepared from other inputs ({differences(found, inputs)}): name another "
                "folder, or delete this one"
            )
        return open_stream(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and holds no prepared stream: name a new folder")
    texts.corpus.check()
    with new_folder(folder) as temporary:
        manifest = _make(texts, rules, tokenizer, inputs, temporary)
        texts.corpus.check_unchanged()
        write_manifest(temporary, manifest)
    if read_manifest(folder, STREAM)["files"] == manifest["files"]:  # else another process made it, a little before
        remember_files(folder, manifest)
    return open_stream(folder)


def _given(options: StreamOptions, folder: Path, given: Collection[str] | None) -> PreparedStream:
    """A stream that was prepared before, without its text."""
    stream = open_stream(folder)
    if options.unit not in ("auto", stream.rules.unit):
        raise UserError(f"--unit {options.unit}: the tokens in {folder} are of {stream.rules.unit}s; leave it out")
    if options.tokenizer is not None:
        stated = stream.manifest["inputs"]["tokenizer_sha256"] or tokenizer_digest(stream.tokenizer())
        if tokenizer_digest(load_tokenizer(options.tokenizer)) != stated:
            raise UserError(f"--tokenizer {options.tokenizer!r} is not the one of the stream in {folder}: leave it out")
    for name, stated in _stated(stream.manifest).items():
        value = getattr(options, name)
        if name not in (_changed(options) if given is None else given):
            continue
        expected = getattr(StreamOptions(), name) if stated is None else stated
        if (known_encoding(value) if name == "encoding" else value) != expected:
            prepared = "needed none" if stated is None else f"was prepared with {stated}"
            raise UserError(
                f"--{name} {value}: the stream in {folder} {prepared}; leave it out, or name the text itself with "
                "`--data` to prepare another"
            )
    return stream


def _stated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a stream's manifest says of the options that it was prepared with; None of those that had no say."""
    inputs = manifest["inputs"]
    of_corpus = inputs["corpus"]["options"]
    return {
        "lower_case": manifest["rules"]["lower_case"],
        "max_vocab": inputs["max_vocab"],
        "min_count": inputs["min_count"],
        **{name: of_corpus.get(name) for name in ("encoding", "text_column")},
        **{f"{part}_fraction": of_corpus["fractions"].get(part) for part in ("valid", "test")},
    }


def _make(
    texts: Texts,
    rules: TextRules,
    tokenizer: PreTrainedTokenizerBase | None,
    inputs: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Write all files of a stream but its manifest, which is returned."""
    remedy = REMEDY
    if tokenizer is None:
        remedy = "`--min_count 2` makes one of what is rare in the training part"
        vocabulary = _count(texts, rules, inputs["max_vocab"], inputs["min_count"])
        tokenizer = vocabulary.tokenizer()
    tokenizer.save_pretrained(str(folder / TOKENIZER))
    counts = np.zeros(num_token_ids(tokenizer), dtype=np.int64)
    parts = {part: _write(texts, part, tokenizer, rules, folder, counts, remedy) for part in reversed(PARTS)}
    np.save(folder / COUNTS, counts)
    digests = {f"{part}.bin": parts[part].pop("sha256") for part in PARTS}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return {
        "kind": STREAM,
        "key": sha256_json(inputs),
        "inputs": inputs,
        "corpus_name": texts.corpus.title,
        "rules": asdict(rules),
        "vocab_size": len(counts),
        "dtype": TextEncoder(tokenizer, rules).dtype.name,
        "parts": {part: parts[part] for part in PARTS},
        "files": {
            name: {"num_bytes": path.stat().st_size, "sha256": digests.get(name) or sha256_file(path)}
            for name, path in zip(names, files, strict=True)
        },
    }


def _count(texts: Texts, rules: TextRules, max_vocab: int | None, min_count: int) -> Vocabulary:
    """The vocabulary of the training part."""
    spans = texts.parts["train"]
    with progress(description="Vocabulary", unit="byte", total=texts.corpus.num_bytes, leave=False) as bar:
        if rules.unit == "byte":
            read = (chunk for span in spans for chunk in span.reader.bytes_blocks(span.start, span.stop, bar.update))
            symbols = byte_symbols().__getitem__
            counts = count_codes((np.frombuffer(chunk, np.uint8) for chunk in read), symbols)
        else:
            blocks = (block for _, found in text_blocks(spans, rules, bar.update) for block in found)
            if rules.unit == "word":
                counts = count_words(words_of(block, rules) for block in blocks)
            else:
                counts = count_codes(codes_of(block, rules) for block in blocks)
    _check_size(texts, "train", sum(counts.values()))
    return build_vocabulary(counts, rules, max_vocab, min_count)


def _check_size(texts: Texts, part: str, num_tokens: int) -> None:
    """Raises: UserError where a part has nothing to read or to predict."""
    if num_tokens < MIN_PART_TOKENS:
        names = ", ".join(span.reader.name for span in texts.parts[part])
        remedy = f"choose a larger `--{part}_fraction`" if part in texts.fractions else "add text to it"
        raise UserError(f"the part {part!r} of the text has {num_tokens} token(s) ({names}): {remedy}")


def _write(
    texts: Texts,
    part: str,
    tokenizer: PreTrainedTokenizerBase,
    rules: TextRules,
    folder: Path,
    counts: np.ndarray[Any, np.dtype[np.int64]],
    remedy: str,
) -> dict[str, Any]:
    """Write a part's ids; what they are, and their hash. Those of the training part are counted in `counts`."""
    encoder = TextEncoder(tokenizer, rules, remedy=remedy)
    digest = hashlib.sha256()
    spans = texts.parts[part]
    size = sum(span.reader.size for span in spans)
    with open(folder / f"{part}.bin", "wb") as file:
        with progress(description=f"Tokens of {part}", unit="byte", total=size, leave=False) as bar:
            for ids in encoder.encode(spans, bar.update):
                content = ids.tobytes()
                file.write(content)
                digest.update(content)
                if part == "train":
                    counts += np.bincount(ids, minlength=len(counts))
        file.flush()
        os.fsync(file.fileno())
    tally = encoder.tally
    _check_size(texts, part, tally.num_tokens)
    unit = "num_documents" if rules.unit == "document" else "num_lines"
    return {
        "num_tokens": tally.num_tokens,
        unit: tally.num_lines,
        "num_unknown": tally.num_unknown,
        "sha256": digest.hexdigest(),
    }
