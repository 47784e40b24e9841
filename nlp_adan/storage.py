"""Files: whole or not there at all, named by their content, and the folder where rebuildable ones are kept."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlp_adan.errors import UserError

CHUNK_BYTES = 1 << 20


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()  # asked once: while it is asked, other threads' files would be open to all


def cache_folder() -> Path:
    """`$NLP_ADAN_CACHE`, else `$XDG_CACHE_HOME/nlp_adan`, else `~/.cache/nlp_adan`; not created here."""
    chosen = os.environ.get("NLP_ADAN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nlp_adan"


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 file so that a reader, or a crash, finds the old content or the new one, never a part of it.

    What is no Unicode, of a file's name that is not UTF-8, is written as `\udce9`: JSON and YAML read that again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: files that were created or renamed in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a JSON value, indented. NaN and infinities are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_file(text: str) -> Path:
    """The file that an option `--json` names, tried before the work whose figures it is to hold; not made here.

    Raises: UserError where it could not be written.
    """
    path = Path(text)
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryDirectory(dir=parent, prefix=".writable-").cleanup()
    except OSError as error:
        raise UserError(f"--json: cannot write {text!r} ({error.strerror}); name another file") from error
    return path


def finite(value: Any) -> Any:
    """A copy of a JSON value in which NaN and infinities, which JSON does not have, are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and vanishes when it does not.

    Where another process was quicker, its folder stays and this one vanishes: both were made from the same inputs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~UMASK)
        with contextlib.suppress(OSError):
            os.rename(temporary, path)
        if not path.is_dir():
            raise OSError(f"could not create {path}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
