"""Around a corpus: files that change while they are read, odd names, links, output beside or inside, lost hashes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from bert.build import Plan, block_format
from bert.journal import Journal, locked
from bert.making import prepare, unfinished_folder
from bert.parts import repair
from bert.prepare import prepare_pretraining_data
from bert.tokenizer import train_tokenizer
from nlp_adan.corpora import digests, hub_corpus
from nlp_adan.corpora.corpus import OnBytes, Position
from nlp_adan.corpora.digests import Digests
from nlp_adan.corpora.documents import FileCorpus, open_corpus
from nlp_adan.corpora.hub_corpus import HubCorpus
from nlp_adan.corpora.pretrained_tokenizer import num_token_ids
from nlp_adan.errors import UserError
from tests.corpora import contents, make_documents, write_texts


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(make_documents(100), 300)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return write_texts(tmp_path / "texts")


def run(texts: Path, tokenizer: PreTrainedTokenizerFast, folder: Path, **options: Any) -> Any:
    corpus = open_corpus(str(texts), one_document_per_file=False)
    return prepare(corpus, tokenizer, 32, 0.2, folder, shard_bytes=2000, **options)


def test_a_source_that_changes_while_it_is_read(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FileCorpus.read

    def growing(self: FileCorpus, start: Position = (), on_bytes: OnBytes | None = None) -> Iterator[Any]:
        yield from read(self, start, on_bytes)
        with open(self.files[2], "a") as file:
            file.write("\n\none more document")

    with monkeypatch.context() as patch:
        patch.setattr(FileCorpus, "read", growing)
        with pytest.raises(UserError, match=r"part2\.txt was changed while it was read: run it again"):
            run(texts, tokenizer, tmp_path / "data", num_workers=0)
        assert not (tmp_path / "data").exists()
        with pytest.raises(UserError, match=r"part2\.txt was changed"):  # the tokenizer's sample reads it too
            prepare_pretraining_data(str(texts), vocab_size=300)
    assert not list((tmp_path / "cache").glob("tokenizer-*"))
    kept = Journal.read(unfinished_folder(tmp_path / "data"))
    assert kept is not None and kept.entries
    found = run(texts, tokenizer, tmp_path / "data")
    assert contents(found.folder) == contents(run(texts, tokenizer, tmp_path / "undisturbed").folder)


def test_what_was_hashed_is_kept_after_an_error(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(texts / "part0.txt", (1, 1))
    (texts / "part3.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"part3\.txt"):
        open_corpus(str(texts)).check()
    assert Digests(texts, "utf-8").has(texts / "part0.txt")


def test_what_was_hashed_is_kept_now_and_then(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed has no end."""
    monkeypatch.setattr(digests, "SAVE_SECONDS", -1.0)
    os.utime(texts / "part0.txt", (1, 1))
    Digests(texts).sha256(texts / "part0.txt")
    assert Digests(texts).has(texts / "part0.txt")


