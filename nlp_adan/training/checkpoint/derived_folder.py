"""The folder that `export` or `reshard` makes of a checkpoint: of a good one only, and whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.storage import new_folder, sync_folder
from nlp_adan.training.checkpoint.manifest import Advance, Damage, FileEntry, Manifest, verify
from nlp_adan.training.checkpoint.tensor_files import CHUNK_BYTES, write_pieces

COMMAND = "python -m nlp_adan.training.checkpoint"
# From here on reading or writing takes long enough that one wants to know how long.
SHOWN_BYTES = 500_000_000


def num_bytes_of(manifest: Manifest) -> int:
    """The size of a checkpoint's files."""
    return sum(entry.size for entry in manifest.files.values())


@contextlib.contextmanager
def byte_bar(description: str, num_bytes: int) -> Iterator[Advance]:
    """What is told of bytes that were read or written, and shows it where there are many of them."""
    if num_bytes < SHOWN_BYTES:
        yield lambda count: None
        return
    with progress(description=description, unit="byte", total=num_bytes, leave=False) as bar:
        yield bar.update


def verify_shown(checkpoint: Path) -> list[Damage]:
    """`manifest.verify`, with a bar for a large checkpoint."""
    try:
        num_bytes = num_bytes_of(Manifest.read(checkpoint))
    except UserError:  # verify says what is wrong
        num_bytes = 0
    with byte_bar(f"verifying {checkpoint.name}", num_bytes) as advance:
        return verify(checkpoint, progress=advance)


def good_manifest(checkpoint: Path, *, hashes: bool = True) -> Manifest:
    """The manifest of a checkpoint, after a look at all its files.

    Args:
        hashes: False compares names and sizes only, and reads nothing.

    Raises: UserError for a damaged one; it names the file, the reason and the remedy.
    """
    damages = verify_shown(checkpoint) if hashes else verify(checkpoint, hashes=False)
    if damages:
        others = f" (and {len(damages) - 1} more)" if len(damages) > 1 else ""
        raise UserError(
            f"{checkpoint} is damaged: {damages[0]}{others}; take another checkpoint: `{COMMAND} verify "
            f"{checkpoint.parent}` says which are good"
        )
    return Manifest.read(checkpoint)


def check_new(output: Path, checkpoint: Path) -> None:
    """Raise a UserError where a folder cannot be made of a checkpoint, before anything is read."""
    given = f"--output_dir: {str(output)!r}"
    if os.path.lexists(output):
        raise UserError(f"{given} exists already; choose a new folder, or remove that one")
    if output.resolve().is_relative_to(checkpoint.resolve()):
        raise UserError(f"{given} is inside {checkpoint}, to which nothing is added; choose a folder outside of it")


@contextlib.contextmanager
def derived_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name, safe on the disk, when the block ends well.

    Raises: UserError where the disk does not take it; nothing is left then.
    """
    try:
        with new_folder(output) as folder:
            yield folder
            for inside, _, _ in os.walk(folder):
                sync_folder(Path(inside))
        sync_folder(output.parent)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise UserError(
            f"--output_dir: {str(output)!r} could not be written ({error.strerror or error}{where}); nothing of it was "
            "left: choose a folder on a disk with room, or make room"
        ) from error


def _to_read(path: Path) -> BinaryIO:
    """A file of a checkpoint. Raises: UserError; an OSError would be taken for one of the folder that is written."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"DIR: {str(path)!r}: {error.strerror}; see that it can be read") from error


def copy_file(name: str, checkpoint: Path, folder: Path, entry: FileEntry, target: str | None = None) -> FileEntry:
    """Copy a file of a checkpoint into another folder, under its own name or another.

    Raises: UserError where it is not the manifest's any more.
    """
    with _to_read(checkpoint / name) as file:
        copied = write_pieces(folder / (target or name), iter(lambda: file.read(CHUNK_BYTES), b""))
    if copied != entry:
        raise UserError(f"{checkpoint / name} changed while it was copied; keep the run from writing, and try again")
    return copied
