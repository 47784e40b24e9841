"""Tokenized examples: as the tokenizer encodes them, kept once, padded to the longest of a batch."""

from __future__ import annotations

import dataclasses
import itertools
import pydoc_data.topics
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer

from bert.tokenizer import TokenizerKind, train_tokenizer
from glue_eval import encoding
from glue_eval import examples as examples_module
from glue_eval.data import Split
from glue_eval.examples import (
    Examples,
    Padding,
    SortedExamples,
    Tokens,
    TrainingExamples,
    tokenize,
    tokenizer_digest,
)
from glue_eval.tasks import TASKS
from nlp_adan.training.order import EpochOrder
from tests.tiny_glue import WORDS, tiny_tokenizer

PAIRS = [(" ".join(WORDS[: 1 + n % 9]), " ".join(WORDS[n % 5 : 10])) for n in range(40)]
SINGLES = [(first, None) for first, _ in PAIRS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def split_of(texts: Any) -> Split:
    return Split(TASKS["RTE"], "train", Path("train.tsv"), texts, None, [str(n) for n in range(len(texts))])


def rows(tokens: Tokens, flat: Any) -> list[list[int]]:
    return [flat[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


@pytest.mark.parametrize("texts", [PAIRS, SINGLES], ids=["pairs", "singles"])
@pytest.mark.parametrize("max_length", [64, 9])
@pytest.mark.parametrize("quick", [True, False])
def test_as_the_tokenizer_encodes(texts: Any, max_length: int, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way and the plain one; what the tokenizer itself says is the oracle."""
    tokenizer = tiny_tokenizer()
    first, second = [one for one, _ in texts], None if texts is SINGLES else [two for _, two in texts]
    whole = tokenizer(first, second)
    expected = tokenizer(first, second, truncation=True, max_length=max_length)
    if not quick:
        monkeypatch.setattr(encoding, "_equal", lambda *_: False)
    tokens = tokenize(split_of(texts), tokenizer, max_length)
    assert rows(tokens, tokens.ids) == expected["input_ids"]
    assert rows(tokens, tokens.types) == expected["token_type_ids"]
    assert tokens.num_cut == sum(len(ids) > max_length for ids in whole["input_ids"])
    assert (tokens.num_cut > 0) == (max_length == 9)
    assert tokens.lengths.tolist() == [len(ids) for ids in expected["input_ids"]]
    assert isinstance(tokens.ids, np.memmap) and tokens.ids.dtype == np.uint16


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_texts_of_all_sorts(kind: TokenizerKind) -> None:
    """Empty ones, accents, emoji, special tokens as text; also where the first rows have no tokens at all."""
    texts = [text[:2000] for text in [*pydoc_data.topics.topics.values()][:30]]
    tokenizer = train_tokenizer(texts, 400, kind, model_max_length=64)
    odd = ["", " ", "Na\u00efve caf\u00e9 \U0001f600!", tokenizer.sep_token, "a" * 90, "\u4e2d\u6587 x\u00a0y", "\t"]
    some = [text[:120] for text in texts[:6]]
    rows_of_text = [("", ""), ("", some[0]), *itertools.product([*odd, *some], repeat=2)]
    for max_length in (8, 40):
        tokens = tokenize(split_of(rows_of_text), tokenizer, max_length)
        first, second = ([row[place] for row in rows_of_text] for place in (0, 1))
        expected = tokenizer(first, second, truncation=True, max_length=max_length)
        assert rows(tokens, tokens.ids) == expected["input_ids"]
        whole = tokenizer(first, second, verbose=False)["input_ids"]
        assert tokens.num_cut == sum(len(ids) > max_length for ids in whole)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=2), st.integers(4, 24), st.sampled_from(["left", "right"]))
def test_what_is_left_of_long_texts(lengths: list[int], max_length: int, side: str) -> None:
    """The tokenizers library is the oracle."""
    tokenizer = tiny_tokenizer(truncation_side=side)
    words = [[" ".join(WORDS[:length])] for length in lengths]
    (expected,) = tokenizer(*words, truncation=True, max_length=max_length)["input_ids"]
    texts = [("w1", "w2" if len(words) == 2 else None), (words[0][0], words[1][0] if len(words) == 2 else None)]
    found = list(encoding.encoded_rows(texts, tokenizer, max_length))[1]
    assert found.ids.tolist() == expected
    assert found.is_cut == (len(tokenizer(*words)["input_ids"][0]) > max_length)


def test_pairs_of_long_documents_take_no_more_memory_than_they_are() -> None:
    """The library makes every pair of their pieces: here 250,000 rows."""
    long = " ".join(WORDS * 100)
    tokens = tokenize(split_of([("w1", "w2"), (long, long)]), tiny_tokenizer(), 11)
    assert tokens.lengths.tolist() == [5, 11] and tokens.num_cut == 1


def test_texts_without_tokens_are_framed_too() -> None:
    """The first rows do not show where a text stands between the special tokens."""
    texts = [("", "")] * 2100 + [("w1", "w2 w3"), ("", "w4")]
    tokens = tokenize(split_of(texts), tiny_tokenizer(), 9)
    expected = tiny_tokenizer()([one for one, _ in texts], [two for _, two in texts])
    assert rows(tokens, tokens.ids) == expected["input_ids"] and tokens.num_cut == 0
    assert rows(tokens, tokens.types) == expected["token_type_ids"]


def test_tokenizers_in_python_have_their_turn() -> None:
    tokens = tokenize(split_of([("abc", "de"), ("f", "ghijkl")]), ByT5Tokenizer(), 7)
    expected = ByT5Tokenizer()(["abc", "f"], ["de", "ghijkl"], truncation=True, max_length=7)
    assert rows(tokens, tokens.ids) == expected["input_ids"]
    assert tokens.types is None and tokens.num_cut == 1


def count_writing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an item for every time that tokens are made."""
    written: list[int] = []
    write = examples_module._write_tokens

    def write_tokens(*given: Any) -> None:
        written.append(1)
        write(*given)

    monkeypatch.setattr(examples_module, "_write_tokens", write_tokens)
    return written


def test_what_was_tokenized_once_is_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = count_writing(monkeypatch)
    tokenizer = tiny_tokenizer()
    tokenize(split_of(PAIRS), tokenizer, 9)
    digest = tokenizer_digest(tokenizer)
    tokenizer(["w1"], truncation=True, padding="max_length", max_length=5)  # sets the library's own state
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    again = AutoTokenizer.from_pretrained(tmp_path / "elsewhere")
    assert tokenizer_digest(tokenizer) == tokenizer_digest(again) == digest
    tokenize(split_of(PAIRS), again, 9)
    assert len(written) == 1
    tokenize(split_of(PAIRS), tokenizer, 10)  # another length
    tokenize(split_of([*PAIRS[:-1], ("w1", "w2")]), tokenizer, 9)  # another text
    tokenize(split_of(PAIRS), tiny_tokenizer(WORDS[::-1]), 9)  # another tokenizer
    tokenize(split_of(PAIRS), tiny_tokenizer(truncation_side="left"), 9)
    assert len(written) == 5


def test_of_several_that_ask_together_one_tokenizes(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    written = count_writing(monkeypatch)
    found: list[Tokens] = []
    threads = [
        threading.Thread(target=lambda: found.append(tokenize(split_of(PAIRS), tiny_tokenizer(), 9))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(written) == 1
    assert all(np.array_equal(tokens.ids, found[0].ids) for tokens in found)


def make_examples(on_left: bool = False, multiple: int = 1, max_length: int = 9, types: bool = True) -> Examples:
    tokens = tokenize(split_of(PAIRS), tiny_tokenizer(), max_length)
    tokens = tokens if types else dataclasses.replace(tokens, types=None)
    labels = np.arange(len(PAIRS), dtype=np.int64)
    return Examples(tokens, labels, Padding(token_id=7, type_id=3, on_left=on_left, multiple=multiple), max_length)


@pytest.mark.parametrize("on_left", [False, True])
def test_a_batch_is_padded_to_its_longest(on_left: bool) -> None:
    tokenizer = tiny_tokenizer(padding_side="left" if on_left else "right")
    examples = Examples(
        tokenize(split_of(SINGLES), tokenizer, 64), np.arange(40, dtype=np.int64), Padding.of(tokenizer), 64
    )
    batch = examples.__getitems__([0, 3, 1])
    expected = tokenizer([SINGLES[index][0] for index in (0, 3, 1)], padding=True, return_tensors="pt")
    assert set(batch) == {*expected, "labels"} and batch["labels"].tolist() == [0, 3, 1]
    assert batch["input_ids"].shape[1] == 6  # four words
    for name in expected:
        assert torch.equal(batch[name], expected[name]), name


def test_padding_has_the_tokenizers_values() -> None:
    batch = make_examples(max_length=64).__getitems__([0, 8])
    gaps = batch["attention_mask"] == 0
    assert gaps.sum() == make_examples(max_length=64).tokens.lengths[[8, 0]] @ [1, -1] > 0
    assert (batch["input_ids"][gaps] == 7).all() and (batch["token_type_ids"][gaps] == 3).all()
    assert "token_type_ids" not in make_examples(types=False).__getitems__([0])


def test_many_tokens_want_wider_numbers() -> None:
    words = [f"v{number}" for number in range(70_000)]
    tokens = tokenize(split_of([("v1", "v69999"), ("v2", "v3")]), tiny_tokenizer(words), 64)
    assert tokens.ids.dtype == np.uint32 and tokens.ids.max() == 69_999 + 5


@pytest.mark.parametrize(("max_length", "width"), [(64, 24), (19, 19)])
def test_widths_are_multiples_as_far_as_the_length_allows(max_length: int, width: int) -> None:
    examples = make_examples(multiple=8, max_length=max_length)
    longest = int(examples.tokens.lengths.argmax())
    assert 16 < examples.tokens.lengths[longest] <= min(22, max_length)
    assert examples.__getitems__([longest])["input_ids"].shape[1] == width


def test_training_goes_by_position() -> None:
    examples, order = make_examples(), EpochOrder(40, 3)
    dataset = TrainingExamples(examples, order)
    positions = np.array([38, 39, 40, 41])  # over an epoch's end
    assert dataset.num_samples == 40
    assert dataset[positions]["labels"].tolist() == order.at(positions)[1].tolist()


def test_predictions_find_their_way_back() -> None:
    examples = make_examples(max_length=64)
    ordered = SortedExamples(examples)
    assert len(ordered) == 40
    batches = [ordered.__getitems__(list(range(begin, min(begin + 8, 40)))) for begin in range(0, 40, 8)]
    assert all("labels" not in batch for batch in batches)
    lengths = torch.cat([batch["attention_mask"].sum(dim=1) for batch in batches])
    assert (lengths.diff() <= 0).all()
    assert lengths.numpy()[ordered.places].tolist() == examples.tokens.lengths.tolist()
