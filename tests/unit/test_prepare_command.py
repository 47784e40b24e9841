"""`run_pretrain.py prepare`: every option acts, mistakes are named, and bad text is refused in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert.data_options import CorpusOptions
from bert.prepare import prepare_corpus
from bert.prepare_command import PrepareOptions, main
from bert.prepared import PreparedData, open_prepared
from bert.tokenizer import train_tokenizer
from nlp_adan.corpora import table_files
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.errors import EXIT_CODE, UserError
from tests.corpora import contents, make_documents, write_texts

PROJECT = Path(__file__).resolve().parents[2]
BASE = ["--vocab_size", "300", "--block_size", "32", "--valid_fraction", "0.2"]


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return write_texts(tmp_path / "texts", num_files=24, documents_each=10)


def prepared(texts: Path, name: str, *words: str) -> PreparedData:
    folder = texts.parent / name
    main(["--data", str(texts), "--output_dir", str(folder), *BASE, *words])
    return open_prepared(folder)


def test_summary_and_a_second_run(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = prepared(texts, "data")
    first = capsys.readouterr().out.splitlines()
    counts = [data.manifest[part] for part in ("train", "valid")]
    assert len(first) == 1 and first[0].startswith(f"{sum(part['num_documents'] for part in counts):,} documents, ")
    assert "MB/s" in first[0] and f"{len(data.train):,} training and {len(data.valid):,} validation" in first[0]
    before = {name: (texts.parent / "data" / name).stat().st_mtime_ns for name in contents(data.folder)}
    prepared(texts, "data")
    assert {name: (texts.parent / "data" / name).stat().st_mtime_ns for name in before} == before
    assert "MB/s" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "inputs"),
    [
        (["--encoding", "latin-1"], "encoding"),
        (["--documents", "blank_line"], "one_document_per_file"),
        (["--block_size", "16"], "block_size"),
        (["--valid_fraction", "0.3"], "valid_fraction"),
        (["--split_seed", "1"], "split_seed"),
        (["--vocab_size", "301"], "tokenizer"),
        (["--tokenizer_kind", "wordpiece", "--vocab_size", "200"], "tokenizer"),
        (["--tokenizer_sample_bytes", "20000"], "tokenizer"),
        (["--tokenizer", "own"], "tokenizer"),
    ],
)
def test_every_option_makes_other_data(words: list[str], inputs: str, texts: Path) -> None:
    """`--num_workers` does not: see the test of the workers' ids."""
    if words[0] == "--tokenizer":
        words = ["--tokenizer", str(texts.parent / "own")]
        train_tokenizer(make_documents(200), 310).save_pretrained(words[1])
    one = contents(prepared(texts, "data").folder)
    with pytest.raises(UserError, match=rf"different: {inputs}\)"):
        prepared(texts, "data", *words)
    assert contents(prepared(texts, "other", *words).folder) != one


def test_the_column_of_text(texts: Path) -> None:
    records = [json.dumps({"body": text}) for text in make_documents(200)]
    (texts / "z.jsonl").write_text("\n".join(records))
    with pytest.raises(UserError, match=r"z\.jsonl, line 1 has no column 'text'.*it has: body"):
        prepared(texts, "data")
    assert not (texts.parent / "data").exists()
    assert (
        prepared(texts, "data", "--text_column", "body").manifest["inputs"]["corpus"]["options"]["text_column"]
        == "body"
    )


