"""Encoding by words gives the ids of the whole text, whatever the text; worker processes give the same, in order."""

from __future__ import annotations

import itertools
import json
import os
import signal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bert.tokenizer import train_tokenizer
from nlp_adan.corpora import word_encoder
from nlp_adan.corpora.encoding import EncoderPool, encoder_pool
from nlp_adan.corpora.word_encoder import BYTE_LEVEL_WORDS, WordEncoder, words_pattern
from nlp_adan.errors import UserError
from tests.corpora import make_documents

TEXT = [*make_documents(60), "don't you'll it's we're — “quoted” café ñandú 12,345.67\n\n\tx = f(y)  # naïve\u00a0text"]
# Where tokenizers cut: all kinds of white space and control characters, contractions, marks, letters of other scripts.
PIECES = st.sampled_from(
    [
        *" \n\t\r'\"-_.,!é—“”日本\u0301\u00a0\u0085\u2028\u3000\u200b\x0b\x0c\x1c\x1f\x7f\x00\ufeff٣²ª\U0001d4b3",
        *("the", "Fox", "'s", "'ll", "'LL", "12", "<mask>", "[MASK]", "</s>", "  ", "\r\n", "dogdog"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.fixture(scope="module", params=["bpe", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXT, 400 if request.param == "bpe" else 300, request.param)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerFast) -> WordEncoder:
    return WordEncoder(tokenizer.backend_tokenizer.to_str(), "H")


def ids(packed: bytes) -> list[int]:
    return np.frombuffer(packed, dtype=np.uint16).tolist()


@settings(max_examples=800, deadline=None)
@given(text=TEXTS)
@example(text="a é b")
@example(text=" 's 'sé x'é")
@example(text="a \x1c b\x1fc")
@example(text="12é é12 \n é")
def test_ids_are_those_of_the_whole_text(text: str, tokenizer: PreTrainedTokenizerFast, encoder: WordEncoder) -> None:
    """One encoder for all texts: words that an earlier one left are used."""
    assert encoder._pattern is not None
    assert ids(encoder.encode([text])[0]) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoder._pattern is not None, "the trial of the first document failed"


def test_words_are_kept_and_forgotten(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tokenizer.backend_tokenizer.to_str()
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXT]
    for limit in (400_000, 10):
        monkeypatch.setattr(word_encoder, "MAX_KEPT_WORDS", limit)
        encoder = WordEncoder(state, "I")
        assert [np.frombuffer(packed, np.uint32).tolist() for packed in encoder.encode(TEXT)] == expected
    assert len(encoder._kept) < 120  # those of the last document and what was there before it
    encoder.encode(["x" * 49 + " y"])
    assert "x" * 49 not in encoder._kept


def test_a_wrong_pattern_is_found_out(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr(word_encoder, "words_pattern", lambda state: re.compile("."))
    encoder = WordEncoder(tokenizer.backend_tokenizer.to_str(), "H")
    assert [ids(packed) for packed in encoder.encode(TEXT)] == [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXT
    ]
    assert encoder._pattern is None


def test_tokenizers_of_another_make_have_no_words() -> None:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert words_pattern(json.loads(bpe.to_str())) is None
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert words_pattern(json.loads(bpe.to_str())) is not None
    bpe.normalizer = normalizers.NFC()
    assert words_pattern(json.loads(bpe.to_str())) is None
    bpe.normalizer, bpe.pre_tokenizer = None, pre_tokenizers.Metaspace()
    assert words_pattern(json.loads(bpe.to_str())) is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_back_in_order(tokenizer: PreTrainedTokenizerFast, num_workers: int) -> None:
    tokenizer("x", truncation=True, max_length=3, padding="max_length")  # settings left over from another use
    batches = [(number, [text.encode() for text in TEXT[number : number + 7]]) for number in range(0, len(TEXT), 7)]
    with encoder_pool(tokenizer, np.uint16, num_workers) as pool:
        found = list(pool.encode(iter(batches)))
    assert [label for label, _ in found] == [label for label, _ in batches]
    flat = [document.tolist() for _, documents in found for document in documents]
    assert flat == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXT]


def test_few_batches_are_read_ahead(tokenizer: PreTrainedTokenizerFast) -> None:
    read = 0

    def batches():  # type: ignore[no-untyped-def]
        nonlocal read
        for read in range(1, 30):
            yield read, [b"the fox"]

    with encoder_pool(tokenizer, np.uint16, 2) as pool:
        assert all(read <= label + 3 for label, _ in pool.encode(batches()))


def test_a_killed_worker_is_reported(tokenizer: PreTrainedTokenizerFast) -> None:
    pool = EncoderPool(tokenizer, np.uint16, 1)
    os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a process that tokenizes ended \(exit status -9\)"):
        list(pool.encode(iter([(0, [b"the fox"])])))
    pool.close()


@pytest.mark.parametrize("control", ["\x1c", "\x1d", "\x1e", "\x1f", "\x1b", "\x7f", "\x85", "\u2028"])
@pytest.mark.parametrize("before", ["!", "a", "7", " ", " !", "'s", ""])
def test_words_end_where_the_tokenizer_cuts(before: str, control: str) -> None:
    """Python counts some control characters as white space that the tokenizer does not: `!\\x1c` is one piece to it."""
    text = f"x {before}{control}! y{control}{before}z"
    ends = {end for _, (_, end) in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)}
    words = BYTE_LEVEL_WORDS.findall(text)
    assert "".join(words) == text
    assert set(itertools.accumulate(map(len, words))) <= ends
