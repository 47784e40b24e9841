"""What `--data` names, as three parts: text to train on, to validate on, and to test on at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from nlp_adan.corpora.corpus import Corpus, OnBytes
from nlp_adan.corpora.documents import FORMATS, FileCorpus, file_kind, known_encoding, open_corpus
from nlp_adan.corpora.hub_corpus import HubCorpus
from nlp_adan.corpora.readers import HubReader, Reader, Unit, file_reader
from nlp_adan.errors import UserError
from nlp_adan.storage import sha256_file

PARTS = ("train", "valid", "test")
# What the tokens of files of these names are, unless an option says otherwise.
UNITS_BY_NAME = {"enwik8": "byte", "text8": "character"}
# wiki.train.tokens, ptb.valid.txt, test.jsonl.gz, train-00000-of-00002.parquet
_PART_FILE = re.compile(
    r"(?:(?P<prefix>.+)\.)?(?P<part>train|valid|validation|test)(?:-\d+-of-\d+)?"
    r"(?P<ending>\.tokens|\.raw|\.txt|\.jsonl|\.jsonl\.gz|\.parquet)"
)
# Where the text may be cut into parts, by what its tokens are.
_CUTS: dict[str, Unit] = {"byte": "byte", "character": "character"}


class Span(NamedTuple):
    """A source from one of its places to another; stop: None for its end."""

    reader: Reader
    start: int = 0
    stop: int | None = None

    def blocks(self, on_bytes: OnBytes, closed: bool) -> Iterator[str]:
        """The text in blocks cut anywhere; closed: a last line without a newline character is given one."""
        block = ""
        for block in self.reader.blocks(self.start, self.stop, on_bytes):
            yield block
        if closed and block and not block.endswith("\n"):
            yield "\n"


@dataclass(frozen=True)
class Texts:
    """A text in three parts.

    corpus: its sources and their hashes; readers: of each part that has sources of its own; fractions: of the parts
    that are cut off the end of the training part's sources, as shares of these; unit: where they are cut.
    """

    corpus: Corpus
    readers: Mapping[str, Sequence[Reader]]
    fractions: Mapping[str, float]
    unit: Unit

    def identity(self) -> dict[str, Any]:
        """A JSON value that is equal for two texts of equal parts, wherever their files lie."""
        identity = self.corpus.identity()
        num_sources = {part: len(readers) for part, readers in self.readers.items()}
        options = {**identity["options"], "sources_of_parts": num_sources, "fractions": dict(self.fractions)}
        return {**identity, "options": options}

    @cached_property
    def parts(self) -> dict[str, list[Span]]:
        """The spans of each part, in order. Sources that are cut are read around the cuts."""
        parts = {part: [Span(reader) for reader in readers] for part, readers in self.readers.items()}
        train = self.readers["train"]
        begins = [(0, 0), *self._cuts()]
        ends: list[tuple[int, int | None]] = [*begins[1:], (len(train) - 1, None)]
        for part, (first, start), (last, stop) in zip(["train", *self.fractions], begins, ends, strict=True):
            spans = [Span(reader) for reader in train[first : last + 1]]
            spans[-1] = spans[-1]._replace(stop=stop)
            spans[0] = spans[0]._replace(start=start)
            parts[part] = spans
        return parts

    def _cuts(self) -> list[tuple[int, int]]:
        """Where each part that is cut off begins: the number of a source, and the place in it."""
        train = self.readers["train"]
        sizes = [reader.size for reader in train]
        shares = [round(sum(sizes) * fraction) for fraction in self.fractions.values()]
        cuts = []
        for number in range(len(shares)):
            offset, index = sum(sizes) - sum(shares[number:]), 0
            while offset >= sizes[index] and index + 1 < len(sizes):
                offset -= sizes[index]
                index += 1
            cuts.append((index, train[index].cut(offset, self.unit)))
        return cuts


class ByteFiles(FileCorpus):
    """Files whose bytes are the tokens: those that are not of records are not decoded."""

    def check(self) -> None:
        """See `Corpus.check`."""
        self.sources  # noqa: B018 (hashes every file)

    def _digest_purpose(self) -> str:
        return f"bytes, {self.encoding}"

    def _checked_digest(self, path: Path) -> str:
        return sha256_file(path) if file_kind(path) == ".txt" else super()._checked_digest(path)


def unit_by_name(data: str | None) -> str:
    """What the tokens of a text are where no option says it."""
    path = None if data is None else _character_file(Path(data).expanduser())
    return "word" if path is None else UNITS_BY_NAME[path.name]


def open_texts(
    data: str | None,
    unit: str,
    encoding: str = "utf-8",
    text_column: str = "text",
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
) -> Texts:
    """The text that `--data` names; nothing but names and sizes is read yet.

    unit: "word", "character", "byte" or "document"; the rest as in `StreamOptions`.

    Raises: UserError for a path that is not there, a part that is missing, and all that `open_corpus` reports.
    """
    shares = {"valid": valid_fraction, "test": test_fraction}
    cut_at = _CUTS.get(unit, "line")
    files = None if data is None else _files_of_parts(Path(data).expanduser())
    if files is not None:
        listed = [path for part in PARTS for path in files.get(part, ())]
        corpus = FileCorpus(str(data), listed[0].parent, listed, known_encoding(encoding), text_column, False)
        shares = {}
    else:
        single = None if data is None else _character_file(Path(data).expanduser())
        opened = open_corpus(data if single is None else str(single), encoding, text_column)
        if isinstance(opened, HubCorpus):
            return _hub_texts(opened, shares, cut_at)
        assert isinstance(opened, FileCorpus)
        corpus, files = opened, {"train": opened.files}
    if unit == "byte":
        if encoding != "utf-8" and {file_kind(path) for path in corpus.files} == {".txt"}:
            raise UserError(f"--encoding {encoding}: with `--unit byte` no file is decoded; leave one of them out")
        corpus = ByteFiles(corpus.name, corpus.folder, corpus.files, corpus.encoding, corpus.text_column, False)
    parted = not corpus.one_document_per_file
    readers = {
        part: [file_reader(path, corpus.encoding, corpus.text_column, parted) for path in paths]
        for part, paths in files.items()
    }
    return Texts(corpus, readers, shares, cut_at)


def reads_whole_folder(data: str | None) -> bool:
    """Whether `data` is a folder of texts of which every file is read, those that come into it later too."""
    path = None if data is None else Path(data).expanduser()
    return path is not None and path.is_dir() and _files_of_parts(path) is None and _character_file(path) is None


def _character_file(path: Path) -> Path | None:
    """enwik8 or text8: the file, or the one text that a folder holds."""
    if path.is_file():
        return path if path.name in UNITS_BY_NAME else None
    texts = [file for file in path.glob("*") if file.name in UNITS_BY_NAME or file.name.lower().endswith(FORMATS)]
    return texts[0] if len(texts) == 1 and texts[0].name in UNITS_BY_NAME else None


def _hub_texts(corpus: HubCorpus, fractions: Mapping[str, float], cut_at: Unit) -> Texts:
    """The splits of a hub data set as parts; those that it lacks are cut off its training split."""
    sizes = corpus.num_rows()
    splits = {"train": "train", "valid": "valid" if "valid" in sizes else "validation", "test": "test"}
    found = {part: split for part, split in splits.items() if split in sizes}
    if "train" not in found:
        raise UserError(
            f"the hub data set {corpus.name!r} has no split 'train'; it has: {', '.join(sizes)}. Save its text in a "
            "file and name that with `--data`"
        )
    shares = {part: share for part, share in fractions.items() if part not in found}
    readers = {}
    for part, split in found.items():
        num_rows = sizes[split]
        if num_rows is None:
            num_rows = sum(1 for _ in corpus.texts(split)) if part == "train" and shares else 0
        readers[part] = [HubReader(corpus, split, num_rows)]
    return Texts(corpus, readers, shares, cut_at)


def _files_of_parts(path: Path) -> dict[str, list[Path]] | None:
    """The files of each part in a folder, or at a prefix; None where there are none in a known layout.

    Raises: UserError where there are several layouts, or where one lacks a part.
    """
    folder, prefix = (path, None) if path.is_dir() else (path.parent, path.name)
    if path.is_file() or not folder.is_dir():
        return None
    layouts: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for file in sorted(folder.iterdir()):
        match = _PART_FILE.fullmatch(file.name)
        if match and file.is_file() and not file.name.startswith(".") and prefix in (None, match["prefix"]):
            layout = layouts.setdefault((match["prefix"] or "", match["ending"]), {})
            layout.setdefault("valid" if match["part"] == "validation" else match["part"], []).append(file)
    layouts = {name: files for name, files in layouts.items() if "train" in files or len(files) > 1}
    whole = [files for files in layouts.values() if len(files) == len(PARTS)] or list(layouts.values())
    if len(whole) > 1:
        named = ", ".join(str(_first(files)) for files in whole)
        raise UserError(
            f"--data {str(path)!r} holds several texts ({named}): name one by what stands before `.train` in it, or "
            "move the others away"
        )
    if not whole:
        return None
    for part in PARTS:
        if part not in whole[0]:
            raise UserError(
                f"--data {str(path)!r} has no part {part!r} beside {_first(whole[0]).name}: add it, or give one file "
                "as `--data FILE`, whose end is then cut off for validation and test"
            )
    return whole[0]


def _first(files: Mapping[str, Sequence[Path]]) -> Path:
    """The training file of a layout, or its first one."""
    return next(files[part][0] for part in PARTS if part in files)
