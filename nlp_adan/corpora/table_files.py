"""Files of records with a column of text: JSON lines, plain or gzipped, and parquet."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from nlp_adan.errors import UserError, nearest
from nlp_adan.storage import CHUNK_BYTES

from .lines import Lines
from .text_files import check_decodes, text_pieces

# One JSON line is held in memory as a whole.
MAX_LINE_CHARS = 1 << 24
# In the place of the number of lines before an offset that was not read up to.
UNKNOWN_LINE = -1
PARQUET_BATCH_ROWS = 64
# Without it pyarrow reads the whole column of a row group at once.
PARQUET_BUFFER_BYTES = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")


def missing_column(where: str, column: str, present: Iterable[str]) -> UserError:
    """The error for records without the column: names those that are there."""
    names = sorted(present)
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UserError(
        f"{where} has no column {column!r}{nearest(column, names)}; it has: {listed or 'none'}. "
        "Name the column of text with `--text_column NAME`"
    )


def read_jsonl(
    path: Path,
    encoding: str,
    column: str,
    on_position: Callable[[int], None],
    start: tuple[int, ...] = (0, 0, 0),
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """The documents of a file of JSON lines: see `jsonl_texts`.

    Each comes with the `start` from which the next one is read: the offset of a line in the (decompressed) file, the
    number of lines before it (or UNKNOWN_LINE), the number of pieces of its text that came already.
    """
    offset, number, num_pieces = start
    for text, begin, before in jsonl_texts(path, encoding, column, on_position, offset, number):
        for count, piece in enumerate(text_pieces(text or ""), start=1):
            if count > num_pieces:
                yield piece, (begin, before, count)
        num_pieces = 0


def jsonl_texts(
    path: Path,
    encoding: str,
    column: str,
    on_position: Callable[[int], None],
    offset: int = 0,
    number: int = UNKNOWN_LINE,
) -> Iterator[tuple[str | None, int, int]]:
    """The texts of a file of JSON lines (`.gz`: compressed) as they are, None for a null. Blank lines are left out.

    Each comes with the offset of its line in the (decompressed) file and the number of lines before it.

    offset: of the line to begin at; number: of the lines before it, UNKNOWN_LINE where that is not known.

    Raises: UserError naming the line that is not a JSON object or lacks the column, the byte that is not in this
    encoding, or the file whose compressed data is damaged or ends early.
    """
    is_known = number != UNKNOWN_LINE or offset == 0
    number = max(number, 0) if is_known else number

    def where() -> str:
        return f"{path}, line {number if is_known else _lines_before(path, lines.begin) + 1}"

    with open(path, "rb") as raw:
        try:
            lines = Lines(_decompressed(path, raw), encoding, MAX_LINE_CHARS, universal=False, start=offset)
            for line in lines:
                number += is_known
                if len(line) >= MAX_LINE_CHARS - 1 and not line.endswith("\n"):
                    raise UserError(f"{where()}: longer than {MAX_LINE_CHARS:,} characters; split the record")
                if line.strip():
                    yield _text_of(where, line, column), lines.begin, number - is_known
                    on_position(raw.tell())
        except EOFError as error:
            raise UserError(
                f"{path}: the compressed data ends early, after line {number}; the file is cut off: fetch it again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip data after line {number} ({error}); fetch the file again") from error
        except UnicodeError:
            with open(path, "rb") as again:
                check_decodes(path, encoding, _decompressed(path, again))
            raise
        on_position(raw.tell())


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.name.lower().endswith(".gz") else raw


def _lines_before(path: Path, offset: int) -> int:
    """The line ends in the first `offset` bytes of a file."""
    count = 0
    with open(path, "rb") as file:
        while offset and (chunk := file.read(min(offset, CHUNK_BYTES))):
            count += chunk.count(b"\n")
            offset -= len(chunk)
    return count


def _text_of(where: Callable[[], str], line: str, column: str) -> str | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        shown = line.strip()[:40]
        raise UserError(f"{where()} is not JSON ({error}): {shown!r}; mend or remove the line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where()} is not a JSON object with a column {column!r} but a {type(record).__name__}")
    if column not in record:
        raise missing_column(where(), column, record)
    text = record[column]
    if text is None:
        return None
    if not isinstance(text, str):
        raise UserError(
            f"{where()}: the column {column!r} holds a {type(text).__name__}, not text; "
            "name another with `--text_column`"
        )
    return _SURROGATE.sub("\ufffd", text)  # halves of a surrogate pair, which no encoding can write


def read_parquet(
    path: Path, column: str, on_position: Callable[[int], None], start: tuple[int, ...] = (0, 0)
) -> Iterator[tuple[str, tuple[int, int]]]:
    """The documents of a parquet file: see `parquet_texts`.

    Each comes with the `start` from which the next one is read: the number of a row and of the pieces of its text that
    came already.
    """
    first_row, num_pieces = start
    for text, row in parquet_texts(path, column, on_position, first_row):
        for count, piece in enumerate(text_pieces(text or ""), start=1):
            if row > first_row or count > num_pieces:
                yield piece, (row, count)


def parquet_texts(
    path: Path, column: str, on_position: Callable[[int], None], first_row: int = 0
) -> Iterator[tuple[str | None, int]]:
    """The texts of a parquet file as they are, read in batches of rows, each with the number of its row.

    Raises: UserError for a file that is damaged or without this column of strings.
    """
    import pyarrow

    num_bytes = path.stat().st_size
    num_rows = 0
    with _open_parquet(path, column) as file:
        total_rows = max(1, file.metadata.num_rows)
        try:
            for group in range(file.metadata.num_row_groups):
                if num_rows + file.metadata.row_group(group).num_rows <= first_row:
                    num_rows += file.metadata.row_group(group).num_rows
                    continue
                for batch in file.iter_batches(PARQUET_BATCH_ROWS, row_groups=[group], columns=[column]):
                    skipped = min(max(0, first_row - num_rows), batch.num_rows)
                    for row, text in enumerate(batch.column(0).slice(skipped), start=num_rows + skipped):
                        yield _string(path, row, text), row
                    num_rows += batch.num_rows
                    on_position(num_bytes * num_rows // total_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged parquet data after row {num_rows} ({error}); fetch it again") from error
    on_position(num_bytes)


def _string(path: Path, row: int, value: Any) -> str | None:
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, row {row}: its text is not UTF-8 ({error.reason} at byte {error.start}), which parquet's strings "
            "are: write the file anew from decoded text"
        ) from error
    return text


def check_parquet(path: Path, column: str) -> None:
    """Raises: UserError for a file that is no parquet, is cut off, or has no such column of strings."""
    _open_parquet(path, column).close()


def parquet_rows(path: Path, column: str) -> int:
    """The number of rows of a parquet file with this column."""
    with _open_parquet(path, column) as file:
        return int(file.metadata.num_rows)


def _open_parquet(path: Path, column: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        # Opened by its bytes: pyarrow takes no name as text that is not UTF-8.
        source = pyarrow.OSFile(os.fsencode(path))
        file = pyarrow.parquet.ParquetFile(source, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a whole parquet file ({reason}); fetch it again") from error
    names = file.schema_arrow.names
    if column not in names:
        file.close()
        raise missing_column(str(path), column, names)
    kind = file.schema_arrow.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    kinds = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(is_kind(kind) for is_kind in kinds):
        file.close()
        raise UserError(f"{path}: the column {column!r} holds {kind}, not text; name another with `--text_column`")
    return file
