"""Tokenizers: both kinds in the manner of their models, saved and loaded to equal ids, the same every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast, RobertaConfig

from bert.tokenizer import KINDS, TokenizerKind, load_tokenizer, train_tokenizer
from nlp_adan.corpora.pretrained_tokenizer import tokenizer_digest
from nlp_adan.errors import UserError

STEMS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "Seven", "wizards", "quietly", "jam", "jars")
WORDS = [*STEMS, *(one + two for one in STEMS for two in STEMS)]
DOCUMENTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(60)) + f". Number {i}, café!" for i in range(100)]
SENTENCES = ["The quick fox", "a  lazy\ndog, Élan?", "日本 ☃", "", "jam <mask> jars [MASK]"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return train_tokenizer(DOCUMENTS, 300, request.param)


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return train_tokenizer(DOCUMENTS, 320, "bpe")


def test_special_tokens_of_bpe_are_robertas(bpe: PreTrainedTokenizerFast) -> None:
    config = RobertaConfig()
    assert len(bpe) == 320
    assert (bpe.bos_token_id, bpe.pad_token_id, bpe.eos_token_id) == (
        config.bos_token_id,
        config.pad_token_id,
        config.eos_token_id,
    )
    assert (bpe.cls_token, bpe.sep_token, bpe.unk_token, bpe.mask_token) == ("<s>", "</s>", "<unk>", "<mask>")
    assert bpe("fox", "dog").tokens()[0] == "<s>" and bpe("fox", "dog").tokens().count("</s>") == 3
    assert list(bpe("fox", "dog")) == ["input_ids", "attention_mask"]
    assert bpe.num_special_tokens_to_add(pair=False) == 2 and bpe.num_special_tokens_to_add(pair=True) == 4


def test_the_mask_takes_the_space_before_it(bpe: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    bpe.save_pretrained(tmp_path)
    for tokenizer in (bpe, load_tokenizer(str(tmp_path))):
        ids = tokenizer("the <mask> dog", add_special_tokens=False)["input_ids"]
        the = tokenizer("the", add_special_tokens=False)["input_ids"]
        dog = tokenizer(" dog", add_special_tokens=False)["input_ids"]
        assert ids == [*the, tokenizer.mask_token_id, *dog]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_loses_nothing(bpe: PreTrainedTokenizerFast, text: str) -> None:
    ids = bpe(text, add_special_tokens=False)["input_ids"]
    if not set(bpe.all_special_tokens) & set(text.split()) and "<" not in text:
        assert bpe.decode(ids) == text and bpe.unk_token_id not in ids


def test_wordpiece_is_berts() -> None:
    tokenizer = train_tokenizer(DOCUMENTS, 200, "wordpiece")
    assert tokenizer.pad_token_id == BertConfig().pad_token_id == 0
    pair = tokenizer("The FOX", "lazy café")
    assert pair.tokens() == ["[CLS]", "the", "fox", "[SEP]", "lazy", "cafe", "[SEP]"]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert list(pair) == ["input_ids", "token_type_ids", "attention_mask"]
    assert tokenizer("日")["input_ids"][1] == tokenizer.unk_token_id
    assert tokenizer.decode(tokenizer("jumps quickly")["input_ids"], skip_special_tokens=True).startswith("jumps")
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("config", [None, RobertaConfig(), BertConfig()])
def test_saved_tokenizers_load_to_equal_ids(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, config: RobertaConfig | BertConfig | None
) -> None:
    """Also beside a model's configuration, which suggests another class of tokenizer."""
    tokenizer.save_pretrained(tmp_path)
    if config is not None:
        config.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(tokenizer) == 300
    for sentence in SENTENCES:
        assert dict(loaded(sentence, "pair")) == dict(tokenizer(sentence, "pair"))
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert tokenizer_digest(load_tokenizer(str(tmp_path))) == tokenizer_digest(tokenizer)


def test_model_max_length_is_kept(tmp_path: Path) -> None:
    train_tokenizer(DOCUMENTS, 300, "bpe", model_max_length=77).save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).model_max_length == 77


def test_the_same_in_every_process() -> None:
    """Hash tables are seeded anew in each process; many pairs are equally frequent here."""
    code = (
        "import json, sys; from bert.tokenizer import KINDS, train_tokenizer; "
        "from nlp_adan.corpora.pretrained_tokenizer import tokenizer_digest; "
        "documents = json.load(sys.stdin); "
        "print(*(tokenizer_digest(train_tokenizer(documents, 290, kind)) for kind in KINDS))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, input=json.dumps(DOCUMENTS), capture_output=True, text=True, check=True)
    assert result.stdout.split() == [tokenizer_digest(train_tokenizer(DOCUMENTS, 290, kind)) for kind in KINDS]


def test_digest_heeds_the_vocabulary_and_not_the_padding(bpe: PreTrainedTokenizerFast) -> None:
    before = tokenizer_digest(bpe)
    bpe(["fox", "the dog"], padding=True, truncation=True, max_length=5)
    assert tokenizer_digest(bpe) == before
    assert tokenizer_digest(train_tokenizer(DOCUMENTS, 310, "bpe")) != before


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_larger_than_the_text_supports(kind: TokenizerKind) -> None:
    with pytest.raises(UserError) as raised:
        train_tokenizer(DOCUMENTS, 5000, kind)
    message = str(raised.value)
    assert "5,000" in message and "--vocab_size" in message
    remedy = int(message.split("--vocab_size ")[1].split("`")[0])
    assert len(train_tokenizer(DOCUMENTS, remedy, kind)) == remedy


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_smaller_than_the_alphabet(kind: TokenizerKind) -> None:
    with pytest.raises(UserError) as raised:
        train_tokenizer(DOCUMENTS, 20, kind)
    remedy = int(str(raised.value).split("--vocab_size ")[1].split("`")[0])
    assert len(train_tokenizer(DOCUMENTS, remedy, kind)) == remedy


def test_unknown_kind() -> None:
    with pytest.raises(UserError, match=r"'wordpeace' is unknown \(did you mean 'wordpiece'"):
        train_tokenizer(DOCUMENTS, 300, "wordpeace")  # type: ignore[arg-type]


def test_loading_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "my_tokenizer").mkdir()
    with pytest.raises(UserError, match=r"did you mean '.*my_tokenizer'\?"):
        load_tokenizer(str(tmp_path / "my_tokeniser"))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="holds no tokenizer that loads"):
        load_tokenizer(str(tmp_path))


def test_loading_a_tokenizer_without_mask(tmp_path: Path, bpe: PreTrainedTokenizerFast) -> None:
    PreTrainedTokenizerFast(tokenizer_object=bpe.backend_tokenizer, pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no mask token"):
        load_tokenizer(str(tmp_path))
