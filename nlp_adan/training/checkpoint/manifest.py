"""What a checkpoint holds, and whether it is still that: manifest.json, with size and SHA-256 of every other file.

A folder without a manifest is no checkpoint. run_checkpoints.py looks after the folders of a run.
"""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nlp_adan.errors import UserError
from nlp_adan.storage import sha256_json, sync_folder, write_text

FORMAT = 1
MANIFEST = "manifest.json"
OPTIMIZER_FOLDER = "optimizer"
CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)")
_OWN_HASH = "manifest_sha256"
_NEWER = "is of format"
_OF_THE_DISK = (
    errno.EIO,
    errno.EBADMSG,
    errno.EILSEQ,
    errno.ENODATA,
    getattr(errno, "EUCLEAN", errno.EIO),
    errno.ELOOP,
)
_MAX_THREADS = 8
_CHUNK_BYTES = 4 << 20
# What transformers, torch, DeepSpeed or this package would load, had somebody put it there.
_LOADED = re.compile(
    r".*\.(safetensors|pt|pth|bin|pkl|model|jinja|py|h5|msgpack)|latest|vocab\.txt|merges\.txt|"
    r"(.*config|.*\.index|tokenizer|vocab|added_tokens|special_tokens_map|chat_template|trainer_state)\.json"
)

Advance = Callable[[int], None]


@dataclass(frozen=True)
class FileEntry:
    """A file of a checkpoint. size: bytes; sha256: hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Damage:
    """Why a checkpoint is not taken. file: relative to it; reason: reads on from the file's name.

    may_be_good: the system does not let it be read, for want of a permission, say, or of a connection.
    """

    file: str
    reason: str
    may_be_good: bool = field(default=False, compare=False)

    @classmethod
    def unreadable(cls, file: str, error: OSError) -> Damage:
        """Of a file that could not be read."""
        return cls(file, f"cannot be read ({error.strerror})", may_be_good=error.errno not in _OF_THE_DISK)

    def __str__(self) -> str:
        return f"{self.file} {self.reason}"

    @property
    def is_newer(self) -> bool:
        """Whether another version of this package can read the checkpoint."""
        return self.file == MANIFEST and self.reason.startswith(_NEWER)


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is, and its files.

    step: optimizer steps done; world_size: ranks that wrote it; zero_stage: None without DeepSpeed;
    sequences_per_step: of an optimizer step, over all ranks; date: ISO 8601; versions: of packages;
    files: by path relative to the checkpoint, all but the manifest.
    """

    step: int
    world_size: int
    zero_stage: int | None
    sequences_per_step: int
    date: str
    versions: Mapping[str, str | None]
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a checkpoint.

        Raises: UserError where there is none, or not the one that was written.
        """
        try:
            return cls._parse((folder / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{folder} holds no checkpoint that was written to its end (no {MANIFEST})") from error
        except OSError as error:
            raise UserError(f"{folder / MANIFEST} cannot be read ({error.strerror})") from error
        except _Unreadable as error:
            raise UserError(f"{folder / MANIFEST} {error}") from error

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all, and return when it is safe on the disk."""
        write_text(folder / MANIFEST, self._text())
        sync_folder(folder)

    def _text(self) -> str:
        files = {name: {"bytes": entry.size, "sha256": entry.sha256} for name, entry in sorted(self.files.items())}
        content = {"format": FORMAT, **asdict(self), "versions": dict(self.versions), "files": files}
        whole = {**content, _OWN_HASH: sha256_json(content)}
        return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def _parse(cls, text: bytes) -> Manifest:
        try:
            content: dict[str, Any] = json.loads(text)
            if isinstance(content["format"], int) and content["format"] > FORMAT:
                raise _Unreadable(f"{_NEWER} {content['format']}; this version of the package reads {FORMAT}")
            found = cls(
                step=int(content["step"]),
                world_size=int(content["world_size"]),
                zero_stage=None if content["zero_stage"] is None else int(content["zero_stage"]),
                sequences_per_step=int(content["sequences_per_step"]),
                date=str(content["date"]),
                versions=dict(content["versions"]),
                files={
                    str(name): FileEntry(int(entry["bytes"]), str(entry["sha256"]))
                    for name, entry in content["files"].items()
                },
            )
            same = found._text().encode() == text
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _Unreadable("is damaged: not a manifest's JSON") from error
        if not same:  # to the byte; its own hash is a part of the text
            raise _Unreadable("is not what was written (its own SHA-256 differs)")
        return found


