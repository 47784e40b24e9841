"""Plain text files: their documents, and what is wrong with files that are not text.

Line ends (CRLF and lone CR) become one newline character and a byte order mark goes, whatever the encoding.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nlp_adan.errors import UserError
from nlp_adan.storage import CHUNK_BYTES

from .lines import SEEKABLE_ENCODINGS, Lines

# A longer document comes in pieces of at most this many characters, cut at a blank line where the second half of a
# piece has one, else at a line's end, else anywhere: memory stays bounded, and a split by document stays even.
PIECE_CHARS = 65_536

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive (or a word processor's file)"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"BZh", "bzip2-compressed data"),
    (b"\xfd7zXZ\x00", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program"),
    (b"\xd0\xcf\x11\xe0", "a word processor's file"),
    (b"{\\rtf", "a rich text (RTF) file"),
)
_C1_CONTROL = re.compile(rb"[\x80-\x9f]")


def pieces(lines: Iterable[str], split_at_blank_lines: bool) -> Iterator[str]:
    """The documents in lines of text: one for all lines, or one for each group of lines between blank ones.

    Nothing is lost but blank lines and spaces around a document; blank documents are left out. No line may be longer
    than PIECE_CHARS.
    """
    kept: list[str] = []
    num_chars = 0
    for line in lines:
        blank = not line.strip()
        cut_here = blank and (split_at_blank_lines or num_chars >= PIECE_CHARS // 2)
        if kept and (cut_here or num_chars + len(line) > PIECE_CHARS):
            yield from _joined(kept)
            kept, num_chars = [], 0
        if kept or not blank:
            kept.append(line)
            num_chars += len(line)
    yield from _joined(kept)


def _joined(lines: list[str]) -> Iterator[str]:
    text = "".join(lines).strip()
    if text:
        yield text


def text_pieces(text: str) -> Iterator[str]:
    """The pieces of one document that another format holds as a string: line ends and byte order mark normalised."""
    file = io.StringIO(text.removeprefix("\ufeff"), newline=None)
    yield from pieces(iter(lambda: file.readline(PIECE_CHARS), ""), split_at_blank_lines=False)


def read_text(
    path: Path, encoding: str, split_at_blank_lines: bool, on_position: Callable[[int], None], start: int = 0
) -> Iterator[tuple[str, tuple[int]]]:
    """The documents of a text file, each with the `start` from which the next one is read.

    `on_position` is told the number of bytes read so far, now and then.

    Raises: UserError naming the byte where the file is not in this encoding.
    """
    with open(path, "rb") as raw:
        lines = Lines(raw, encoding, PIECE_CHARS, universal=True, start=start)
        try:
            for document in pieces(lines, split_at_blank_lines):
                on_position(raw.tell())
                # Yielded when the line that came last is not in it.
                yield document, (lines.begin,)
        except UnicodeError:
            check_text(path, encoding)
            raise
        on_position(raw.tell())


def read_blocks(
    path: Path, encoding: str, on_position: Callable[[int], None], start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """A text file from one offset to another, in blocks of about a MiB that are cut anywhere.

    start, stop: offsets as `Lines.begin` has them; None: to the end.

    Raises: UserError naming the byte where the file is not in this encoding.
    """
    in_bytes = encoding in SEEKABLE_ENCODINGS
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = start if in_bytes else 0  # of what is read next
    with open(path, "rb") as file:
        file.seek(offset)
        try:
            while stop is None or offset < stop:
                chunk = file.read(CHUNK_BYTES if stop is None or not in_bytes else min(CHUNK_BYTES, stop - offset))
                text = decoder.decode(chunk, final=not chunk)
                begin, offset = offset, offset + (len(chunk) if in_bytes else len(text))
                if not in_bytes:
                    text = text[max(0, start - begin) : None if stop is None else max(0, stop - begin)]
                if begin == 0:
                    text = text.removeprefix("\ufeff")
                on_position(file.tell())
                if block := newlines.decode(text):
                    yield block
                if not chunk:
                    break
        except UnicodeError:
            check_text(path, encoding)
            raise
    if rest := newlines.decode("", final=True):
        yield rest


def lines_of(blocks: Iterable[str]) -> Iterator[str]:
    """The lines of a text in blocks, each with its newline character; of a longer one PIECE_CHARS at a time."""
    rest = ""
    for block in blocks:
        *lines, rest = (rest + block).split("\n")
        for line in lines:
            yield from _chopped(line + "\n")
        if len(rest) > PIECE_CHARS:
            *whole, rest = _chopped(rest)
            yield from whole
    if rest:
        yield rest


def _chopped(line: str) -> Iterator[str]:
    for begin in range(0, len(line), PIECE_CHARS):
        yield line[begin : begin + PIECE_CHARS]


def check_text(path: Path, encoding: str, on_chunk: Callable[[bytes], object] | None = None) -> None:
    """Read a file of text to its end; `on_chunk` is given all of its bytes.

    Raises: UserError where it is binary or not in this encoding, naming the first byte of that kind.
    """
    with open(path, "rb") as file:
        _check_magic(path, file.read(8))
        file.seek(0)
        check_decodes(path, encoding, file, on_chunk)


def _check_magic(path: Path, head: bytes) -> None:
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            raise UserError(f"{path} is {kind}, not text: remove it from the data, or convert it to text")


def check_decodes(
    path: Path, encoding: str, stream: BinaryIO, on_chunk: Callable[[bytes], object] | None = None
) -> None:
    """Read a stream of bytes to its end; `on_chunk` is given them.

    Raises: UserError at a NUL character or a byte that is not in this encoding: its offset, its line, the remedy.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    num_bytes, num_lines = 0, 1
    while True:
        chunk = stream.read(CHUNK_BYTES)
        if on_chunk is not None:
            on_chunk(chunk)
        waiting = decoder.getstate()[0]
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding, errors="replace")
            line = num_lines + newlines.decode(before).count("\n")
            offset = num_bytes - len(waiting) + error.start
            remedy = _encoding_remedy(stream, path)
            raise UserError(
                f"{path}, line {line}: byte {offset} (0x{error.object[error.start]:02x}) is not {encoding}. {remedy}"
            ) from error
        except UnicodeError as error:  # UTF-16 and UTF-32 without a byte order mark
            raise UserError(
                f"{path} is not {encoding} ({error}): leave `--encoding` out if it is UTF-8, or name its encoding"
            ) from error
        if "\0" in text:
            before = text[: text.index("\0")]
            line = num_lines + newlines.decode(before).count("\n")
            raise UserError(
                f"{path}, line {line}: a NUL character; this is a binary file, or text in an encoding other than "
                f"{encoding}: remove it from the data, or name its encoding with `--encoding` (such as utf-16)"
            )
        num_lines += newlines.decode(text).count("\n")
        num_bytes += len(chunk)
        if not chunk:
            return


def _encoding_remedy(stream: BinaryIO, path: Path) -> str:
    """What to do about a file that does not decode: the encoding that fits it, from a second reading."""
    stream.seek(0)
    head = stream.read(2)
    if head in (b"\xff\xfe", b"\xfe\xff"):
        return "It begins like UTF-16: add `--encoding utf-16`"
    suggested = "latin-1"
    stream.seek(0)
    while chunk := stream.read(CHUNK_BYTES):
        if b"\0" in chunk:
            return "It holds NUL bytes as well, as binary files do: remove it from the data"
        if _C1_CONTROL.search(chunk):
            # ISO-8859-1 has control characters here; Windows' own encoding has quotation marks and dashes.
            suggested = "cp1252"
            try:
                chunk.decode("cp1252")
            except UnicodeDecodeError:
                return (
                    f"Name its encoding with `--encoding`, or convert it to UTF-8, or remove {path.name} from the data"
                )
    kind = "ISO-8859-1" if suggested == "latin-1" else "Windows-1252"
    return (
        f"It decodes as {kind}: if all of the data does, add `--encoding {suggested}`; "
        f"otherwise convert this file (iconv -f {kind} -t UTF-8)"
    )
