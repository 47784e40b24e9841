"""SHA-256 of files, remembered: a file of the same size and time of change is not read again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from nlp_adan.storage import cache_folder, sha256_file, write_json

# What was read is kept after so long at the latest, for a process that is killed.
SAVE_SECONDS = 30.0
# A file changed so shortly before it was read may change once more within the same tick of its clock (2 s on FAT).
RECENT_SECONDS = 2.0


class Digests:
    """The digests of the files under a folder, kept in the cache folder for the next process.

    Used as a context, it keeps them at its end, after an error too.

    folder: its files' names are relative to it; purpose: what else was done while they were read (a check of their
    encoding), so that a digest stands for that too.
    """

    def __init__(self, folder: Path, purpose: str = "") -> None:
        self.folder = folder
        self.purpose = purpose
        name = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        self._file = cache_folder() / "digests" / f"{name}.json"
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
            self._known: dict[str, list] = known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            self._known = {}
        self._changed = False
        self._saved_at = time.monotonic()

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *error: object) -> None:
        self.save()

    def has(self, path: Path) -> bool:
        """Whether the file was ever read, in its present state or in another."""
        return self._key(path) in self._known

    def sha256(self, path: Path, read: Callable[[Path], str] = sha256_file) -> str:
        """The file's digest, remembered or from `read`."""
        entry = self._known.get(self._key(path))
        return str(entry[2]) if entry and entry[:2] == stamp(path) else self.read(path, read)

    def read(self, path: Path, read: Callable[[Path], str] = sha256_file) -> str:
        """The file's digest from `read`, whatever is remembered."""
        before = stamp(path)
        digest = read(path)
        if time.time() - before[1] / 1e9 > RECENT_SECONDS:
            self.remember(path, digest, before)
        else:
            self._changed |= self._known.pop(self._key(path), None) is not None
        return digest

    def remember(self, path: Path, digest: str, state: list[int] | None = None) -> None:
        """Take over a digest; state: the file's `stamp` that belongs to it, None for the present one."""
        self._known[self._key(path)] = [*(state or stamp(path)), digest]
        self._changed = True
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Keep what was remembered. Where the cache cannot be written, the files are read again next time."""
        if self._changed:
            try:
                write_json(self._file, self._known)
            except OSError:
                return
            self._changed = False
            self._saved_at = time.monotonic()

    def _key(self, path: Path) -> str:
        name = relative_name(path, self.folder)
        return f"{self.purpose}:{name}" if self.purpose else name


def relative_name(path: Path, folder: Path) -> str:
    """A file's path within a folder, as text that can be written down: bytes that are not UTF-8 as `\\xff`."""
    name = path.relative_to(folder).as_posix()
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds: what differs when a file was written to."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
