"""Streams on disk: made once, opened without the text, noticed when they are not what was written."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bert.prepare import prepare_pretraining_data
from bert.prepared import open_prepared
from nlp_adan.corpora import digests, readers, text_files
from nlp_adan.errors import UserError
from tests.corpora import contents, write_texts
from transformer_xl import prepare
from transformer_xl.data_options import StreamOptions
from transformer_xl.prepare import prepare_stream
from transformer_xl.stream import PreparedStream, open_stream

TRAIN = "the cat sat on the mat\n\nthe dog sat\n" * 40 + "rare\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return tmp_path / "cache"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("train", TRAIN), ("valid", "the cat\nsat\n"), ("test", "the dog sat on\n")):
        (folder / f"{name}.txt").write_text(text)
        os.utime(folder / f"{name}.txt", (1e9, 1e9))
    return folder


def run(texts: Path, folder: Path | None = None, **options: Any) -> PreparedStream:
    return prepare_stream(StreamOptions(data=str(texts), **options), folder)


def error_of(texts: Path, folder: Path | None = None, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        run(texts, folder, **options)
    return str(raised.value)


def test_what_is_on_disk(texts: Path, tmp_path: Path) -> None:
    stream = run(texts, tmp_path / "stream")
    assert sorted(contents(stream.folder)) == [
        "manifest.json", "test.bin", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "train.bin",
        "train_counts.npy", "valid.bin",
    ]  # fmt: skip
    tokenizer = stream.tokenizer()
    assert stream.vocab_size == 8 and tokenizer.convert_ids_to_tokens(list(range(4))) == ["<eos>", "the", "sat", "cat"]
    for part, text in (("train", TRAIN), ("valid", "the cat\nsat\n"), ("test", "the dog sat on\n")):
        ids = getattr(stream, part)
        assert isinstance(ids, np.memmap) and ids.dtype == np.uint8 and not ids.flags.writeable
        assert ids.tolist() == tokenizer(text)["input_ids"]
    assert stream.train_counts.tolist() == np.bincount(stream.train).tolist() and stream.train_counts.dtype == np.int64
    assert stream.manifest["parts"] == {
        "train": {"num_tokens": 482, "num_lines": 121, "num_unknown": 0},
        "valid": {"num_tokens": 5, "num_lines": 2, "num_unknown": 0},
        "test": {"num_tokens": 5, "num_lines": 1, "num_unknown": 0},
    }
    assert stream.unit_of_loss == "perplexity" and stream.rules.unit == "word"
    assert str(tmp_path) not in (stream.folder / "manifest.json").read_text()
    assert run(texts, unit="character").unit_of_loss == run(texts, unit="byte").unit_of_loss == "bits_per_character"


# Each option with what it must change; the others are in the tests of texts and vocabularies.
CHANGES: list[dict[str, Any]] = [
    {"unit": "character"},
    {"unit": "byte"},
    {"lower_case": True},
    {"max_vocab": 5},
    {"min_count": 2},
    {"encoding": "cp1252"},
    {"text_column": "body"},
    {"valid_fraction": 0.3},
    {"test_fraction": 0.3},
]


def made(stream: PreparedStream) -> dict[str, bytes]:
    """The files of a stream but its manifest."""
    return {name: content for name, content in contents(stream.folder).items() if name != "manifest.json"}


def test_every_option_changes_the_stream(tmp_path: Path) -> None:
    records = [{"text": f"Caf\u00e9 the The {number % 7}", "body": "the The"} for number in range(200)]
    records[3]["text"] = "rare"
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    plain = run(file)
    for changed in CHANGES:
        found = made(run(file, **changed))
        assert any(found[name] != made(plain)[name] for name in found), changed
    tested = {name for changed in CHANGES for name in changed} | {"data", "tokenizer"}
    assert tested == {field.name for field in dataclasses.fields(StreamOptions)}


def test_a_second_start_reads_no_text(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(texts)
    assert first.folder.parent == tmp_path / "cache" and first.folder.name.startswith("stream-")

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(digests.Digests, "read", refuse)
    for name in ("_make", "new_folder"):
        monkeypatch.setattr(prepare, name, refuse)
    assert run(texts).manifest == first.manifest
    with pytest.raises(AssertionError, match="read again"):
        run(texts, min_count=2)
    os.utime(texts / "train.txt")
    with pytest.raises(AssertionError, match="read again"):
        run(texts)


def test_a_changed_source_is_another_stream_or_an_error(texts: Path, tmp_path: Path) -> None:
    cached, given = run(texts), run(texts, tmp_path / "stream")
    assert contents(cached.folder) == contents(given.folder)
    (texts / "valid.txt").write_text("the mat\n")
    assert run(texts).folder != cached.folder
    assert "(changed since: valid.txt changed)" in error_of(texts, given.folder)
    message = error_of(texts, given.folder, max_vocab=5)
    assert "different: max_vocab" in message and "name another folder" in message
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "holds no prepared stream" in error_of(texts, tmp_path / "other")


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, (2e9, 2e9))


def test_damage_is_named(texts: Path, tmp_path: Path) -> None:
    whole = run(texts, tmp_path / "whole").folder
    damages = [("train.bin", "cut"), ("test.bin", "gone"), ("valid.bin", "flipped"), ("train_counts.npy", "flipped")]
    for number, (name, how) in enumerate([*damages, ("tokenizer/tokenizer.json", "flipped")]):
        folder = shutil.copytree(whole, tmp_path / str(number))
        open_stream(folder)  # a copy's files are hashed once
        file = folder / name
        if how == "cut":
            os.truncate(file, file.stat().st_size - 1)
        elif how == "gone":
            file.unlink()
        else:
            flip(file, 3)
        told = {"cut": "has 481 bytes instead of 482", "gone": "is missing", "flipped": "another content"}[how]
        for again in (lambda: open_stream(folder), lambda: run(texts, folder), lambda: run(folder)):  # noqa: B023
            with pytest.raises(UserError, match=told) as raised:
                again()
            assert str(file) in str(raised.value) and f"delete {folder}" in str(raised.value)
    copied = shutil.copytree(whole, tmp_path / "copied")
    flip(copied / "train.bin", 9)  # before it was ever opened there
    with pytest.raises(UserError, match=r"train\.bin has another content"):
        open_stream(copied)
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["parts"]["train"]["num_tokens"] -= 1
    (whole / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json was changed after it was written"):
        open_stream(whole)


def test_two_processes_make_it_at_once(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = prepare._make
    inner: list[PreparedStream] = []

    def slower(*args: Any) -> Any:
        if not inner:
            inner.append(None)  # type: ignore[arg-type]
            inner[0] = run(texts)  # the other process, from beginning to end
        return make(*args)

    monkeypatch.setattr(prepare, "_make", slower)
    outer = run(texts)
    assert outer.folder == inner[0].folder and outer.manifest == inner[0].manifest
    assert [path.name for path in outer.folder.parent.iterdir() if "stream" in path.name] == [outer.folder.name]


def test_a_prepared_stream_is_taken_as_data(texts: Path, tmp_path: Path) -> None:
    stream = run(texts, tmp_path / "stream")
    shutil.rmtree(texts)
    assert run(stream.folder, unit="word").manifest == stream.manifest
    assert "are of words; leave it out" in error_of(stream.folder, unit="byte")
    assert run(stream.folder, tokenizer=str(stream.folder / "tokenizer")).manifest == stream.manifest
    other = words_tokenizer(tmp_path / "other")
    assert "is not the one of the stream" in error_of(stream.folder, tokenizer=other)


def words_tokenizer(folder: Path) -> str:
    backend = Tokenizer(
        models.WordLevel({"<unk>": 0, "</s>": 1, "the": 2, "cat": 3, "dog": 4, "sat": 5}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>").save_pretrained(str(folder))
    return str(folder)


def test_any_tokenizer(texts: Path, tmp_path: Path) -> None:
    stream = run(texts, tokenizer=words_tokenizer(tmp_path / "tokenizer"))
    assert stream.test.tolist() == [2, 4, 5, 0, 1] and stream.rules.unit == "document"
    assert stream.train[:12].tolist() == [2, 3, 5, 0, 2, 0, 1, 2, 4, 5, 2, 3]  # a blank line ends a document
    assert stream.manifest["parts"]["test"] == {"num_tokens": 5, "num_documents": 1, "num_unknown": 1}
    first = run(texts)
    ours = str(first.folder / "tokenizer")
    again = run(texts, tokenizer=ours)  # with its own rules
    assert again.folder != first.folder and (again.train == first.train).all() and again.rules == first.rules
    for options in ({"unit": "word"}, {"lower_case": True}, {"max_vocab": 9}, {"min_count": 2}):
        assert "--tokenizer has a vocabulary and rules of its own" in error_of(texts, tokenizer=ours, **options)
    assert "holds no tokenizer" in error_of(texts, tokenizer=str(texts))


def test_words_that_training_does_not_have(texts: Path, tmp_path: Path) -> None:
    (texts / "valid.txt").write_text("the cat\na bird sat\n")
    message = error_of(texts)
    assert "valid.txt, line 2: the word 'a' is not in the vocabulary" in message and "`--min_count 2`" in message
    assert not list((tmp_path / "cache").glob("*stream*"))  # nothing half made
    stream = run(texts, min_count=2)
    assert [stream.manifest["parts"][part]["num_unknown"] for part in ("train", "valid", "test")] == [1, 2, 0]
    ours = str(stream.folder / "tokenizer")
    (texts / "valid.txt").write_text("bird\n")
    assert run(texts, tokenizer=ours).valid.tolist() == [stream.tokenizer().unk_token_id, 0]


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_part_without_text(part: str, texts: Path) -> None:
    (texts / f"{part}.txt").write_text("")
    message = error_of(texts)
    assert f"part {part!r}" in message and f"{part}.txt" in message and "add text" in message
    (texts / "single.txt").write_text("\n \n" * 100)
    assert "holds no text" in error_of(texts / "single.txt")
    (texts / "single.txt").write_text("a line\n")
    assert "larger `--test_fraction`" in error_of(texts / "single.txt")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"unit": "words"}, r"--unit 'words' (did you mean 'word'?)"),
        ({"max_vocab": 1}, "--max_vocab 1"),
        ({"min_count": 0}, "--min_count 0"),
        ({"valid_fraction": 0.0}, "--valid_fraction 0.0 is impossible"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "is impossible"),
        ({"unit": "byte", "max_vocab": 9}, "--max_vocab 9: a byte is a byte"),
        ({"unit": "byte", "lower_case": True}, "--lower_case True: a byte is a byte"),
        ({"tokenizer": "x", "min_count": 2}, "--min_count 2: --tokenizer has"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str, texts: Path) -> None:
    assert told in error_of(texts, **options)


def test_blocks_and_streams_are_told_apart(texts: Path, tmp_path: Path) -> None:
    blocks, _ = prepare_pretraining_data(
        str(write_texts(tmp_path / "more")),
        vocab_size=300,
        block_size=32,
        one_document_per_file=False,
        valid_fraction=0.2,
        folder=tmp_path / "b",
    )
    assert "holds blocks for masked language models, this takes a stream" in error_of(blocks.folder)
    with pytest.raises(UserError, match="holds a stream for recurrent language models, this takes blocks"):
        open_prepared(run(texts).folder)


def test_a_disk_that_cannot_be_written(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "check permissions" in error_of(texts, tmp_path / "file" / "stream")


@pytest.mark.parametrize("unit", ["word", "character", "byte"])
def test_a_larger_text_takes_no_more_memory(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times 0.3 MB of text, in blocks of 64 KiB: a tenth of what it is longer, at most."""
    for module in (text_files, readers):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 16)
    line = "the cat sat on the mat , the dog on the chair\n"
    peaks = []
    for number, count in enumerate((100, 6_000, 24_000)):  # the first loads what is loaded once
        (tmp_path / f"{number}.txt").write_text(line * count)
        tracemalloc.start()
        run(tmp_path / f"{number}.txt", unit=unit)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 18_000 * len(line) / 10
