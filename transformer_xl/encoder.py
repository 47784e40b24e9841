"""Text to token ids, fast: a table lookup for each word, character or byte, in place of a tokenizer's general way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from nlp_adan.corpora.corpus import OnBytes
from nlp_adan.corpora.documents import file_kind, known_encoding
from nlp_adan.corpora.encoding import default_num_workers, encoder_pool
from nlp_adan.corpora.pretrained_tokenizer import num_token_ids
from nlp_adan.corpora.readers import file_reader
from nlp_adan.corpora.text_files import check_text
from nlp_adan.errors import UserError, nearest

from .texts import Span
from .vocabulary import EOS, NUM_CODE_POINTS, TextRules, byte_symbols, lower, rules_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int32]
Unknown = Literal["unk", "error"]
# A longer one is no word: white space does not part the text.
MAX_WORD_CHARS = 1 << 22
# Text of documents that a worker process takes at a time, and text that is worth starting one.
BATCH_CHARS = 1 << 20
MIN_BYTES_FOR_WORKERS = 2_000_000
NO_ID = -1
REMEDY = "take it out of the text, or take a model that was trained with `--min_count 2`"


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest unsigned type of the ids below `vocab_size`."""
    return np.min_scalar_type(vocab_size - 1)


def separator_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id after each document, of a tokenizer that is not from here.

    Raises: UserError where it has no token for that.
    """
    found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if found is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} has no token that ends a document: add one to it "
            "(`eos_token`), or leave `--tokenizer` out"
        )
    return int(found)


class _Words(dict[str, int]):
    """The ids of words, NO_ID for any other."""

    def __missing__(self, word: str) -> int:
        return NO_ID


@dataclass
class Tally:
    """What was encoded: line ends (of documents, these), tokens, those that the vocabulary lacks, the first of them."""

    num_lines: int = 0
    num_tokens: int = 0
    num_unknown: int = 0
    first_unknown: str | None = None


class TextEncoder:
    """The ids of texts by a tokenizer and its rules.

    unknown: whether a token outside of the vocabulary becomes that for the unknown or is an error; remedy: what the
    error of a vocabulary without such a token tells; tally: of all that was encoded.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, rules: TextRules, unknown: Unknown = "unk", remedy: str = REMEDY
    ) -> None:
        if unknown not in ("unk", "error"):
            raise UserError(f"--unknown {unknown!r}{nearest(unknown, ('unk', 'error'))}: choose `unk` or `error`")
        self.tokenizer = tokenizer
        self.rules = rules
        self.unknown = unknown
        self.remedy = remedy
        self.vocab_size = num_token_ids(tokenizer)
        self.dtype = id_dtype(self.vocab_size)
        self.tally = Tally()
        ids = tokenizer.get_vocab()
        if rules.unit == "word":
            self._words = _Words(ids)
        elif rules.unit == "byte":
            self._table = np.array([ids[symbol] for symbol in byte_symbols()], dtype=np.int32)
        elif rules.unit == "character":
            self._table = np.full(NUM_CODE_POINTS, NO_ID, dtype=np.int32)
            single = [(ord(token), number) for token, number in ids.items() if len(token) == 1]
            self._table[[code for code, _ in single]] = [number for _, number in single]

    def encode(self, spans: Sequence[Span], on_bytes: OnBytes) -> Iterator[npt.NDArray[Any]]:
        """The ids of a part, in blocks of `dtype`.

        Raises: UserError for what cannot be read, and for a token outside of the vocabulary where that is an error.
        """
        if self.rules.unit == "document":
            blocks = self._documents(spans, on_bytes)
        elif self.rules.unit == "byte":
            blocks = self._bytes(spans, on_bytes)
        else:
            blocks = self._lines(spans, on_bytes)
        for ids in blocks:
            self.tally.num_tokens += len(ids)
            yield ids.astype(self.dtype)

    def encode_text(self, text: str) -> npt.NDArray[Any]:
        """The ids of a text, as a prompt is: words have an <eos> for each line end in it, and none else.

        Raises: UserError for a token outside of the vocabulary where that is an error.
        """
        if self.rules.unit == "document":
            return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=self.dtype)
        ids = self._table[np.frombuffer(text.encode(), np.uint8)] if self.rules.unit == "byte" else self._ids(text)
        return self._known(ids, text).astype(self.dtype)

    def _bytes(self, spans: Sequence[Span], on_bytes: OnBytes) -> Iterator[Ids]:
        for span in spans:
            for chunk in span.reader.bytes_blocks(span.start, span.stop, on_bytes):
                self.tally.num_lines += chunk.count(b"\n")
                yield self._table[np.frombuffer(chunk, np.uint8)]

    def _lines(self, spans: Sequence[Span], on_bytes: OnBytes) -> Iterator[Ids]:
        for span, blocks in text_blocks(spans, self.rules, on_bytes):
            num_lines = 0
            for block in blocks:
                yield self._known(self._ids(block), block, span, num_lines)
                num_lines += block.count("\n")
            self.tally.num_lines += num_lines

    def _ids(self, block: str) -> Ids:
        if self.rules.unit == "word":
            words = words_of(block, self.rules)
            return np.fromiter(map(self._words.__getitem__, words), np.int32, len(words))
        return self._table[codes_of(block, self.rules)]

    def _known(self, ids: Ids, block: str, span: Span | None = None, num_lines: int = 0) -> Ids:
        """The ids with that of the unknown where there is none; num_lines: of the span, before the block."""
        missing = ids == NO_ID
        if not missing.any():
            return ids
        count = int(missing.sum())
        self.tally.num_unknown += count
        if self.tally.first_unknown is None:
            first = int(missing.argmax())
            if self.rules.unit == "word":
                words = words_of(block, self.rules)
                token, line = words[first], words[:first].count(EOS) + 1
            else:
                text = lower(block) if self.rules.lower_case else block
                token, line = text[first], text[:first].count("\n") + 1
            where = "" if span is None else span.reader.where(span.start, num_lines + line) + ": "
            self.tally.first_unknown = f"{where}the {self.rules.unit} {token[:40]!r}"
        unknown_id = self.tokenizer.unk_token_id
        if self.unknown == "error" or unknown_id is None:
            lacks = "" if unknown_id is not None else ", which has no token for the unknown"
            remedy = self.remedy if unknown_id is None else f"`--unknown unk` takes it for {self.tokenizer.unk_token}"
            raise UserError(f"{self.tally.first_unknown} is not in the vocabulary{lacks}: {remedy}")
        ids[missing] = unknown_id
        return ids

    def _documents(self, spans: Sequence[Span], on_bytes: OnBytes) -> Iterator[npt.NDArray[Any]]:
        separator = separator_id(self.tokenizer)
        unknown_id = self.tokenizer.unk_token_id
        num_bytes = sum(span.reader.size for span in spans)
        num_workers = default_num_workers() if num_bytes > MIN_BYTES_FOR_WORKERS else 0
        dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        with encoder_pool(self.tokenizer, dtype, num_workers) as pool:
            for _, documents in pool.encode((None, batch) for batch in _batches(spans, on_bytes)):
                self.tally.num_lines += len(documents)
                end = np.array([separator], dtype=dtype)
                ids = np.concatenate([part for document in documents for part in (document, end)])
                if unknown_id is not None and unknown_id != separator:
                    self.tally.num_unknown += int((ids == unknown_id).sum())
                yield ids


