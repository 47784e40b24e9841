"""Vocabularies: their order, their tokenizers, and that the fast encoder gives what the tokenizer does."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nlp_adan.corpora import readers, text_files
from nlp_adan.errors import UserError
from transformer_xl import encoder
from transformer_xl.encoder import TextEncoder, encode_file, id_dtype
from transformer_xl.vocabulary import (
    RULES_KEY,
    TextRules,
    Vocabulary,
    build_vocabulary,
    byte_symbols,
    count_codes,
    lower,
    rules_of,
    vocabulary_from_file,
)

WORD, CHARACTER, BYTE = TextRules("word"), TextRules("character"), TextRules("byte")
TEXT = "the cat sat\n\n the dog , the  cat\n"
# Letters whose lower case is two characters or depends on the context, white space of every kind, line ends.
ODD = "abΣςİß\u00a0\u2028\u3000\x1c\x85\t 日é\U0001f600\r\n\n"


def saved(vocabulary: Vocabulary, folder: Path) -> Any:
    """A vocabulary's tokenizer as AutoTokenizer loads it."""
    vocabulary.tokenizer().save_pretrained(str(folder))
    return AutoTokenizer.from_pretrained(str(folder))


def words(text: str, rules: TextRules = WORD) -> Counter[str]:
    return Counter(encoder.words_of(text, rules))


def test_words_stand_by_falling_count_and_first_occurrence() -> None:
    vocabulary = build_vocabulary(words("b a c b a d c e\nb\n"), WORD)
    assert vocabulary.tokens == ("<eos>", "b", "a", "c", "d", "e") and vocabulary.unknown is None
    with_unknown = build_vocabulary(words("x <unk> y <unk> x x\n"), WORD)
    assert with_unknown.tokens == ("<eos>", "x", "<unk>", "y") and with_unknown.unknown == "<unk>"
    characters = build_vocabulary(Counter("abcbca\n"), CHARACTER)
    assert characters.tokens == ("a", "b", "c", "\n") and characters.unknown is None


def test_the_commonest_are_kept_and_the_rest_is_one_unknown_token() -> None:
    counts = words("a a a a b b b c c d e f\n")
    assert build_vocabulary(counts, WORD, max_vocab=4).tokens == ("<eos>", "<unk>", "a", "b")  # 5 unknown, 4 a
    assert build_vocabulary(counts, WORD, max_vocab=5).tokens == ("<eos>", "a", "b", "<unk>", "c")  # 3 unknown, 3 b
    assert build_vocabulary(counts, WORD, min_count=2).tokens == ("<eos>", "a", "b", "<unk>", "c")
    assert build_vocabulary(counts, WORD, min_count=3, max_vocab=3).tokens == ("<eos>", "<unk>", "a")
    assert build_vocabulary(counts, WORD, max_vocab=7).tokens == ("<eos>", "a", "b", "c", "d", "e", "f")
    has_own = words("<unk> a a a b b c\n")
    assert build_vocabulary(has_own, WORD, max_vocab=3).tokens == ("<eos>", "<unk>", "a")  # 1 + 3 unknown
    assert build_vocabulary(has_own, WORD, max_vocab=4).tokens == ("<eos>", "a", "b", "<unk>")  # 1 + 1 unknown, 2 b
    assert build_vocabulary(Counter("aab"), CHARACTER, min_count=2).tokens == ("a", "\ufffd")
    with pytest.raises(UserError, match="--max_vocab 2 leaves no place for a word"):
        build_vocabulary(counts, WORD, max_vocab=2)


