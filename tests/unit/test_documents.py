"""Opening a corpus: every kind of file, the order of documents, normalisation, and what is said of bad input."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_adan.corpora import hub_corpus
from nlp_adan.corpora.documents import FileCorpus, open_corpus
from nlp_adan.corpora.hub_corpus import HubCorpus
from nlp_adan.corpora.text_files import PIECE_CHARS, pieces, text_pieces
from nlp_adan.errors import EXIT_CODE, UserError
from nlp_adan.storage import write_json


def texts(data: Path, **options: Any) -> list[str]:
    corpus = open_corpus(str(data), **options)
    corpus.check()
    return list(corpus.documents())


def error_of(data: Path | str, **options: Any) -> str:
    """The message of the error that opening and checking raise; one or two lines."""
    with pytest.raises(UserError) as raised:
        corpus = open_corpus(str(data), **options)
        corpus.check()
        list(corpus.documents())
    message = str(raised.value)
    assert message.count("\n") <= 1
    return message


def write_jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_single_text_file_is_parted_at_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \t\r\nthree\rfour\n\n\n")
    assert texts(file) == ["one\ntwo", "three\nfour"]
    assert texts(file, one_document_per_file=True) == ["one\ntwo\n\n \t\nthree\nfour"]


def test_folder_holds_every_kind_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("never")
    (tmp_path / "notes.md").write_text("never")
    (tmp_path / "c.txt").write_text("text\n\nof one file")
    write_jsonl(tmp_path / "b" / "one.jsonl", {"text": "json a"}, {"text": None}, {"text": "json\r\nb"})
    with gzip.open(tmp_path / "b" / "two.JSONL.gz", "wt", encoding="utf-8") as zipped:
        zipped.write('{"text": "gz \\ud800 é"}\n\n')
    table = pa.table({"text": ["parquet", None, ""], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    expected = ["parquet", "json a", "json\nb", "gz \ufffd é", "text\n\nof one file"]
    assert texts(tmp_path) == expected
    corpus = open_corpus(str(tmp_path))
    assert [source.path for source in corpus.sources] == ["a.parquet", "b/one.jsonl", "b/two.JSONL.gz", "c.txt"]
    assert all(len(source.sha256 or "") == 64 for source in corpus.sources)
    counted: list[int] = []
    assert list(corpus.documents(counted.append)) == expected
    assert sum(counted) == corpus.num_bytes == sum(source.num_bytes or 0 for source in corpus.sources)


def test_identity_ignores_the_place_and_heeds_content_and_options(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("same")
    first, second = (open_corpus(str(tmp_path / name)) for name in ("one", "two"))
    assert first.identity() == second.identity()
    assert open_corpus(str(tmp_path / "one"), text_column="unused").identity() == first.identity()
    assert open_corpus(str(tmp_path / "one"), encoding="latin-1").identity() != first.identity()
    (tmp_path / "two" / "a.txt").write_text("other")
    assert open_corpus(str(tmp_path / "two")).identity() != first.identity()


def test_other_encodings_and_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    assert texts(tmp_path / "a.txt", encoding="ISO-8859-1") == ["café"]
    (tmp_path / "b.txt").write_bytes("à la\r\ncarte".encode("utf-16"))
    assert texts(tmp_path / "b.txt", encoding="utf-16") == ["à la\ncarte"]
    write_jsonl(tmp_path / "c.jsonl", {"body": "words"})
    assert texts(tmp_path / "c.jsonl", text_column="body") == ["words"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["word " * 9000, "line", "", " ", "é" * 70_000, "x\ry"]), max_size=30))
def test_pieces_are_bounded_and_lose_no_text(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = list(text_pieces(text))
    assert all(0 < len(piece) <= PIECE_CHARS and piece == piece.strip() for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_long_documents_are_cut_at_blank_lines_of_the_second_half() -> None:
    lines = ["a" * 99 + "\n"] * 400 + ["\n"] + ["b" * 99 + "\n"] * 400
    assert [piece[0] for piece in pieces(lines, split_at_blank_lines=False)] == ["a", "b"]


def test_missing_path_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    message = error_of(tmp_path / "novals")
    assert "novals" in message and "'novels'" in message and "hub" in message
    assert "no such file" in error_of(tmp_path / "corpus.txt")


def test_empty_folder_and_unknown_endings(tmp_path: Path) -> None:
    assert "no files" in error_of(tmp_path)
    for name in ("a.pdf", "b.pdf", "README"):
        (tmp_path / name).write_text("x")
    message = error_of(tmp_path)
    assert ".pdf (2)" in message and "none (1)" in message and ".parquet" in message


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_no_text_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert "no text" in error_of(tmp_path)


@pytest.mark.parametrize(("content", "told"), [(b"%PDF-1.7 x", "a PDF"), (b"\x1f\x8b\x08", "gzip")])
def test_binary_file_among_the_texts_by_its_beginning(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "z.txt").write_bytes(content)
    message = error_of(tmp_path)
    assert "z.txt" in message and told in message


def test_nul_character_is_located(tmp_path: Path) -> None:
    (tmp_path / "z.txt").write_bytes(b"one\r\ntwo\rthree\0")
    assert "z.txt, line 3: a NUL" in error_of(tmp_path)


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 1, (1 << 20) + 5])
def test_undecodable_byte_is_located_and_the_encoding_offered(tmp_path: Path, before: int) -> None:
    content = b"a" * before + b"\r\n\rcaf\xe9 noir"
    (tmp_path / "z.txt").write_bytes(content)
    message = error_of(tmp_path)
    assert f"line 3: byte {before + 6} (0xe9) is not utf-8" in message
    assert "`--encoding latin-1`" in message
    with pytest.raises(UserError, match="0xe9"):  # also without the check
        list(open_corpus(str(tmp_path)).documents())


def test_offset_counts_the_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "z.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    assert "line 1: byte 5 (0xff)" in error_of(tmp_path)


def test_encodings_other_than_latin_1_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\x93quoted\x94")
    assert "`--encoding cp1252`" in error_of(file)
    file.write_bytes("hello".encode("utf-16"))
    assert "`--encoding utf-16`" in error_of(file)
    file.write_bytes("hello".encode("utf-16-be"))
    assert "NUL" in error_of(file)
    file.write_bytes(b"cut off \xe2\x82")
    assert "byte 8 (0xe2)" in error_of(file)


@pytest.mark.parametrize("name", ["utf-88", "base64", "no such", ""])
def test_unknown_encoding(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert "is not an encoding" in error_of(tmp_path, encoding=name)


def test_encoding_names_are_one_option(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    identities = [open_corpus(str(tmp_path), encoding=name).identity() for name in ("utf8", "UTF-8", "utf-8-sig")]
    assert identities[0] == identities[1] == identities[2]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "cut', ["line 2", "not JSON"]),
        ('["text"]', ["line 2", "not a JSON object", "list"]),
        ('{"txt": "a", "id": 1}', ["line 2", "no column 'text'", "id, txt", "--text_column", "'txt'?"]),
        ('{"text": 5}', ["line 2", "holds a int"]),
    ],
)
def test_bad_json_lines_are_located(tmp_path: Path, line: str, told: list[str]) -> None:
    file = tmp_path / "b.jsonl"
    file.write_text('{"text": "good"}\n' + line + "\n")
    message = error_of(tmp_path)
    assert all(part in message for part in ["b.jsonl", *told])


def test_undecodable_json_lines(tmp_path: Path) -> None:
    content = b'{"text": "good"}\n{"text": "caf\xe9"}\n'
    (tmp_path / "b.jsonl").write_bytes(content)
    assert "line 2: byte 30 (0xe9)" in error_of(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(content))
    assert "line 2: byte 30 (0xe9)" in error_of(tmp_path / "c.jsonl.gz")


def test_truncated_and_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps({"text": str(i**9)}) + "\n" for i in range(5000)).encode())
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(whole[: len(whole) // 2])
    message = error_of(file)
    assert "a.jsonl.gz" in message and "cut off" in message
    file.write_bytes(whole[:-8] + bytes(8))
    assert "damaged gzip" in error_of(file)
    file.write_bytes(b"not gzip")
    assert "damaged gzip" in error_of(file)


def test_bad_parquet(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "ids": [[1]]}), file)
    message = error_of(file)
    assert "a.parquet has no column 'text'" in message and "body, ids" in message
    assert "not text" in error_of(file, text_column="ids")
    file.write_bytes(file.read_bytes()[:-20])
    assert "not a whole parquet file" in error_of(file)


def test_a_bad_file_late_in_the_folder_is_found_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "z.jsonl").write_text("{")
    corpus = open_corpus(str(tmp_path))
    assert next(corpus.documents()) == "good"
    with pytest.raises(UserError, match=r"z\.jsonl, line 1"):
        corpus.check()


@pytest.fixture
def hub_online(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


def test_hub_name_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_online: None) -> None:
    """The loading code on a data set's folder, which the datasets library reads as it reads the hub's."""
    write_jsonl(tmp_path / "train.jsonl", {"text": "one\r\nline"}, {"text": None}, {"text": "two"})
    write_jsonl(tmp_path / "test.jsonl", {"text": "never"})
    monkeypatch.setattr(hub_corpus, "_find_revision", lambda *given: "abc")
    corpus = HubCorpus(str(tmp_path), "text", "missing")
    corpus.check()
    assert list(corpus.documents()) == ["one\nline", "two"]
    assert corpus.num_bytes is None and corpus.sources[0].sha256 == "abc"
    with pytest.raises(UserError, match=r"no column 'body'; it has: text"):
        HubCorpus(str(tmp_path), "body", "missing").check()
    with pytest.raises(UserError, match="nonesuch"):
        HubCorpus(f"{tmp_path}:nonesuch", "text", "missing").check()


def test_hub_name_and_configuration_reach_the_library(monkeypatch: pytest.MonkeyPatch, hub_online: None) -> None:
    import datasets

    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, configuration: str, **options: Any) -> Iterator[dict[str, str]]:
        calls.append((path, configuration, options))
        return iter([{"body": "words"}])

    monkeypatch.setattr(hub_corpus, "_find_revision", lambda *given: "abc")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = open_corpus("someone/some-texts:english", text_column="body")
    assert list(corpus.documents()) == ["words"]
    assert calls == [("someone/some-texts", "english", {"split": "train", "streaming": True, "revision": "abc"})]


@pytest.mark.parametrize("failure", ["unreachable", "not there"])
def test_hub_data_set_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_online: None, failure: str
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def dataset_info(self: Any, *arguments: Any, **options: Any) -> None:
        if failure == "unreachable":
            raise ConnectionError("no network")
        raise RepositoryNotFoundError("404", response=Mock())

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "novels").mkdir()
    message = error_of("novells")
    assert "no such file or folder (did you mean 'novels'?)" in message
    assert ("cannot be reached" if failure == "unreachable" else "the hub has no data set 'novells'") in message


def test_hub_switched_off(tmp_path: Path) -> None:
    """In a process of its own: the libraries read the variable when they are first imported."""
    code = (
        "from nlp_adan.corpora.documents import open_corpus; from nlp_adan.errors import exit_on_user_error as report\n"
        "with report(): open_corpus('someone/nothing-of-this-name')"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == EXIT_CODE
    message = result.stderr.splitlines()[-1]
    assert "no such file or folder" in message and "HF_HUB_OFFLINE" in message


def test_file_corpus_reports_a_file_that_vanished(tmp_path: Path) -> None:
    corpus = FileCorpus("x", tmp_path, [tmp_path / "gone.txt"], "utf-8", "text", True)
    with pytest.raises(UserError, match="cannot be read"):
        corpus.check()


def test_names_that_are_not_utf8_are_read_and_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "named.parquet")
    (tmp_path / "named.parquet").rename(folder / "b\udce9.parquet")
    (folder / "c\udce9.txt").write_text("c")
    corpus = open_corpus(str(folder))
    corpus.check()
    assert list(corpus.documents()) == ["a", "c"]
    write_json(tmp_path / "record.json", {"name": corpus.title})
    assert json.loads((tmp_path / "record.json").read_text()) == {"name": corpus.title}
