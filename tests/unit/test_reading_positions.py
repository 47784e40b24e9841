"""Reading a corpus from the middle: the same documents as after reading all that is before."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_adan.corpora import documents, hub_corpus, table_files, text_files
from nlp_adan.corpora.corpus import Corpus
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.corpora.hub_corpus import HubCorpus
from nlp_adan.corpora.sample import CorpusSample
from tests.corpora import make_documents

FRAGMENTS = st.sampled_from(["a", "bc def", "é日", " ", "\n", "\r\n", "\r", "\n\n", "\t\n", "long" * 9])


def check_every_position(corpus: Corpus) -> int:
    """Reading from the position after each document gives the rest; the number of documents."""
    everything = list(corpus.read())
    assert [document for document, _ in everything] == list(corpus.documents())
    positions = [position for _, position in everything]
    assert positions == sorted(positions)
    for number, position in enumerate(positions, start=1):
        assert list(corpus.read(position)) == everything[number:], f"after document {number}"
    return len(everything)


@settings(max_examples=150, deadline=None)
@given(
    fragments=st.lists(FRAGMENTS, max_size=25),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    parted=st.booleans(),
)
def test_text_files(
    fragments: list[str], encoding: str, parted: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("text")
    text = "".join(fragments)
    for name in ("a.txt", "b.txt"):
        (folder / name).write_bytes(text.replace("日", "ü").encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "PIECE_CHARS", 17)
        corpus = open_corpus(str(folder), encoding, one_document_per_file=not parted)
        check_every_position(corpus)


@pytest.mark.parametrize("before", range(12, 20))
def test_a_windows_line_end_where_a_piece_ends(before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_CHARS", 17)
    (tmp_path / "a.txt").write_bytes(b"x" * before + b"\r\nsecond line\r\nthird")
    corpus = open_corpus(str(tmp_path / "a.txt"), one_document_per_file=True)
    assert "".join(corpus.documents()).count("x") == before
    assert "\n\n" not in "|".join(corpus.documents())
    check_every_position(corpus)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_lines(zipped: bool, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_CHARS", 17)
    records = [{"text": text} for text in ("short", None, "", "é long one " * 6, "last\r\n\r\none")]
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n\n" for record in records).encode(encoding)
    path = tmp_path / ("a.jsonl.gz" if zipped else "a.jsonl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert check_every_position(open_corpus(str(path), encoding)) >= 6


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_CHARS", 17)
    monkeypatch.setattr(table_files, "PARQUET_BATCH_ROWS", 2)
    texts = ["one", None, "a long one " * 4, "", *(f"number {i}" for i in range(9))]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=5)
    assert check_every_position(open_corpus(str(tmp_path / "a.parquet"))) >= 12


def test_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_corpus, "_find_revision", lambda *given: "abc")
    monkeypatch.setattr(text_files, "PIECE_CHARS", 17)
    rows = [{"text": text} for text in ("one", None, "a long one " * 4, "last")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check_every_position(HubCorpus(str(tmp_path), "text", "missing")) >= 4


def write_corpus(folder: Path, kind: str, texts: list[str]) -> None:
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts}), folder / "a.parquet", row_group_size=100)
    elif kind == "txt":
        (folder / "a.txt").write_text("\n\n".join(texts))
    else:
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        (folder / f"a.{kind}").write_bytes(gzip.compress(content) if kind.endswith("gz") else content)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet"])
def test_a_sample_is_bounded_spread_and_without_repetition(kind: str, tmp_path: Path) -> None:
    texts = make_documents(3000)
    write_corpus(tmp_path, kind, texts)
    corpus = open_corpus(str(tmp_path), one_document_per_file=False)
    size = (corpus.num_bytes or 0) // 8
    sample = CorpusSample(corpus, size)
    found = list(sample)
    num_bytes = sum(len(text.encode()) for text in found)
    assert size <= num_bytes <= size + 400 and sample.record["num_bytes"] == num_bytes
    assert sample.record["num_documents"] == len(found) == len(set(found))
    assert found == list(sample)
    numbers = [int(text.split()[0]) for text in found if text in set(texts)]
    assert len(numbers) >= len(found) - documents.NUM_SAMPLE_SPANS and numbers == sorted(numbers)
    if kind != "jsonl.gz":  # which is read from its beginning
        assert [sum(low <= number < low + 500 for number in numbers) > 20 for low in range(0, 3000, 500)] == [True] * 6


def test_a_sample_of_a_small_corpus_is_all_of_it(tmp_path: Path) -> None:
    write_corpus(tmp_path, "jsonl", make_documents(30))
    corpus: Any = open_corpus(str(tmp_path))
    assert list(CorpusSample(corpus, 1 << 20)) == make_documents(30)
