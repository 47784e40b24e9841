"""Prepared data that is not what was written: noticed, named, made anew; and what a changed source says."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from bert import making, shards
from bert.making import prepare
from bert.prepare_command import verify
from bert.prepared import PreparedData, open_prepared
from bert.tokenizer import train_tokenizer
from nlp_adan.corpora import digests, documents
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.errors import UserError
from tests.corpora import contents, make_documents, write_texts


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(make_documents(100), 300)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # what a power cut would need takes most of the time
    return write_texts(tmp_path / "texts")


def run(texts: Path, tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> PreparedData:
    corpus = open_corpus(str(texts), one_document_per_file=False)
    return prepare(corpus, tokenizer, 32, 0.2, folder, shard_bytes=2000, **options)


@pytest.fixture
def data(texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> PreparedData:
    return run(texts, tokenizer, tmp_path / "data")


def flip(file: Path, place: int, keep_time: bool = False) -> None:
    """Change a bit of a file; with its time of change as it was, as a failing disk does."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    status = file.stat()
    file.write_bytes(content)
    if keep_time:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_blocks_by_number(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "max_open_shards", lambda: 2)
    files = sorted(data.folder.glob("train-*.bin"))
    rows = np.concatenate([np.fromfile(file, np.uint16).reshape(-1, 32) for file in files])
    assert len(files) > 10 and len(rows) == len(data.train)
    order = np.random.default_rng(0).integers(0, len(rows), 500)
    assert (data.train.read(order) == rows[order]).all() and data.train.read([]).shape == (0, 32)
    assert len(data.train._files) <= 2
    copy = pickle.loads(pickle.dumps(data.train))
    assert (copy.read(order) == rows[order]).all() and not pickle.loads(pickle.dumps(copy))._files
    with pytest.raises(IndexError):
        data.train.read([len(rows)])


@pytest.mark.parametrize("ending", ["bin", "crc"])
def test_a_flipped_bit_is_named_by_shard_and_block(data: PreparedData, ending: str) -> None:
    flip(data.folder / f"train-00002.{ending}", 64 * 4 + 3 if ending == "bin" else 4 * 4)
    per_shard = data.manifest["train"]["blocks_per_shard"]
    bad = 2 * per_shard + 4
    every = np.arange(len(data.train))
    assert len(data.train.read(every[every != bad])) == len(every) - 1
    with pytest.raises(UserError, match=r"train-00002\.bin: block 4 is damaged.*prepare --verify"):
        data.train.read([bad])


def test_a_shard_that_is_cut_off_or_gone_while_training(data: PreparedData) -> None:
    file = data.folder / "train-00001.bin"
    per_shard = data.manifest["train"]["blocks_per_shard"]
    data.train.read([per_shard])
    os.truncate(file, 100)
    with pytest.raises(UserError, match=r"train-00001\.bin: block 3 is not there: the file is cut off"):
        data.train.read([per_shard + 3])
    file.unlink()
    with pytest.raises(UserError, match=r"train-00001\.bin: block 0 cannot be read \(No such file"):
        pickle.loads(pickle.dumps(data.train)).read([per_shard])


FILES = ["train-00000.bin", "train-00007.bin", "train-00003.crc", "valid-00000.bin", "train_counts.npy"]


