"""Lines of a text stream with their offsets, so that reading can begin again in the middle of a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

# In these a character's bytes do not depend on what is before it, and offsets are bytes. In others (utf-16, the East
# Asian ones) offsets are characters, and those before a start are read and thrown away.
SEEKABLE_ENCODINGS = frozenset(("utf-8", "ascii", "iso8859-1", "cp1252"))
SKIPPED_CHARS = 1 << 20


class Lines(Iterator[str]):
    """The lines of a stream, at most `max_chars` characters at a time, each with one newline character at its end.

    encoding: the codec's own name; universal: whether a lone carriage return ends a line too (both ends of Windows
    become one newline character then), or only a newline character does; start: an offset that `begin` was.

    A byte order mark at the beginning goes. `begin` is the offset of the line that came last, and after the last line
    that of the end.

    Raises, while reading: UnicodeDecodeError.
    """

    def __init__(self, stream: BinaryIO, encoding: str, max_chars: int, universal: bool, start: int = 0) -> None:
        self.begin = start
        self._end = start
        self._max_chars = max_chars
        self._universal = universal
        self._is_utf8 = encoding == "utf-8"
        self._in_bytes = encoding in SEEKABLE_ENCODINGS
        self._ended_in_return = False
        if start and self._in_bytes:
            stream.seek(start)
        self._file = io.TextIOWrapper(cast(Any, stream), encoding=encoding, newline="" if universal else "\n")
        if start and not self._in_bytes:
            left = start
            while left and (skipped := self._file.read(min(left, SKIPPED_CHARS))):
                left -= len(skipped)

    def __next__(self) -> str:
        line = self._file.readline(self._max_chars)
        if self._ended_in_return and line == "\n":  # a Windows line end, parted by max_chars
            self._end += 1
            line = self._file.readline(self._max_chars)
        self.begin = self._end
        if not line:
            raise StopIteration
        self._end += len(line.encode()) if self._is_utf8 and not line.isascii() else len(line)
        if self._universal:
            self._ended_in_return = line.endswith("\r")
            if self._ended_in_return:
                line = line[:-1] + "\n"
            elif line.endswith("\r\n"):
                line = line[:-2] + "\n"
        return line.removeprefix("\ufeff") if self.begin == 0 else line


def next_line_start(stream: BinaryIO, offset: int, max_bytes: int) -> int:
    """The offset of the first line that begins after `offset` in an ASCII-compatible stream.

    Where that is more than `max_bytes` away, an offset between two characters of UTF-8 near `offset`.
    """
    stream.seek(offset)
    skipped = stream.readline(max_bytes)
    if skipped.endswith(b"\n") or len(skipped) < max_bytes:
        return offset + len(skipped)
    middle = next((index for index, byte in enumerate(skipped) if byte & 0xC0 != 0x80), 0)
    return offset + middle
