"""What `--data` names as three parts: known layouts, texts whose end is cut off, hub data sets; and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp_adan.corpora import hub_corpus, text_files
from nlp_adan.corpora.readers import file_reader
from nlp_adan.errors import UserError
from transformer_xl.encoder import text_blocks, words_of
from transformer_xl.texts import PARTS, Texts, open_texts, unit_by_name
from transformer_xl.vocabulary import TextRules, build_vocabulary, count_words

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "lm"


def ignore(num_bytes: int) -> None:
    pass


def part(texts: Texts, name: str, unit: Any = "word") -> str:
    return "".join(block for _, blocks in text_blocks(texts.parts[name], TextRules(unit), ignore) for block in blocks)


def parts(data: Path | str, unit: Any = "word", **options: Any) -> list[str]:
    texts = open_texts(str(data), unit, **options)
    texts.corpus.check()
    return [part(texts, name, unit) for name in PARTS]


def error_of(data: Path | str, unit: str = "word", **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        parts(data, unit, **options)
    return str(raised.value)


def write_parts(folder: Path, pattern: str, valid: str = "valid", end: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (("train", "a b\n\n c\n"), (valid, "d\n"), ("test", "e")):
        (folder / pattern.format(name)).write_text(text + end)
    return folder


EXPECTED = ["a b\n\n c\n", "d\n", "e\n"]


@pytest.mark.parametrize("pattern", ["wiki.{}.tokens", "wiki.{}.raw", "ptb.{}.txt", "{}.txt", "{}.tokens"])
def test_known_layouts(pattern: str, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "data", pattern)
    assert parts(folder) == EXPECTED
    assert parts(folder, "character") == [*EXPECTED[:2], "e"]
    (folder / "README.md").write_text("not this")
    (folder / ".valid.txt").write_text("nor this")
    assert parts(folder) == EXPECTED
    names = [source.path for source in open_texts(str(folder), "word").corpus.sources]
    assert names == [pattern.format(name) for name in PARTS]


def test_validation_is_another_name_and_shards_are_one_part(tmp_path: Path) -> None:
    assert parts(write_parts(tmp_path / "one", "{}.txt", valid="validation")) == EXPECTED
    folder = tmp_path / "two"
    folder.mkdir()
    for name, texts in (("train-00000-of-00002", ["a b", ""]), ("train-00001-of-00002", [" c"]), ("test", ["e"])):
        pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet")
    pq.write_table(pa.table({"text": ["d\n", None]}), folder / "validation-00000-of-00001.parquet")
    assert parts(folder) == EXPECTED


def test_records_are_their_lines_and_an_empty_one_is_a_blank_line(tmp_path: Path) -> None:
    for name in PARTS:
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"body": text}) + "\n" for text in (" = A =\n", "", "b\r\nc", None, name))
    assert parts(tmp_path, text_column="body") == [f" = A =\n\nb\nc\n{name}\n" for name in PARTS]


def test_a_prefix_names_one_of_several_texts(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "data", "ptb.{}.txt")
    write_parts(folder, "ptb.char.{}.txt", end="x")
    assert parts(folder / "ptb") == EXPECTED
    assert parts(folder / "ptb.char")[1] == "d\nx\n"
    message = error_of(folder)
    assert "holds several texts" in message and "ptb.char.train.txt" in message and "before `.train`" in message
    assert "no such file" in error_of(folder / "pbt")


@pytest.mark.parametrize("missing", PARTS)
def test_a_missing_part_is_named(missing: str, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "data", "wiki.{}.tokens")
    (folder / f"wiki.{missing}.tokens").unlink()
    message = error_of(folder)
    assert f"has no part {missing!r} beside wiki." in message and "`--data FILE`" in message


def test_one_whole_layout_is_taken_beside_a_part_of_another(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "data", "{}.txt")
    (folder / "train.jsonl").write_text("{}")
    assert parts(folder) == EXPECTED


def test_enwik8_and_text8_by_their_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4
    (tmp_path / "enwik8").write_bytes(content)
    assert unit_by_name(str(tmp_path / "enwik8")) == unit_by_name(str(tmp_path)) == "byte"
    texts = open_texts(str(tmp_path), "byte")
    spans = [texts.parts[name][0] for name in PARTS]
    assert [(span.start, span.stop) for span in spans] == [(0, 922), (922, 973), (973, None)]
    assert b"".join(b for span in spans for b in span.reader.bytes_blocks(span.start, span.stop, ignore)) == content
    (tmp_path / "text8").write_text("abc " * 250)
    assert unit_by_name(str(tmp_path / "text8")) == "character"
    assert [len(text) for text in parts(tmp_path / "text8", "character")] == [900, 50, 50]
    assert unit_by_name(str(tmp_path)) == unit_by_name(None) == unit_by_name("enwik8x") == "word"
    # The files' own sizes, which no test has on disk.
    reader: Any = file_reader(tmp_path / "enwik8", "utf-8", "text", True)
    reader.size = 100_000_000
    whole = Texts(texts.corpus, {"train": [reader]}, {"valid": 0.05, "test": 0.05}, "byte")
    assert [whole.parts[name][0].start for name in PARTS] == [0, 90_000_000, 95_000_000]


def test_bytes_are_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00" * 100)
    os.utime(tmp_path / "a.txt", (1e9, 1e9))  # a younger file is hashed each time
    open_texts(str(tmp_path / "a.txt"), "byte").corpus.check()
    assert "0xff" in error_of(tmp_path / "a.txt", "character")  # though it was hashed before
    assert "no file is decoded" in error_of(tmp_path / "a.txt", "byte", encoding="latin-1")


def test_the_end_of_a_text_is_cut_off_at_a_line(tmp_path: Path) -> None:
    lines = [f"line {number} of the text\n" for number in range(1000)]
    (tmp_path / "a.txt").write_text("".join(lines))
    train, valid, test = parts(tmp_path / "a.txt", valid_fraction=0.1, test_fraction=0.2)
    assert train + valid + test == "".join(lines)
    assert [text.count("\n") for text in (train, valid, test)] == [702, 100, 198]
    assert train.endswith("\n") and valid.endswith("\n")


def write_kind(file: Path, kind: str, lines: list[str]) -> str:
    """The lines as a file of a kind; the file's name."""
    target = file.with_name(f"{file.name}.{kind}")
    if kind == "parquet":
        pq.write_table(pa.table({"text": lines}), target)
    elif kind == "txt":
        target.write_text("".join(f"{line}\n" for line in lines))
    else:
        content = "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()
        target.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    return target.name