class _Unreadable(Exception):
    """The message is a reason as of Damage."""


def verify(folder: Path, *, hashes: bool = True, progress: Advance | None = None) -> list[Damage]:
    """Compare a checkpoint with its manifest, reading it all.

    Args:
        hashes: False compares names and sizes only, and reads nothing.
        progress: told the number of bytes after each that was hashed; from several threads, one at a time.

    Returns: what is wrong, by file; [] for a good checkpoint.
    """
    try:
        manifest = Manifest._parse((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return [Damage(MANIFEST, "is missing: the checkpoint was not written to its end")]
    except OSError as error:
        return [Damage.unreadable(MANIFEST, error)]
    except _Unreadable as error:
        return [Damage(MANIFEST, str(error))]
    named = CHECKPOINT_NAME.fullmatch(folder.name)
    if named and int(named[1]) != manifest.step:
        return [Damage(MANIFEST, f"is of step {manifest.step:,}, and the folder's name of another")]
    found = _unlisted(folder, manifest.files)
    sound: dict[str, FileEntry] = {}
    for name, entry in manifest.files.items():
        damage = _wrong_outside(folder, name, entry)
        if damage is None:
            sound[name] = entry
        else:
            found.append(damage)
    return sorted(found + (_wrong_content(folder, sound, progress) if hashes else []), key=lambda damage: damage.file)


def checkpoint_step(folder: Path) -> int:
    """The optimizer step that a checkpoint was written after, by its manifest. Raises: UserError as Manifest.read."""
    return Manifest.read(folder).step


def _wrong_outside(folder: Path, name: str, entry: FileEntry) -> Damage | None:
    """What is wrong with a file without reading it. A name that leads out of the folder is not followed."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or str(pure) != name:
        return Damage(name, "leads out of the checkpoint, by its name")
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return Damage(name, "leads out of the checkpoint, by a link")
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Damage(name, "is missing")
    except RuntimeError as error:  # links in a circle
        return Damage(name, f"cannot be read ({error})")
    except OSError as error:
        return Damage.unreadable(name, error)
    if not stat.S_ISREG(status.st_mode):
        return Damage(name, "is not a file")
    if status.st_size != entry.size:
        return Damage(name, f"has {status.st_size:,} bytes instead of {entry.size:,}")
    return None


def _wrong_content(folder: Path, files: Mapping[str, FileEntry], progress: Advance | None) -> list[Damage]:
    """The files with another content, hashed in parallel, the big ones first."""
    lock = threading.Lock()

    def wrong(name: str) -> Damage | None:
        digest = hashlib.sha256()
        try:
            with open(folder / name, "rb", buffering=0) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    if progress is not None:
                        with lock:
                            progress(len(chunk))
        except OSError as error:
            return Damage.unreadable(name, error)
        if digest.hexdigest() != files[name].sha256:
            return Damage(name, "has another content than was written (its SHA-256 differs)")
        return None

    with concurrent.futures.ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        results = threads.map(wrong, sorted(files, key=lambda name: -files[name].size))
    return [damage for damage in results if damage is not None]


def _unlisted(folder: Path, files: Collection[str]) -> list[Damage]:
    """Files that nobody wrote with the checkpoint and that something would load, and folders that are links."""
    found = []
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        found += [
            Damage((inside / name).as_posix(), "is a link; a checkpoint's folders are its own")
            for name in folders
            if (Path(root) / name).is_symlink()
        ]
        for name in names:
            path = (inside / name).as_posix()
            is_loaded = inside.parts[:1] == (OPTIMIZER_FOLDER,) or _LOADED.fullmatch(name)
            if is_loaded and not name.startswith(".") and path not in files and path != MANIFEST:
                found.append(Damage(path, "was not written with the checkpoint"))
    return found