@settings(max_examples=100, deadline=None)
@given(st.text("abcdefgh ", max_size=60), st.integers(3, 12), st.integers(1, 4))
def test_cut_offs_keep_their_word(text: str, max_vocab: int, min_count: int) -> None:
    counts = words(text + " <unk>" * (len(text) % 3))
    vocabulary = build_vocabulary(counts.copy(), WORD, max_vocab, min_count)
    tokens = vocabulary.tokens
    assert len(tokens) == len(set(tokens)) <= max_vocab and tokens[0] == "<eos>"
    kept = [counts[token] for token in tokens if token not in ("<eos>", "<unk>")]
    assert kept == sorted(kept, reverse=True) and all(count >= min_count for count in kept)
    left_out = set(counts) - set(tokens)
    assert all(counts[word] <= min(kept, default=10**9) for word in left_out)
    assert (vocabulary.unknown is not None) == ("<unk>" in tokens) == (bool(left_out) or "<unk>" in counts)
    if len(tokens) < max_vocab:
        assert all(counts[word] < min_count for word in left_out)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abé日\U0001f600 \n", min_size=1, max_size=30), max_size=4))
def test_code_points_are_counted_in_the_order_of_first_occurrence(blocks: list[str]) -> None:
    counts = count_codes(encoder.codes_of(block, CHARACTER) for block in blocks)
    assert list(counts.items()) == list(Counter("".join(blocks)).items())
    raw = [np.frombuffer(block.encode(), np.uint8) for block in blocks]
    symbols = byte_symbols()
    expected = Counter(symbols[byte] for byte in "".join(blocks).encode())
    assert list(count_codes(raw, symbols.__getitem__).items()) == list(expected.items())


def test_counting_takes_no_pass_over_the_text_for_each_character() -> None:
    """Of 20,000 kinds in a block of 400,000: at most twice the time of Python's own counter; measured: half."""
    block = np.random.default_rng(0).integers(0x4E00, 0x4E00 + 20_000, 400_000).astype(np.uint32)
    text = block.tobytes().decode("utf-32-le")
    seconds = []
    for count in (lambda: Counter(text), lambda: count_codes([block])):
        began = time.process_time()
        counts = count()
        seconds.append(time.process_time() - began)
    assert list(counts.items()) == list(Counter(text).items())
    assert seconds[1] < 2 * seconds[0]


def test_byte_symbols_are_those_of_the_tokenizers_library() -> None:
    cutter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert set(byte_symbols()) == set(pre_tokenizers.ByteLevel.alphabet())
    text = "".join(map(chr, range(0x250))) + "日\U0001f600"
    symbols = byte_symbols()
    assert "".join(symbols[byte] for byte in text.encode()) == cutter.pre_tokenize_str(text)[0][0]


def test_every_byte_has_an_id() -> None:
    vocabulary = build_vocabulary(count_codes([np.frombuffer(b"aab", np.uint8)], byte_symbols().__getitem__), BYTE)
    assert vocabulary.tokens[:2] == ("a", "b") and len(set(vocabulary.tokens)) == 256
    coder = TextEncoder(vocabulary.tokenizer(), BYTE)
    assert coder.dtype == np.uint8 and list(coder.encode_text("abé")[:2]) == [0, 1]


@pytest.fixture(scope="module")
def odd_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    found = []
    for unit in ("word", "character", "byte"):
        for lower_case in (False, True)[: 1 if unit == "byte" else 2]:
            rules = TextRules(unit, lower_case)
            seen = "a b Σ ς i\u0307 日 ab\n a b a"
            counts = words(seen, rules) if unit == "word" else Counter(lower(seen) if lower_case else seen)
            vocabulary = build_vocabulary(Counter() if unit == "byte" else counts, rules, min_count=2)
            found.append(saved(vocabulary, tmp_path_factory.mktemp("tokenizer")))
    return found


@settings(max_examples=60, deadline=None)
@given(st.text(ODD, max_size=40))
def test_the_encoder_gives_what_the_tokenizer_gives(odd_tokenizers: list[Any], text: str) -> None:
    for tokenizer in odd_tokenizers:
        rules = rules_of(tokenizer)
        plain = text if rules.unit == "byte" else text.replace("\r\n", "\n").replace("\r", "\n")
        ids = TextEncoder(tokenizer, rules).encode_text(plain)
        assert ids.tolist() == tokenizer(text)["input_ids"], rules