@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.text("ab é日", max_size=12), min_size=1, max_size=30),
    fractions=st.tuples(st.floats(0.01, 0.45), st.floats(0.01, 0.45)),
    num_files=st.integers(1, 3),
)
def test_parts_are_the_whole_text_in_order(
    kind: str, tmp_path: Path, lines: list[str], fractions: tuple[float, float], num_files: int
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    per_file = -(-len(lines) // num_files)
    for number in range(num_files):
        write_kind(folder / f"part{number}", kind, lines[number * per_file : (number + 1) * per_file] or ["x"])
    texts = open_texts(str(folder), "word", valid_fraction=fractions[0], test_fraction=fractions[1])
    whole = [f"{line}\n" for line in lines]
    missing = ["x\n"] * (num_files - -(-len(lines) // per_file))
    assert "".join(part(texts, name) for name in PARTS) == "".join(whole + missing)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("a\n é日\U0001f600", min_size=1, max_size=30), fraction=st.floats(0.05, 0.45))
def test_no_character_is_cut(tmp_path: Path, text: str, fraction: float) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    texts = open_texts(str(tmp_path / "a.txt"), "character", valid_fraction=fraction, test_fraction=fraction)
    assert "".join(part(texts, name, "character") for name in PARTS) == text


def test_files_do_not_run_into_each_other(tmp_path: Path) -> None:
    for number, text in enumerate(("one", "two\n", "", "three")):
        (tmp_path / f"{number}.txt").write_text(text)
    assert "".join(parts(tmp_path, "character")) == "one\ntwo\nthree"
    assert "".join(parts(tmp_path, "word")) == "one\ntwo\nthree\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "shift_jis"])
@pytest.mark.parametrize("unit", ["word", "character"])
def test_cuts_in_other_encodings(encoding: str, unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "CHUNK_BYTES", 50)
    text = "".join(
        f"{'n' * (number % 7)} {'é' if encoding in ('utf-8', 'latin-1') else '日'}\n" for number in range(200)
    )
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    found = parts(tmp_path / "a.txt", unit, encoding=encoding, valid_fraction=0.1, test_fraction=0.1)
    assert "".join(found) == text
    assert [round(len(each) / len(text), 1) for each in found] == [0.8, 0.1, 0.1]


def test_text_without_lines_is_cut_at_a_space(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word another " * 1000)
    found = parts(tmp_path / "a.txt")
    assert " ".join(found).split() == ("word another " * 1000).split()
    assert [len(text.split()) for text in found] == [1800, 100, 100]


def test_lines_are_numbered_in_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n" * 50)
    span = open_texts(str(tmp_path / "a.txt"), "word").parts["test"][0]
    assert span.reader.where(span.start, 2) == f"{tmp_path / 'a.txt'}, line 97"


def test_own_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "data", "{}.txt")
    (folder / "valid.txt").write_bytes(b"fine\nca\xe9\n")
    assert "valid.txt, line 2: byte 7 (0xe9)" in error_of(folder)
    (folder / "valid.txt").write_bytes(b"\x1f\x8b\x08")
    assert "gzip-compressed" in error_of(folder)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nb\n')
    assert "a.jsonl, line 2 is not JSON" in error_of(tmp_path / "a.jsonl")
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "holds no text" in error_of(tmp_path / "empty.txt")
    assert "is not an encoding" in error_of(folder, encoding="utf-88")


def test_identity_is_of_contents_and_parts(tmp_path: Path) -> None:
    one, two = (write_parts(tmp_path / name, "{}.txt") for name in ("one", "two"))
    identity = open_texts(str(one), "word").identity()
    assert identity == open_texts(str(two), "word").identity()
    assert open_texts(str(one), "word", valid_fraction=0.3).identity() == identity  # it has parts of its own
    (two / "test.txt").write_text("other")
    assert identity != open_texts(str(two), "word").identity()
    single = [open_texts(str(one / "train.txt"), "word", valid_fraction=given) for given in (0.05, 0.3)]
    assert single[0].identity() != single[1].identity()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data set's folder, which the datasets library reads as it reads the hub's, under a hub's name."""
    import datasets

    folder = tmp_path / "hub"
    folder.mkdir()
    load = datasets.load_dataset
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_corpus, "_find_revision", lambda *given: "abc")

    def load_dataset(path: str, configuration: str | None, revision: str, **options: Any) -> Any:
        assert (path, configuration, revision) == ("lab/texts", "raw", "abc")
        return load(str(folder), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    yield folder


def write_split(folder: Path, name: str, *texts: str) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_hub_splits(hub: Path) -> None:
    write_split(hub, "train", "", " = A =\n", "b c\n")
    write_split(hub, "validation", "d")
    write_split(hub, "test", "e\n")
    assert parts("lab/texts:raw") == ["\n = A =\nb c\n", "d\n", "e\n"]
    assert open_texts("lab/texts:raw", "word").identity()["sources"][0]["sha256"] == "abc"


def test_hub_splits_that_are_missing_are_cut_off_the_training_split(hub: Path) -> None:
    write_split(hub, "train", *(f"line {number}" for number in range(100)))
    found = parts("lab/texts:raw", valid_fraction=0.1)
    assert [text.count("\n") for text in found] == [85, 10, 5] and found[1].startswith("line 85\n")
    write_split(hub, "test", "e")
    assert [text.count("\n") for text in parts("lab/texts:raw", valid_fraction=0.1)] == [90, 10, 1]
    (hub / "train.jsonl").unlink()
    assert "has no split 'train'; it has: test" in error_of("lab/texts:raw")


def test_hub_switched_off_reads_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    for name in ("train", "validation", "test"):
        write_split(hub, name, name, "")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert parts("lab/texts:raw") == ["train\n\n", "validation\n\n", "test\n\n"]


@pytest.mark.parametrize(
    ("name", "num_tokens", "vocab_size"),
    [("wikitext-2", [2_088_628, 217_646, 245_569], 33_278), ("ptb", [929_589, 73_760, 82_430], 10_000)],
)
def test_the_standard_counts(name: str, num_tokens: list[int], vocab_size: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("the data is not here")
    texts, rules = open_texts(str(SHARED / name), "word"), TextRules("word")
    found, vocabulary = [], None
    for part_name in PARTS:
        blocks = (block for _, some in text_blocks(texts.parts[part_name], rules, ignore) for block in some)
        counts = count_words(words_of(block, rules) for block in blocks)
        found.append(sum(counts.values()))
        vocabulary = vocabulary or build_vocabulary(counts, rules)
    assert found == num_tokens and vocabulary is not None and len(vocabulary.tokens) == vocab_size
