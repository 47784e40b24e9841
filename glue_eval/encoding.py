"""Texts and pairs of texts to token ids, as a tokenizer's own call has them, three times as fast where that is known.

Words are repeated, so each is tokenized once (`nlp_adan.corpora.word_encoder`), and the special tokens, which are the
same around every text, are put there by us. (Of a pair of long documents the library would also make every pair of
their pieces, gigabytes.) Measured on 100,000 pairs of MNLI's, one core: the tokenizer's own call 15 s, this 5 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from nlp_adan.corpora.word_encoder import WordEncoder

Texts = Sequence[tuple[str, str | None]]
BATCH_ROWS = 2000  # at a time: memory stays small
# What both ways are tried on: the beginnings of the first texts, whole and cut to so many tokens.
TRIAL_ROWS, TRIAL_CHARS, TRIAL_LENGTH = 16, 200, 12


class Row(NamedTuple):
    """One example: ids (num_tokens,) uint32, token types (num_tokens,) uint8, and whether it had to be cut."""

    ids: npt.NDArray[np.uint32]
    types: npt.NDArray[np.uint8]
    is_cut: bool


def encoded_rows(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Row]:
    """The examples as `tokenizer(..., truncation=True)` encodes them. Types are zeros where it makes none.

    texts: with a second one in all rows or in none; max_length: tokens of an example, special ones included.
    """
    encode = _PlainEncoder(tokenizer).encode
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        quick = _QuickEncoder(tokenizer).encode
        # A tokenizer whose class does more than its library is found out.
        trial = [(one[:TRIAL_CHARS], None if two is None else two[:TRIAL_CHARS]) for one, two in texts[:TRIAL_ROWS]]
        if all(_equal(encode(trial, length), quick(trial, length)) for length in (max_length, TRIAL_LENGTH)):
            encode = quick
    for begin in range(0, len(texts), BATCH_ROWS):
        yield from encode(texts[begin : begin + BATCH_ROWS], max_length)


def _equal(ours: list[Row], theirs: list[Row]) -> bool:
    return all(
        np.array_equal(one.ids, other.ids) and np.array_equal(one.types, other.types)
        for one, other in zip(ours, theirs, strict=True)
    )


def _row(ids: Sequence[int], types: Sequence[int], is_cut: bool) -> Row:
    return Row(np.array(ids, dtype=np.uint32), np.array(types, dtype=np.uint8), is_cut)


class _PlainEncoder:
    """By any tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def encode(self, texts: Texts, max_length: int) -> list[Row]:
        columns = _columns(texts)
        found: Any = self.tokenizer(*columns, truncation=True, max_length=max_length)
        whole = found["input_ids"]
        if any(len(ids) >= max_length for ids in whole):
            whole = self.tokenizer(*columns, truncation=False, verbose=False)["input_ids"]
        types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
        return [
            _row(ids, kinds, len(full) > max_length)
            for ids, kinds, full in zip(found["input_ids"], types, whole, strict=True)
        ]


def _columns(texts: Texts) -> list[list[str]]:
    """The first texts, and the second ones where there are any."""
    first = [one for one, _ in texts]
    return [first] if texts[0][1] is None else [first, [str(two) for _, two in texts]]


def lengths_when_cut(lengths: Sequence[int], room: int) -> tuple[int, ...]:
    """Tokens that are left of one or two texts in a room of so many: the longer one is cut first, then both alike."""
    if sum(lengths) <= room:
        return tuple(lengths)
    if len(lengths) == 1:
        return (room,)
    short = min(*lengths, room // 2)
    return (short, room - short) if lengths[0] <= lengths[1] else (room - short, short)


class _Frame(NamedTuple):
    """What stands before, between and behind the texts of an example: ids, and the type of each text and of those."""

    special: list[npt.NDArray[np.uint32]]
    special_types: list[npt.NDArray[np.uint8]]
    text_types: list[int]

    @property
    def num_special(self) -> int:
        return sum(map(len, self.special))


class _QuickEncoder:
    """By a tokenizer of the tokenizers library."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.backend: Any = tokenizer.backend_tokenizer
        self.has_types = "token_type_ids" in tokenizer.model_input_names
        self.cuts_left = tokenizer.truncation_side == "left"
        self.words = WordEncoder(self.backend.to_str(), "I")
        self.frame: _Frame | None = None  # not known before there is an example without empty texts

    def encode(self, texts: Texts, max_length: int) -> list[Row]:
        columns = _columns(texts)
        parts = [[np.frombuffer(ids, dtype=np.uint32) for ids in self.words.encode(column)] for column in columns]
        self.backend.no_padding()
        self.backend.no_truncation()
        rows = []
        for number, row in enumerate(zip(*parts, strict=True)):
            example = [column[number] for column in columns]
            if self.frame is None and all(map(len, row)):
                self.frame = self._frame_of(example)
            if self.frame is None:
                rows.append(self._library_row(example, max_length))
            else:
                rows.append(self._framed(row, self.frame, max_length))
        return rows

    def _library_row(self, example: list[str], max_length: int) -> Row:
        found = self.backend.encode(*example)
        is_cut = len(found.ids) > max_length
        if is_cut:
            side = "left" if self.cuts_left else "right"
            self.backend.enable_truncation(max_length, strategy="longest_first", direction=side)
            found = self.backend.encode(*example)
            self.backend.no_truncation()
        return _row(found.ids, found.type_ids if self.has_types else [0] * len(found.ids), is_cut)

    def _frame_of(self, example: list[str]) -> _Frame:
        """Seen on an example without empty texts, in which the library says which tokens are of which text."""
        found = self.backend.encode(*example)
        special: list[list[int]] = [[] for _ in range(len(example) + 1)]
        special_types: list[list[int]] = [[] for _ in range(len(example) + 1)]
        text_types = [0] * len(example)
        place = 0
        for token, kind, text in zip(found.ids, found.type_ids, found.sequence_ids, strict=True):
            if text is None:
                special[place].append(token)
                special_types[place].append(kind)
            else:
                place, text_types[text] = text + 1, kind
        return _Frame(
            [np.array(ids, dtype=np.uint32) for ids in special],
            [np.array(kinds, dtype=np.uint8) for kinds in special_types],
            text_types,
        )

    def _framed(self, texts: Sequence[npt.NDArray[np.uint32]], frame: _Frame, max_length: int) -> Row:
        lengths = [len(text) for text in texts]
        left = lengths_when_cut(lengths, max_length - frame.num_special)
        ids, types = [frame.special[0]], [frame.special_types[0]]
        for number, (text, length) in enumerate(zip(texts, left, strict=True)):
            ids += [text[len(text) - length :] if self.cuts_left else text[:length], frame.special[number + 1]]
            types += [np.full(length, frame.text_types[number], dtype=np.uint8), frame.special_types[number + 1]]
        row = np.concatenate(ids)
        kinds = np.concatenate(types) if self.has_types else np.zeros(len(row), dtype=np.uint8)
        return Row(row, kinds, sum(left) < sum(lengths))