def encode_file(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    rules: TextRules | None = None,
    unknown: Unknown = "unk",
    encoding: str = "utf-8",
    text_column: str = "text",
) -> tuple[npt.NDArray[Any], int]:
    """A raw file as a model's tokens, and how many of them its vocabulary does not have.

    rules: None for the tokenizer's own; unknown: "unk" replaces a token outside of the vocabulary, "error" reports the
    first; encoding, text_column: as in `StreamOptions`.

    Returns: (num_tokens,) of the smallest unsigned type, all in memory, and a number.

    Raises: UserError for a file that cannot be read or is empty, and for a token outside of the vocabulary where that
    is an error or the vocabulary has none for the unknown.
    """
    rules = rules or rules_of(tokenizer)
    encoding = known_encoding(encoding)
    if not path.is_file():
        what = "is not a file" if path.exists() else "is not there"
        raise UserError(f"--data {str(path)!r} {what}: name a file of text")
    if rules.unit != "byte" and file_kind(path) == ".txt":
        check_text(path, encoding)
    encoder = TextEncoder(tokenizer, rules, unknown)
    reader = file_reader(path, encoding, text_column, parted=True)
    blocks = list(encoder.encode([Span(reader)], lambda num_bytes: None))
    if not encoder.tally.num_tokens:
        raise UserError(f"{path} holds no text: name another file")
    return np.concatenate(blocks), encoder.tally.num_unknown


def text_blocks(spans: Sequence[Span], rules: TextRules, on_bytes: OnBytes) -> Iterator[tuple[Span, Iterator[str]]]:
    """Each span with its text in blocks: for words cut at white space, and every line with its newline character.

    Of characters the text is as it is, with a line end between two sources.
    """
    for number, span in enumerate(spans, start=1):
        if rules.unit == "word":
            yield span, _whole_words(span.blocks(on_bytes, closed=True), span.reader.name)
        else:
            yield span, span.blocks(on_bytes, closed=number < len(spans))


def words_of(block: str, rules: TextRules) -> list[str]:
    """The words of a text, <eos> for each line end."""
    return (lower(block) if rules.lower_case else block).replace("\n", f" {EOS} ").split()


def codes_of(block: str, rules: TextRules) -> npt.NDArray[np.uint32]:
    """The code points of a text."""
    return np.frombuffer((lower(block) if rules.lower_case else block).encode("utf-32-le"), "<u4")


def _whole_words(blocks: Iterable[str], name: str) -> Iterator[str]:
    """The same text in blocks that end at white space."""
    rest = ""
    for block in blocks:
        text = rest + block
        end = max(text.rfind("\n"), text.rfind(" ")) + 1
        rest = text[end:]
        if len(rest) > MAX_WORD_CHARS:
            raise UserError(
                f"{name} has a word of more than {MAX_WORD_CHARS:,} characters ({rest[:20]!r}...): choose "
                "`--unit character`, or part its words with spaces"
            )
        if end:
            yield text[:end]
    if rest:
        yield rest


def _batches(spans: Sequence[Span], on_bytes: OnBytes) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    num_chars = 0
    for span in spans:
        for document in span.reader.documents(span.start, span.stop, on_bytes):
            batch.append(document.encode())
            num_chars += len(document)
            if num_chars >= BATCH_CHARS:
                yield batch
                batch, num_chars = [], 0
    if batch:
        yield batch
