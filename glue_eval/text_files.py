"""Files that are no UTF-8 text in lines, and what they are instead."""

from __future__ import annotations

from pathlib import Path

from glue_eval.problems import Problem

# How a file begins, what it is, and the remedy.
SIGNATURES = (
    (b"\x1f\x8b", "a gzip file", "unpack it (gunzip < FILE > NEW)"),
    (b"PK\x03\x04", "a zip file", "unpack it (unzip FILE)"),
    (b"\xff\xfe", "UTF-16", "convert the file (iconv -f UTF-16 -t UTF-8)"),
    (b"\xfe\xff", "UTF-16", "convert the file (iconv -f UTF-16 -t UTF-8)"),
)


def not_lines(path: Path, number: int, line: str) -> Problem | None:
    """What is wrong with a file that is UTF-8 by its bytes, and yet no text, or one line in all; else None."""
    if "\0" in line:
        return _known_by_beginning(path) or Problem(
            path, number, "a NUL byte", "if the file is UTF-16, convert it (iconv -f UTF-16LE -t UTF-8); else take the "
            "original one"
        )  # fmt: skip
    if number == 1 and "\r" in line:
        return Problem(path, 1, "lines end with CR alone, as on old Macs", "convert them (tr '\\r' '\\n')")
    return None


def _known_by_beginning(path: Path) -> Problem | None:
    with open(path, "rb") as file:
        beginning = file.read(4)
    for signature, text, remedy in SIGNATURES:
        if beginning.startswith(signature):
            return Problem(path, None, f"{text} instead of UTF-8 text", remedy)
    return None


def undecodable(path: Path) -> Problem:
    """What a file is that is not UTF-8, or its first such byte, with its line."""
    if (known := _known_by_beginning(path)) is not None:
        return known
    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        text = f"not UTF-8, byte 0x{data[error.start]:02x} at offset {error.start}"
        return Problem(path, line, text, "convert the file (iconv -f ISO-8859-1 -t UTF-8) or take the original one")
    raise AssertionError(f"{path} is UTF-8")
