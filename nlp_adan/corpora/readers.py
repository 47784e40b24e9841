"""One source of text each, read from one place to another: for texts that are cut into parts.

A place is a number in the reader's own count: bytes or characters of a file (`Lines.begin`), or rows.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from nlp_adan.storage import CHUNK_BYTES

from .corpus import OnBytes
from .documents import file_kind
from .hub_corpus import HubCorpus
from .lines import SEEKABLE_ENCODINGS, Lines
from .table_files import jsonl_texts, parquet_rows, parquet_texts
from .text_files import PIECE_CHARS, lines_of, pieces, read_blocks, text_pieces

# A place after all others.
END = sys.maxsize
# Where a text may be cut: before a line (or a record), a character, or a byte.
Unit = Literal["line", "character", "byte"]


class Reader(ABC):
    """A source of text.

    name: what messages call it; size: that offsets of `cut` are out of, in bytes as stored or in rows.
    """

    name: str
    size: int

    @abstractmethod
    def blocks(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str]:
        """The text between two places in blocks cut anywhere, line ends as one newline character.

        A record's text ends with one, added where it has none, so that an empty record is a blank line; nulls are left
        out. `on_bytes` is told how many more bytes of the source have been read, as they are stored.

        Raises: UserError for input that cannot be read, naming the file and the line or byte.
        """

    @abstractmethod
    def documents(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str]:
        """The documents between two places, as `Corpus.documents` has them."""

    @abstractmethod
    def cut(self, offset: int, unit: Unit) -> int:
        """The first place at or after an offset out of `size` at which the text may be cut."""

    def bytes_blocks(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[bytes]:
        """The bytes between two places, of records those of their texts in UTF-8."""
        return (block.encode() for block in self.blocks(start, stop, on_bytes))

    def where(self, start: int, line: int) -> str:
        """The line of this number, from 1 on, of what is read from `start` on, for a message."""
        return f"{self.name}, line {line:,} of its texts" + (" after the part before" if start else "")


class TextReader(Reader):
    """A file of text. parted: at its blank lines into documents; else it is one."""

    def __init__(self, path: Path, encoding: str, parted: bool) -> None:
        self.path, self.name, self.size = path, str(path), path.stat().st_size
        self.encoding = encoding
        self.parted = parted

    def blocks(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str]:
        """See `Reader.blocks`."""
        return read_blocks(self.path, self.encoding, _steps(on_bytes, start), start, stop)

    def documents(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str]:
        """See `Reader.documents`; the first and the last may be parts of one."""
        return pieces(lines_of(self.blocks(start, stop, on_bytes)), self.parted)

    def bytes_blocks(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[bytes]:
        """The bytes of the file as they are."""
        left = (self.size if stop is None else stop) - start
        with open(self.path, "rb") as file:
            file.seek(start)
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                on_bytes(len(chunk))
                yield chunk

    def cut(self, offset: int, unit: Unit) -> int:
        """See `Reader.cut`. A line of more than PIECE_CHARS bytes is cut at a space of these, or at a character."""
        if offset in (0, self.size) or unit == "byte":
            return offset
        if self.encoding not in SEEKABLE_ENCODINGS:
            return self._scanned_cut(offset / self.size, unit)
        with open(self.path, "rb") as file:
            # What was read begins a byte before: where that ends a line, the offset itself begins one.
            file.seek(offset - 1)
            seen = file.read(PIECE_CHARS)
        if unit == "line":
            for end in (b"\n", b" "):
                if found := seen.find(end) + 1:
                    return offset - 1 + found
            if offset - 1 + len(seen) >= self.size:
                return self.size
        after = seen[1:]
        if self.encoding == "utf-8":
            while after and after[0] & 0xC0 == 0x80:
                after = after[1:]
        return offset + len(seen) - 1 - len(after)

    def _scanned_cut(self, share: float, unit: Unit) -> int:
        """In an encoding whose offsets are characters: counted first, then found."""
        with open(self.path, "rb") as file:
            lines = Lines(file, self.encoding, PIECE_CHARS, universal=False)
            for _ in lines:
                pass
            end = lines.begin
        target = int(end * share)
        if unit == "character":
            return target
        with open(self.path, "rb") as file:
            lines = Lines(file, self.encoding, PIECE_CHARS, universal=False)
            return next((lines.begin for _ in lines if lines.begin >= target), end)

    def where(self, start: int, line: int) -> str:
        """See `Reader.where`: the number of a line in the whole file."""
        before = sum(block.count("\n") for block in read_blocks(self.path, self.encoding, _ignore, 0, start))
        return f"{self.path}, line {before + line:,}"


class RecordReader(Reader):
    """Records with a column of text."""

    @abstractmethod
    def texts(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str | None]:
        """The texts of the records between two places."""

    def blocks(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str]:
        """See `Reader.blocks`."""
        kept: list[str] = []
        num_chars = 0
        for text in self.texts(start, stop, on_bytes):
            if text is None:
                continue
            text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
            kept.append(text if text.endswith("\n") else f"{text}\n")
            num_chars += len(kept[-1])
            if num_chars >= CHUNK_BYTES:
                yield "".join(kept)
                kept, num_chars = [], 0
        if kept:
            yield "".join(kept)

    def documents(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str]:
        """See `Reader.documents`."""
        for text in self.texts(start, stop, on_bytes):
            yield from text_pieces(text or "")


class JsonLinesReader(RecordReader):
    """A file of JSON lines, plain or gzipped."""

    def __init__(self, path: Path, encoding: str, column: str) -> None:
        self.path, self.name, self.size = path, str(path), path.stat().st_size
        self.encoding = encoding
        self.column = column

    def texts(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str | None]:
        """See `RecordReader.texts`."""
        for text, begin, _ in jsonl_texts(self.path, self.encoding, self.column, _steps(on_bytes, start), start):
            if stop is not None and begin >= stop:
                return
            yield text

    def cut(self, offset: int, unit: Unit) -> int:
        """See `Reader.cut`; before a record. Where a file cannot be read from its middle, its records are counted."""
        if offset == 0:
            return 0
        if file_kind(self.path) == ".jsonl" and self.encoding in SEEKABLE_ENCODINGS:
            with open(self.path, "rb") as file:
                file.seek(offset - 1)
                return offset - 1 + len(file.readline())
        total = sum(1 for _ in self._begins())
        return next(islice(self._begins(), total * offset // self.size, None), END)

    def _begins(self) -> Iterator[int]:
        return (begin for _, begin, _ in jsonl_texts(self.path, self.encoding, self.column, _ignore))


class ParquetReader(RecordReader):
    """A parquet file."""

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.name, self.size = path, str(path), path.stat().st_size
        self.column = column

    def texts(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str | None]:
        """See `RecordReader.texts`."""
        for text, row in parquet_texts(self.path, self.column, _steps(on_bytes, 0), start):
            if stop is not None and row >= stop:
                return
            yield text

    def cut(self, offset: int, unit: Unit) -> int:
        """See `Reader.cut`; before a row."""
        return parquet_rows(self.path, self.column) * offset // self.size


class HubReader(RecordReader):
    """A split of a hub data set. num_rows: of the split."""

    def __init__(self, corpus: HubCorpus, split: str, num_rows: int) -> None:
        self.corpus, self.split, self.size = corpus, split, num_rows
        self.name = f"the hub data set {corpus.name!r}, split {split!r}"

    def texts(self, start: int, stop: int | None, on_bytes: OnBytes) -> Iterator[str | None]:
        """See `RecordReader.texts`."""
        for text, row in self.corpus.texts(self.split, start):
            if stop is not None and row >= stop:
                return
            on_bytes(len(text or ""))
            yield text

    def cut(self, offset: int, unit: Unit) -> int:
        """See `Reader.cut`; before a row."""
        return offset


def file_reader(path: Path, encoding: str, column: str, parted: bool) -> Reader:
    """The reader of a file by its name's ending; any unknown one is of text."""
    kind = file_kind(path)
    if kind == ".parquet":
        return ParquetReader(path, column)
    return TextReader(path, encoding, parted) if kind == ".txt" else JsonLinesReader(path, encoding, column)


def _steps(on_bytes: OnBytes, start: int) -> Callable[[int], None]:
    """Takes positions in a file, tells `on_bytes` how much more each is than the last one."""
    last = start

    def on_position(position: int) -> None:
        nonlocal last
        if position > last:
            on_bytes(position - last)
            last = position

    return on_position


def _ignore(position: int) -> None:
    pass