def test_lower_case_is_alike_at_the_end_of_a_word(tmp_path: Path) -> None:
    sigma, final = "\u03b1\u03c3", "\u03b1\u03c2"  # what Python makes of the second letter there, and does not
    tokenizer = saved(Vocabulary(("<eos>", sigma, final), TextRules("word", lower_case=True)), tmp_path)
    assert sigma.upper().lower() == final
    assert TextEncoder(tokenizer, rules_of(tokenizer)).encode_text(sigma.upper()).tolist() == [1]
    assert tokenizer(sigma.upper())["input_ids"] == [1]


def test_rules_go_with_the_tokenizer(tmp_path: Path) -> None:
    rules = TextRules("word", lower_case=True)
    tokenizer = saved(build_vocabulary(words(TEXT), rules), tmp_path / "one")
    tokenizer.save_pretrained(str(tmp_path / "two"))
    assert rules_of(AutoTokenizer.from_pretrained(str(tmp_path / "two"))) == rules
    assert tokenizer("The CAT\n")["input_ids"] == [tokenizer.convert_tokens_to_ids(t) for t in ("the", "cat", "<eos>")]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    assert rules_of(other) == TextRules("document") and RULES_KEY not in other.init_kwargs


def test_decoded_text_is_readable(tmp_path: Path) -> None:
    tokenizer = saved(build_vocabulary(words(TEXT + "##s <unk>"), WORD), tmp_path / "words")
    ids = TextEncoder(tokenizer, WORD).encode_text(TEXT + "##s bird <eos>")
    assert tokenizer.decode(ids) == "the cat sat\n\nthe dog , the cat\n##s <unk>\n"
    for rules in (CHARACTER, BYTE):
        counts = Counter(TEXT + "é日") if rules.unit == "character" else Counter[str]()
        coder = saved(build_vocabulary(counts, rules), tmp_path / rules.unit)
        assert coder.decode(TextEncoder(coder, rules).encode_text(TEXT + "é日")) == TEXT + "é日"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few characters, so that every kind of cut comes up."""
    for module in (text_files, readers):
        monkeypatch.setattr(module, "CHUNK_BYTES", 7)


@pytest.mark.parametrize("unit", ["word", "character", "byte"])
def test_a_file_in_blocks_gives_what_its_text_gives(unit: Any, tmp_path: Path, small_blocks: None) -> None:
    text = "\ufeff" + "the cat \u3000 sat\r\n\r\n日本 é\U0001f600 longerthanblock\rthe  end" * 3
    file = tmp_path / "a.txt"
    file.write_bytes(text.encode())
    rules = TextRules(unit)
    plain = text[1:].replace("\r\n", "\n").replace("\r", "\n") + ("\n" if unit == "word" else "")
    counts = words(plain) if unit == "word" else Counter(plain if unit == "character" else "")
    tokenizer = build_vocabulary(counts, rules).tokenizer()
    ids, num_unknown = encode_file(file, tokenizer)
    expected = TextEncoder(tokenizer, rules).encode_text(text if unit == "byte" else plain)
    assert num_unknown == 0 and ids.dtype == np.uint8 and ids.tolist() == expected.tolist()


def test_unknown_tokens_are_counted_or_reported(tmp_path: Path) -> None:
    with_unknown = build_vocabulary(words(TEXT + "<unk>"), WORD).tokenizer()
    file = tmp_path / "b.txt"
    file.write_text("the cat\nand the bird sat and\n")
    ids, num_unknown = encode_file(file, with_unknown)
    assert num_unknown == 3 and ids.tolist() == with_unknown("the cat\nand the bird sat and\n")["input_ids"]
    with pytest.raises(UserError, match=r"b\.txt, line 2: the word 'and' is not in the vocabulary: `--unknown unk`"):
        encode_file(file, with_unknown, unknown="error")
    without = build_vocabulary(words(TEXT), WORD).tokenizer()
    with pytest.raises(UserError, match=r"line 2: the word 'and' .* no token for the unknown: .*`--min_count 2`"):
        encode_file(file, without)
    assert encode_file(file, build_vocabulary(words("the cat and bird sat"), WORD).tokenizer(), unknown="error")[1] == 0
    characters = build_vocabulary(Counter("the ca\nsatt"), CHARACTER, min_count=2).tokenizer()
    assert encode_file(file, characters)[1] == sum(character not in "at" for character in file.read_text())
    with pytest.raises(UserError, match=r"line 2: the character 'n' is not"):
        encode_file(file, build_vocabulary(Counter("the cat\n\ufffd"), CHARACTER).tokenizer(), unknown="error")
    with pytest.raises(UserError, match=r"--unknown 'eror' \(did you mean 'error'\?\)"):
        encode_file(file, characters, unknown="eror")  # type: ignore[arg-type]


def test_files_that_cannot_be_evaluated(tmp_path: Path) -> None:
    tokenizer = build_vocabulary(words(TEXT), WORD).tokenizer()
    file = tmp_path / "c.txt"
    for content, told in (
        (b"", "holds no text"),
        (b"the\ncaf\xe9", "line 2: byte 7"),
        (b"PK\x03\x04", "a ZIP archive"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=told):
            encode_file(file, tokenizer)
    with pytest.raises(UserError, match="is not there"):
        encode_file(tmp_path / "d.txt", tokenizer)
    with pytest.raises(UserError, match="is not a file"):
        encode_file(tmp_path, tokenizer)
    file.write_bytes("the é\n".encode("latin-1"))
    assert encode_file(file, build_vocabulary(words("the é"), WORD).tokenizer(), encoding="latin-1")[0].tolist() == [
        1,
        2,
        0,
    ]


def test_text_without_white_space_is_not_of_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "MAX_WORD_CHARS", 20)
    (tmp_path / "a.txt").write_text("the " + "x" * 30)
    with pytest.raises(UserError, match=r"a\.txt has a word of more than 20 characters .*`--unit character`"):
        encode_file(tmp_path / "a.txt", build_vocabulary(words(TEXT), WORD).tokenizer())


def test_another_tokenizer_takes_documents(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "</s>": 3, "<unk>": 9}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    (tmp_path / "a.txt").write_text("a b\nb\n\n\nc a\n\n")
    ids, num_unknown = encode_file(tmp_path / "a.txt", tokenizer)
    assert (ids.tolist(), num_unknown) == ([1, 2, 2, 3, 9, 1, 3], 1)
    (tmp_path / "b.jsonl").write_text('{"body": "a\\n\\nb"}\n{"body": "a"}\n')
    assert encode_file(tmp_path / "b.jsonl", tokenizer, text_column="body")[0].tolist() == [1, 2, 3, 1, 3]
    bare = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(UserError, match="no token that ends a document"):
        encode_file(tmp_path / "a.txt", bare)


def test_ids_take_the_smallest_type() -> None:
    assert [id_dtype(size).name for size in (2, 256, 257, 65536, 65537)] == [
        "uint8",
        "uint8",
        "uint16",
        "uint16",
        "uint32",
    ]


def test_a_vocabulary_from_a_list_of_words(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("<eos>\nthe\n日本\n<unk>\n", encoding="utf-8")
    vocabulary = vocabulary_from_file(file)
    assert vocabulary.tokens == ("<eos>", "the", "日本", "<unk>") and vocabulary.unknown == "<unk>"
    tokenizer = saved(vocabulary_from_file(file, lower_case=True), tmp_path / "tokenizer")
    assert tokenizer("THE  日本 x\n")["input_ids"] == [1, 2, 3, 0]
    file.write_text("<UNK>\n<eos>")
    assert vocabulary_from_file(file).unknown == "<UNK>"
    for content, told in (
        ("<eos>\nthe cat\n", r"line 2: 'the cat' is not one word"),
        ("<eos>\n\nthe\n", r"line 2: '' is not one word"),
        ("a\n<eos>\na\n", r"line 3: 'a' stands on line 1 already"),
        ("a\nb\n", "has no <eos>"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=told):
            vocabulary_from_file(file)
