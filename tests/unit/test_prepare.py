"""Preparing data: packing, the split, the files, what makes a new preparation, and what is said of bad input."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bert import build, making, packing, prepare
from bert.build import IsValid, Plan, block_format
from bert.packing import BlockFormat, PartWriter, ShardEntry
from bert.prepare import open_prepared, prepare_pretraining_data
from bert.provenance import preparation
from bert.shards import shard_name
from bert.tokenizer import train_tokenizer
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.errors import UserError
from tests.corpora import make_documents


def in_valid(document: str, fraction: float, seed: int) -> bool:
    return IsValid(fraction, seed)(document.encode())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(make_documents(100), 300)


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n\n".join(make_documents(200)), encoding="utf-8")
    return file


def pack(folder: Path, documents: list[list[int]], form: BlockFormat) -> tuple[PartWriter, np.ndarray]:
    entries: list[ShardEntry] = []
    writer = PartWriter(folder, "train", form, 7, lambda _, entry: entries.append(entry))
    for ids in documents:
        writer.add(np.array(ids, dtype=form.dtype))
    writer.finish()
    assert [entry.num_blocks for entry in entries[:-1]] == [7] * (len(entries) - 1)
    content = b"".join((folder / shard_name("train", entry.shard)).read_bytes() for entry in entries)
    return writer, np.frombuffer(content, dtype=form.dtype).reshape(-1, form.block_size)


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(5, 99), max_size=40), max_size=30),
    num_content=st.integers(1, 20),
    prefix=st.sampled_from([(), (0,), (0, 3)]),
    suffix=st.sampled_from([(), (2,)]),
    separator=st.sampled_from([None, 2]),
    written=st.integers(1, 50),
    vocab_size=st.sampled_from([100, 70_000]),
)
def test_blocks_without_their_ends_are_the_stream(
    documents: list[list[int]],
    num_content: int,
    prefix: tuple[int, ...],
    suffix: tuple[int, ...],
    separator: int | None,
    written: int,
    vocab_size: int,
) -> None:
    form = BlockFormat(num_content + len(prefix) + len(suffix), prefix, suffix, separator, vocab_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "MIN_WRITTEN_TOKENS", written)
        with tempfile.TemporaryDirectory() as folder:
            writer, blocks = pack(Path(folder), documents, form)
    stream: list[int] = []
    for ids in filter(None, documents):
        stream += ([separator] if stream and separator is not None else []) + ids
    num_blocks = len(stream) // num_content
    assert blocks.shape == (num_blocks, form.block_size) and writer.num_blocks == num_blocks
    assert blocks.dtype == (np.uint16 if vocab_size == 100 else np.uint32)
    content = blocks[:, len(prefix) : len(prefix) + num_content]
    assert content.reshape(-1).tolist() == stream[: num_blocks * num_content]
    assert (blocks[:, : len(prefix)] == prefix).all() and (blocks[:, len(prefix) + num_content :] == suffix).all()
    assert writer.num_dropped_tokens == len(stream) - num_blocks * num_content < num_content
    assert writer.counts.tolist() == np.bincount(content.reshape(-1), minlength=vocab_size).tolist()
    assert writer.num_document_tokens == sum(map(len, documents))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=20), unique=True), st.randoms(), st.integers(0, 5))
def test_split_is_stable_under_reordering_and_growth(documents: list[str], generator: random.Random, seed: int) -> None:
    part = {document: in_valid(document, 0.3, seed) for document in documents}
    shuffled = [*documents, "a new one"]
    generator.shuffle(shuffled)
    assert all(in_valid(document, 0.3, seed) == part[document] for document in shuffled if document in part)
    # a larger part holds the smaller one
    assert all(in_valid(document, 0.6, seed) for document in documents if part[document])


def test_split_has_the_share_and_heeds_the_seed() -> None:
    documents = [str(i) for i in range(4000)]
    chosen = [{text for text in documents if in_valid(text, 0.1, seed)} for seed in (0, 1)]
    assert all(320 <= len(part) <= 480 for part in chosen)  # 400, standard deviation 19
    assert len(chosen[0] & chosen[1]) < 100  # 40 by chance


def test_prepared_files_hold_the_corpus(corpus_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    corpus = open_corpus(str(corpus_file))
    data = prepare.prepare(corpus, tokenizer, 32, 0.2, tmp_path / "data", seed=3)
    manifest = data.manifest
    assert data.train.dtype == np.uint16 and data.train.block_size == data.valid.block_size == data.block_size == 32
    every = {
        part: blocks.read(np.arange(len(blocks))) for part, blocks in (("train", data.train), ("valid", data.valid))
    }
    for part, is_valid in (("train", False), ("valid", True)):
        blocks = every[part]
        documents = [text for text in corpus.documents() if in_valid(text, 0.2, 3) is is_valid]
        ids: list[int] = []
        for text in documents:
            ids += ([tokenizer.sep_token_id] if ids else []) + tokenizer(text, add_special_tokens=False)["input_ids"]
        assert blocks[:, 1:-1].reshape(-1).tolist() == ids[: len(blocks) * 30]
        assert (blocks[:, 0] == tokenizer.cls_token_id).all() and (blocks[:, -1] == tokenizer.sep_token_id).all()
        entry = manifest[part]
        assert entry["num_documents"] == len(documents) and entry["num_blocks"] == len(ids) // 30 == len(blocks)
        assert entry["num_chars"] == sum(map(len, documents))
    expected = np.bincount(every["train"].reshape(-1), minlength=300)
    expected[tokenizer.all_special_ids] = 0
    assert data.unigram_counts.dtype == np.int64 and data.vocab_size == 300
    assert data.unigram_counts.tolist() == expected.tolist()
    assert manifest["inputs"]["corpus"]["sources"][0]["path"] == "corpus.txt"
    order = np.array([3, 0, 3, len(data.train) - 1])
    assert (data.train.read(order) == every["train"][order]).all()
    for index in (-1, len(data.train)):
        with pytest.raises(IndexError):
            data.train.read([index])
    assert sorted(path.name for path in data.folder.iterdir()) == [
        "journal.jsonl", "manifest.json", "tokenizer", "train-00000.bin", "train-00000.crc", "train_counts.npy",
        "valid-00000.bin", "valid-00000.crc",
    ]  # fmt: skip
    assert data.tokenizer()("the fox") == tokenizer("the fox")


def test_batches_do_not_change_the_files(
    corpus_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus(str(corpus_file))
    one = prepare.prepare(corpus, tokenizer, 32, 0.2, tmp_path / "one")
    monkeypatch.setattr(build, "BATCH_CHARS", 100)
    monkeypatch.setattr(packing, "MIN_WRITTEN_TOKENS", 1)
    tokenizer("x", truncation=True, max_length=3, padding="max_length")  # a tokenizer's leftover settings do not count
    two = prepare.prepare(corpus, tokenizer, 32, 0.2, tmp_path / "two")
    assert one.manifest == two.manifest


def test_a_second_preparation_does_nothing(
    corpus_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare.prepare(open_corpus(str(corpus_file)), tokenizer, 32, 0.2)
    assert first.folder == prepare.default_folder(first.manifest["key"])
    monkeypatch.setattr(making, "_make", None)
    again = prepare.prepare(open_corpus(str(corpus_file)), tokenizer, 32, 0.2)
    assert again.folder == first.folder and again.manifest == first.manifest


def test_everything_that_changes_the_files_changes_the_key(
    corpus_file: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    def key(size: int = 32, fraction: float = 0.2, seed: int = 0, encoding: str = "utf-8") -> str:
        corpus = open_corpus(str(corpus_file), encoding)
        return json.dumps(preparation(Plan(corpus, tokenizer, block_format(tokenizer, size), fraction, seed, 1000, 1)))

    keys = [key(), key(size=64), key(fraction=0.3), key(seed=1), key(encoding="latin-1")]
    other = train_tokenizer(make_documents(100), 301)
    plan = Plan(open_corpus(str(corpus_file)), other, block_format(other, 32), 0.2, 0, 1000, 1)
    keys.append(json.dumps(preparation(plan)))
    corpus_file.write_text(corpus_file.read_text() + "\n\nmore")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_a_folder_of_other_data_is_refused(
    corpus_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    corpus = open_corpus(str(corpus_file))
    prepare.prepare(corpus, tokenizer, 32, 0.2, tmp_path / "data")
    with pytest.raises(UserError, match=r"other inputs \(different: block_size, split_seed\)"):
        prepare.prepare(corpus, tokenizer, 64, 0.2, tmp_path / "data", seed=1)
    with pytest.raises(UserError, match="no prepared data"):
        prepare.prepare(corpus, tokenizer, 32, 0.2, tmp_path)


def test_damaged_folders_are_named(corpus_file: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = prepare.prepare(open_corpus(str(corpus_file)), tokenizer, 32, 0.2, tmp_path / "data").folder
    whole = (folder / "train-00000.bin").read_bytes()
    (folder / "train-00000.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"train-00000\.bin has .* bytes instead of"):
        open_prepared(folder)
    (folder / "train-00000.bin").unlink()
    with pytest.raises(UserError, match=r"train-00000\.bin is missing"):
        open_prepared(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        open_prepared(folder)


@pytest.mark.parametrize(("block_size", "fraction", "part"), [(4096, 0.5, "train"), (32, 1e-9, "valid")])
def test_too_little_text(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, block_size: int, fraction: float, part: str
) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("\n\n".join(make_documents(20)))
    with pytest.raises(UserError, match=f"too little text for one block of {block_size} tokens in the {part} part"):
        prepare.prepare(open_corpus(str(file)), tokenizer, block_size, fraction, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_bad_input_leaves_nothing_behind(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text(" ".join(make_documents(50)))
    (corpus / "z.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"z\.txt, line 1: byte 3"):
        prepare_pretraining_data(str(corpus), vocab_size=300, block_size=32, valid_fraction=0.2)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("options", [{"block_size": 0}, {"valid_fraction": 0.0}, {"valid_fraction": 1.0}])
def test_impossible_options(corpus_file: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="impossible"):
        prepare_pretraining_data(str(corpus_file), **options)


def test_block_without_room(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="--block_size 3"):
        block_format(tokenizer, 2)
    assert block_format(tokenizer, 3).num_content == 1


def test_whole_chain_and_its_caches(corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(**options: Any) -> tuple[prepare.PreparedData, Any]:
        return prepare_pretraining_data(
            str(corpus_file), **{"vocab_size": 300, "block_size": 32, "valid_fraction": 0.2, **options}
        )

    data, tokenizer = run()
    assert len(tokenizer) == data.vocab_size == 300 and data.train.read(range(len(data.train))).max() < 300
    wordpiece_data, wordpiece = run(tokenizer_kind="wordpiece", vocab_size=200)
    assert wordpiece.mask_token == "[MASK]" and wordpiece_data.train.read([0])[0, 0] == wordpiece.cls_token_id
    monkeypatch.setattr(prepare, "train_tokenizer", None)
    assert run()[0].folder == data.folder
    assert run(seed=1)[0].folder != data.folder
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = run(tokenizer_name_or_path=str(tmp_path / "tokenizer"))[0]
    assert loaded.folder == data.folder  # the same tokenizer, wherever it lies
    assert run(folder=tmp_path / "mine")[0].folder == tmp_path / "mine"