@pytest.mark.parametrize("how", ["flipped", "cut off", "gone"])
def test_damage_is_mended_by_preparing_again(
    how: str, data: PreparedData, texts: Path, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = contents(data.folder)
    last = [
        sorted(name for name in expected if name.startswith(part) and name.endswith("bin"))[-1]
        for part in ("train", "valid")
    ]
    names = [*FILES, *last, "tokenizer/tokenizer_config.json"]
    for name in names:
        file = data.folder / name
        if how == "flipped":
            flip(file, 5)
        elif how == "cut off":
            os.truncate(file, file.stat().st_size - 1)
        else:
            file.unlink()
    run(texts, tokenizer, data.folder)
    assert contents(data.folder) == expected
    told = capsys.readouterr().out
    assert all(name in told for name in names) and told.count("making it anew") == len(names)
    assert sorted(path.name for path in data.folder.parent.iterdir()) == ["cache", "data", "texts"]


def test_silent_damage_is_found_by_verify(
    data: PreparedData, texts: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's size and time of change are as they were."""
    monkeypatch.setattr(digests, "RECENT_SECONDS", 0.0)
    expected = contents(data.folder)
    assert "is whole" in verify(data.folder)
    flip(data.folder / "train-00004.bin", 9, keep_time=True)
    run(texts, tokenizer, data.folder)
    assert contents(data.folder) != expected
    with pytest.raises(UserError, match=r"1 of \d+ files are damaged: train-00004\.bin has another content"):
        verify(data.folder)
    run(texts, tokenizer, data.folder)  # remembers what was found
    assert contents(data.folder) == expected
    flip(data.folder / "valid-00001.bin", 9, keep_time=True)
    run(texts, tokenizer, data.folder, verify=True)
    assert contents(data.folder) == expected


def test_a_changed_manifest_is_noticed(data: PreparedData, texts: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = data.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["train"]["num_blocks"] -= 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"manifest\.json was changed after it was written"):
        open_prepared(data.folder)
    with pytest.raises(UserError, match=r"manifest\.json was changed after it was written"):
        run(texts, tokenizer, data.folder)
    del content["manifest_sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="of an older version, or damaged"):
        open_prepared(data.folder)


def test_without_its_journal_a_shard_cannot_be_mended(
    data: PreparedData, texts: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (data.folder / "journal.jsonl").unlink()
    with pytest.raises(UserError, match="cannot be mended without its journal"):
        run(texts, tokenizer, data.folder)


def test_a_copy_needs_nothing_else(
    data: PreparedData, texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    shutil.copytree(data.folder, tmp_path / "elsewhere")
    shutil.rmtree(data.folder)
    shutil.rmtree(texts)
    copy = open_prepared(tmp_path / "elsewhere")
    assert len(copy.train.read(np.arange(len(copy.train)))) == copy.manifest["train"]["num_blocks"]
    assert copy.tokenizer()("the fox")["input_ids"] == tokenizer("the fox")["input_ids"]
    assert (
        str(tmp_path) not in (copy.folder / "manifest.json").read_text() + (copy.folder / "journal.jsonl").read_text()
    )
    flip(copy.folder / "tokenizer" / "tokenizer.json", 500)
    with pytest.raises(UserError, match=r"tokenizer\.json was changed"):
        copy.tokenizer()


def test_changed_sources_are_named(data: PreparedData, texts: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (texts / "part1.txt").write_text("other text")
    with pytest.raises(UserError, match=r"\(changed since: part1\.txt changed\)"):
        run(texts, tokenizer, data.folder)
    (texts / "part1.txt").unlink()
    (texts / "part9.txt").write_text("new")
    with pytest.raises(UserError, match=r"part1\.txt is missing, part9\.txt is new\).*--output_dir"):
        run(texts, tokenizer, data.folder)
    for number in range(5):
        (texts / f"q{number}.txt").write_text("new")
    with pytest.raises(UserError, match=r"part9\.txt is new, q0\.txt is new, 4 more differ\)"):
        run(texts, tokenizer, data.folder)


def test_a_second_start_reads_no_source_and_no_shard(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in texts.iterdir():
        os.utime(path, (1e9, 1e9))
    first = run(texts, tokenizer, tmp_path / "data")

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("read again")

    for owner, name in ((documents, "check_text"), (documents, "read_text"), (making, "sha256_file")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(digests.Digests, "read", refuse)
    assert run(texts, tokenizer, tmp_path / "data").manifest == first.manifest
    os.utime(texts / "part0.txt")
    with pytest.raises(AssertionError, match="read again"):
        run(texts, tokenizer, tmp_path / "data")


def test_recent_changes_are_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "a.txt"
    found = []
    for content in ("one", "two"):  # the same size, within one tick of a coarse clock
        file.write_text(content)
        known = digests.Digests(tmp_path)
        found.append(known.sha256(file))
        known.save()
    assert found[0] != found[1]
