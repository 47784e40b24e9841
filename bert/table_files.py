"""Files of records with a column of text: JSON lines, plain or gzipped, and parquet."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from nlp_adan.errors import UserError, nearest

from .text_files import check_decodes, text_pieces

# One JSON line is held in memory as a whole.
MAX_LINE_CHARS = 1 << 26
PARQUET_BATCH_ROWS = 1024
_SURROGATE = re.compile("[\ud800-\udfff]")


def missing_column(where: str, column: str, present: Iterable[str]) -> UserError:
    """The error for records without the column: names those that are there."""
    names = sorted(present)
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UserError(
        f"{where} has no column {column!r}{nearest(column, names)}; it has: {listed or 'none'}. "
        "Name the column of text with `--text_column NAME`"
    )


def read_jsonl(path: Path, encoding: str, column: str, on_position: Callable[[int], None]) -> Iterator[str]:
    """The documents of a file of JSON lines (`.gz`: compressed). Blank lines and null texts are left out.

    Raises: UserError naming the line that is not a JSON object or lacks the column, the byte that is not in this
    encoding, or the file whose compressed data is damaged or ends early.
    """
    with open(path, "rb") as raw:
        stream = _decompressed(path, raw)
        number = 0
        try:
            lines = io.TextIOWrapper(cast(Any, stream), encoding=encoding, newline="\n")
            while line := lines.readline(MAX_LINE_CHARS):
                number += 1
                if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                    raise UserError(
                        f"{path}, line {number}: longer than {MAX_LINE_CHARS:,} characters; split the record"
                    )
                line = line.removeprefix("\ufeff") if number == 1 else line
                if line.strip():
                    yield from text_pieces(_text_of(f"{path}, line {number}", line, column))
                    on_position(raw.tell())
        except EOFError as error:
            raise UserError(
                f"{path}: the compressed data ends early, after line {number}; the file is cut off: fetch it again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip data after line {number} ({error}); fetch the file again") from error
        except UnicodeDecodeError:
            with open(path, "rb") as again:
                check_decodes(path, encoding, _decompressed(path, again))
            raise
        on_position(raw.tell())


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.name.lower().endswith(".gz") else raw


def _text_of(where: str, line: str, column: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        shown = line.strip()[:40]
        raise UserError(f"{where} is not JSON ({error}): {shown!r}; mend or remove the line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a JSON object with a column {column!r} but a {type(record).__name__}")
    if column not in record:
        raise missing_column(where, column, record)
    text = record[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"{where}: the column {column!r} holds a {type(text).__name__}, not text; name another with `--text_column`"
        )
    return _SURROGATE.sub("\ufffd", text)  # halves of a surrogate pair, which no encoding can write


def read_parquet(path: Path, column: str, on_position: Callable[[int], None]) -> Iterator[str]:
    """The documents of a parquet file, in batches of rows. Nulls are left out.

    Raises: UserError for a file that is damaged or without this column of strings.
    """
    import pyarrow

    num_bytes = path.stat().st_size
    num_rows = 0
    with _open_parquet(path, column) as file:
        total_rows = max(1, file.metadata.num_rows)
        try:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column]):
                for text in batch.column(0).to_pylist():
                    yield from text_pieces(text or "")
                num_rows += batch.num_rows
                on_position(num_bytes * num_rows // total_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged parquet data after row {num_rows} ({error}); fetch it again") from error
    on_position(num_bytes)


def check_parquet(path: Path, column: str) -> None:
    """Raises: UserError for a file that is no parquet, is cut off, or has no such column of strings."""
    _open_parquet(path, column).close()


def _open_parquet(path: Path, column: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a whole parquet file ({reason}); fetch it again") from error
    names = file.schema_arrow.names
    if column not in names:
        file.close()
        raise missing_column(str(path), column, names)
    kind = file.schema_arrow.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        file.close()
        raise UserError(f"{path}: the column {column!r} holds {kind}, not text; name another with `--text_column`")
    return file