def test_names_that_are_not_utf_8(texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    try:
        (texts / "part1.txt").rename(os.fsdecode(os.fsencode(texts) + b"/part\xe9.txt"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    found = run(texts, tokenizer, tmp_path / "data")
    assert [source["path"] for source in found.manifest["inputs"]["corpus"]["sources"]][-1] == "part\\xe9.txt"
    assert run(texts, tokenizer, tmp_path / "data").manifest == found.manifest


def test_links_to_folders_are_followed_once(texts: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_texts(elsewhere, num_files=1)
    (texts / "z").symlink_to(elsewhere)
    (texts / "back").symlink_to(texts)  # a circle
    (texts / "y").symlink_to(elsewhere)
    found = open_corpus(str(texts))
    assert isinstance(found, FileCorpus)
    names = [path.relative_to(texts).as_posix() for path in found.files]
    assert names == ["part0.txt", "part1.txt", "part2.txt", "part3.txt", "y/part0.txt"]


@pytest.mark.parametrize("name", ["prepared", "deeper/prepared"])
def test_output_inside_of_the_data(texts: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    before = contents(texts)
    with pytest.raises(UserError, match=r"lies inside the data.*`--output_dir`"):
        run(texts, tokenizer, texts / name)
    assert contents(texts) == before
    assert run(texts, tokenizer, texts / ".hidden" / "prepared").train  # which reading leaves out
    assert run(texts / "part0.txt", tokenizer, texts / "beside").train  # one file has no inside


def test_output_by_a_link_and_from_inside(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's own place counts: it is made beside it, and renamed there."""
    target = tmp_path / "disk"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    made = run(texts, tokenizer, tmp_path / "link" / "data")
    assert made.folder == target / "data" and [path.name for path in target.iterdir()] == ["data"]
    monkeypatch.chdir(target / "data")
    assert run(texts, tokenizer, Path(".")).manifest == made.manifest


def test_the_line_of_a_bad_record_that_the_sample_meets(texts: Path, tmp_path: Path) -> None:
    """The sample begins in the middle of a file; the line is counted from the file's beginning."""
    file = tmp_path / "records.jsonl"
    records = [json.dumps({"text": document}) for document in make_documents(400)]
    file.write_text("\n".join([*records[:350], "{", *records[351:]]) + "\n")
    with pytest.raises(UserError, match=r"records\.jsonl, line 351 is not JSON"):
        prepare_pretraining_data(str(file), vocab_size=300, sample_bytes=len(file.read_bytes()) - 1)


def test_a_string_of_a_parquet_file_that_is_not_utf_8(tmp_path: Path) -> None:
    content = pa.array([b"good", b"b\xffd"]).cast(pa.binary())
    strings = pa.StringArray.from_buffers(2, *content.buffers()[1:], content.buffers()[0])
    pq.write_table(pa.table({"text": strings}), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=r"bad\.parquet, row 1: its text is not UTF-8.*byte 1"):
        list(open_corpus(str(tmp_path / "bad.parquet")).documents())


def test_damage_that_another_process_mended_meanwhile(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(texts, tokenizer, tmp_path / "data")
    (shard,) = made.folder.glob("train-00001.bin")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    asked: list[set[str]] = []

    def mended(plan: Plan, folder: Path, manifest: Any, damaged: Any) -> None:
        asked.append(set(damaged))

    def waiting(folder: Path, is_done: Any) -> Any:
        shard.write_bytes(whole)
        return locked(folder, is_done)

    monkeypatch.setattr("bert.making.repair", mended)
    monkeypatch.setattr("bert.making.locked", waiting)
    run(texts, tokenizer, tmp_path / "data")
    assert asked == [set()] and repair is not mended


def test_a_file_system_without_locks(
    texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refuse(file: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert run(texts, tokenizer, tmp_path / "data").train
    assert "has no locks" in capsys.readouterr().out


def test_a_vocabulary_with_holes() -> None:
    """Ids need not be consecutive: counts, checks and embeddings go by the largest."""
    holed = train_tokenizer(make_documents(100), 300)
    state = json.loads(holed.backend_tokenizer.to_str())
    last = max(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
    state["model"]["vocab"][last] = 1234
    holed = PreTrainedTokenizerFast(
        tokenizer_object=type(holed.backend_tokenizer).from_str(json.dumps(state)),
        mask_token="<mask>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    assert len(holed) == 300 and num_token_ids(holed) == 1235 == block_format(holed, 32).vocab_size


def test_two_configurations_in_the_cache_of_a_hub_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    def load(path: str, configuration: str | None, **options: Any) -> Any:
        if configuration is None:
            raise ValueError("Config name is missing. Please pick one among: ['a', 'b']")
        return datasets.Dataset.from_dict({"text": ["some text"]})

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(HubCorpus("lab/texts:b", "text", "missing").documents()) == ["some text"]
    with pytest.raises(UserError, match="NAME:CONFIGURATION"):
        HubCorpus("lab/texts", "text", "missing")


def test_a_hub_that_breaks_off_is_not_asked_for_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*given: Any, **options: Any) -> Any:
        raise ConnectionError("connection reset")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"connection reset\. Run it again") as caught:
        next(hub_corpus.load_rows("lab/texts", None, "main"))
    assert "CONFIGURATION" not in str(caught.value)