def test_the_tokenizers_sample_is_recorded(texts: Path) -> None:
    whole = sum(path.stat().st_size for path in texts.iterdir())
    for sample_bytes in (whole // 2, 10**9):
        data = prepared(texts, f"data{sample_bytes}", "--tokenizer_sample_bytes", str(sample_bytes))
        record = data.manifest["tokenizer_sample"]
        assert record["sample_bytes"] == sample_bytes and record["vocab_size"] == 300
        assert min(sample_bytes, whole) * 0.9 < record["sample"]["num_bytes"] < sample_bytes * 1.6
        assert len(record["sample"]["starts"]) == (1 if sample_bytes > whole else 64)


def test_prepared_data_as_the_data_of_a_run(texts: Path) -> None:
    data = prepared(texts, "data")
    options = CorpusOptions(data=str(data.folder), block_size=32)
    given, tokenizer = prepare_corpus(options)
    assert given.manifest == data.manifest and len(tokenizer) == 300
    with pytest.raises(UserError, match="`--block_size 32`"):
        prepare_corpus(CorpusOptions(data=str(data.folder), block_size=64))
    train_tokenizer(make_documents(200), 310).save_pretrained(texts.parent / "own")
    with pytest.raises(UserError, match="is not the one that made the blocks"):
        prepare_corpus(CorpusOptions(data=str(data.folder), block_size=32, tokenizer=str(texts.parent / "own")))
    options.tokenizer = str(data.folder / "tokenizer")
    assert prepare_corpus(options)[0].manifest == data.manifest


def test_what_is_said_beside_prepared_data_is_true_of_it(texts: Path) -> None:
    """An option of the text or of its tokenizer would do nothing there: it is accepted where it says how they are."""
    data = prepared(texts, "data", "--documents", "blank_line")
    true: dict[str, Any] = {
        "documents": "blank_line", "encoding": "UTF8", "valid_fraction": 0.2, "split_seed": 0, "tokenizer_kind": "bpe",
        "vocab_size": 300,
    }  # fmt: skip
    place: dict[str, Any] = {"data": str(data.folder), "block_size": 32}
    prepare_corpus(CorpusOptions(**place, **true), given=true)
    false: dict[str, Any] = {
        "documents": "file", "encoding": "latin-1", "valid_fraction": 0.1, "split_seed": 1,
        "tokenizer_kind": "wordpiece", "vocab_size": 310, "tokenizer_sample_bytes": 5, "text_column": "body",
    }  # fmt: skip
    for name, value in false.items():
        options = CorpusOptions(**place, **{name: value})
        with pytest.raises(UserError, match=rf"--{name} {value}: .*(was prepared with|needed none).*leave it out"):
            prepare_corpus(options, given=[name])
        prepare_corpus(options)  # a recipe's


def test_without_output_dir_it_is_where_training_finds_it(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", str(texts), *BASE])
    folder = Path(capsys.readouterr().out.split(" in ")[-1].strip())
    options = CorpusOptions(data=str(texts), vocab_size=300, block_size=32, valid_fraction=0.2)
    assert folder.parent == texts.parent / "cache" and prepare_corpus(options)[0].folder == folder


def test_mistakes(texts: Path) -> None:
    data = prepared(texts, "data")
    cases = {
        ("--data", str(data.folder)): "is prepared already",
        ("--output_dir", str(texts)): "holds no prepared data: name a new folder",
        ("--verify", str(data.folder), "--output_dir", "elsewhere"): "name one folder",
        ("--verify", str(texts)): "holds no prepared data",
        ("--num_workers", "0"): "--num_workers: 0",
        ("--vocab_size", "0"): "--vocab_size: 0",
        ("--tokenizer_sample_bytes", "0"): "--tokenizer_sample_bytes: 0",
        ("--documents", "line"): "possible: auto, file, blank_line",
        ("--seed", "3"): "did you mean '--split_seed'",
        ("--block_size", "2"): "--block_size 3",
    }
    for words, told in cases.items():
        with pytest.raises(UserError, match=told):
            main([*words, *(["--data", str(texts), "--vocab_size", "300"] if "--block_size" in words else [])])
    assert PrepareOptions().block_size == 512 and PrepareOptions().vocab_size == 50_265  # the paper's


def test_the_door(texts: Path) -> None:
    """In a process of its own: verify, with two workers' damage named, exit code 2."""
    data = prepared(texts, "data")
    (data.folder / "valid-00000.bin").write_bytes(b"other")
    command = [sys.executable, "run_pretrain.py", "prepare", "--verify", str(data.folder)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == EXIT_CODE and "Traceback" not in result.stderr
    assert "valid-00000.bin has 5 bytes instead of" in result.stderr and "1 of 8 files are damaged" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("z.txt", b"words \xff", r"z\.txt, line 1: byte 6 \(0xff\) is not utf-8"),
        ("z.txt", b"one\ntwo\0three", r"z\.txt, line 2: a NUL"),
        ("z.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"z\.jsonl, line 2: byte 24 \(0xff\)"),
        ("z.jsonl", b'{"text": "a"}\n{"text": 1}', r"z\.jsonl, line 2: .* holds a int"),
        (
            "z.jsonl.gz",
            gzip.compress(os.urandom(3000).hex().join(['{"text": "', '"}\n']).encode() * 9)[:-700],
            "cut off",
        ),
        ("z.parquet", b"PAR1 no more", r"z\.parquet is not a whole parquet file"),
    ],
)
def test_bad_files_are_named_and_a_later_run_goes_on(name: str, content: bytes, told: str, texts: Path) -> None:
    expected = contents(prepared(texts, "good").folder)
    (texts / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        prepared(texts, "data")
    (texts / name).unlink()
    assert contents(prepared(texts, "data").folder) == expected
    assert sorted(path.name for path in texts.parent.iterdir()) == ["cache", "data", "good", "texts"]


def test_a_parquet_without_the_column_and_empty_documents(texts: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), texts / "z.parquet")
    with pytest.raises(UserError, match=r"z\.parquet has no column 'text'"):
        prepared(texts, "data")
    pq.write_table(pa.table({"text": ["", None, "  \n"]}), texts / "z.parquet")
    (texts / "empty.txt").write_bytes(b"")
    (texts / "blank.txt").write_bytes(b"\xef\xbb\xbf \r\n\r\n")
    data = prepared(texts, "data")
    assert data.manifest["train"]["num_documents"] + data.manifest["valid"]["num_documents"] == 24


def test_one_endless_line_in_bounded_memory(texts: Path) -> None:
    """20 MB without a line end, with and without spaces; measured: 0.6 MB."""
    file = texts / "z.txt"
    with open(file, "wb") as output:
        for _ in range(20):
            output.write(b"word " * 100_000 + b"x" * 500_000)
    corpus = open_corpus(str(file))
    tracemalloc.start()
    try:
        num_chars = sum(len(document) for document in corpus.documents())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_chars > 19_900_000 and peak < 4_000_000


def test_an_endless_record_is_named(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MAX_LINE_CHARS", 1000)
    (texts / "z.jsonl").write_text('{"text": "good"}\n{"text": "' + "x" * 1000 + '"}\n')
    with pytest.raises(UserError, match=r"z\.jsonl, line 2: longer than 1,000 characters; split the record"):
        prepared(texts, "data")
