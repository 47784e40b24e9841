"""The checkpoints in a run's folder: which one to go on from, how a new one gets its name, and which are removed.

`checkpoint-N` is a checkpoint after N optimizer steps. Other names: `.checkpoint-N.partial` (being written),
`.replaced-checkpoint-N` (of the same step, until the new one has its name), `.removed-checkpoint-N` (being deleted),
`damaged-checkpoint-N` (set aside, to look at).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from nlp_adan.errors import UserError
from nlp_adan.storage import sync_folder
from nlp_adan.training.checkpoint.manifest import CHECKPOINT_NAME, Advance, Damage, Manifest, verify

_PARTIAL = re.compile(r"\.checkpoint-\d+\.partial")
_REPLACED, _REMOVED, _DAMAGED = ".replaced-", ".removed-", "damaged-"  # before a checkpoint's name


def checkpoints_of(run: Path) -> list[Path]:
    """The folders of a run that are named as checkpoints, good or not, newest first."""
    return sorted((path for path in run.glob("checkpoint-*") if _step(path) >= 0), key=_step, reverse=True)


def newest_good(run: Path, progress: Advance | None = None) -> tuple[Path | None, list[tuple[Path, Damage]]]:
    """The newest checkpoint of a run that verifies, and the newer ones with everything that is wrong with them."""
    passed_over: list[tuple[Path, Damage]] = []
    for path in checkpoints_of(run):
        damages = verify(path, progress=progress)
        if not damages:
            return path, passed_over
        passed_over += [(path, damage) for damage in damages]
    return None, passed_over


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that nothing takes it and it can be looked at; its new path."""
    aside = path.rename(_unused(path.with_name(_DAMAGED + path.name)))
    sync_folder(path.parent)
    return aside


def remove_later(run: Path, step: int) -> list[str]:
    """Remove a run's checkpoints of later steps: `--resume auto` would take one of them the next time; their names."""
    return _remove([path for path in reversed(checkpoints_of(run)) if _step(path) > step])


def rotate(run: Path, limit: int | None, keep: Collection[Path] = (), known_good: Path | None = None) -> list[str]:
    """Remove the oldest checkpoints of a run, until `limit` are left; the names of those removed.

    The newest good one stays, and with it all in `keep`, however many that are.

    Args:
        limit: None or less than 1 for no limit.
        known_good: a checkpoint that need not be read to know that it is good: the one that was just written.
    """
    if limit is None or limit < 1 or len(checkpoints_of(run)) <= limit:
        return []
    good = known_good if known_good is not None else newest_good(run)[0]
    kept = {path.name for path in keep} | ({good.name} if good is not None else set())
    oldest = [path for path in reversed(checkpoints_of(run)) if path.name not in kept]
    return _remove(oldest[: max(0, len(checkpoints_of(run)) - limit)])


def partial_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it has its name."""
    return run / f".checkpoint-{step}.partial"


def clean_partial(run: Path) -> list[str]:
    """Put a run's folder in order after a kill, before its checkpoints are looked at; the names of what was removed.

    What was not written to its end or not yet deleted is deleted; what cannot be is told, and in nobody's way. A
    checkpoint that was about to be replaced by one of the same step has its name back, where the new one does not have
    it yet.
    """
    removed = [path.name for path in run.glob(".*") if _PARTIAL.fullmatch(path.name)]
    for replaced in list(run.glob(f"{_REPLACED}checkpoint-*")):
        if os.path.lexists(own := replaced.with_name(replaced.name.removeprefix(_REPLACED))):
            removed.append(replaced.name)
        else:
            replaced.rename(own)
    removed += [path.name for path in run.glob(f"{_REMOVED}checkpoint-*")]
    return [name for name in removed if _delete(run / name)]


def publish(run: Path, manifest: Manifest) -> Path:
    """Make a checkpoint of the partial folder, whose files are safe on the disk; its path.

    A checkpoint of the same step is replaced: a kill at any moment leaves the one or the other.

    Raises: OSError; UserError where the folder does not hold what the manifest says.
    """
    partial = partial_folder(run, manifest.step)
    manifest.write(partial)
    if damages := verify(partial, hashes=False):
        raise UserError(
            f"{'; '.join(map(str, damages))} (a run's folder has to be on a file system that all ranks share, "
            f"and nothing else may write into {partial.name})"
        )
    for folder in {partial / Path(name).parent for name in manifest.files}:
        sync_folder(folder)
    path = run / f"checkpoint-{manifest.step}"
    replaced = path.with_name(_REPLACED + path.name)
    if os.path.lexists(path):
        discard(replaced)  # of an earlier one that could not be deleted
        path.rename(replaced)
    try:
        partial.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            replaced.rename(path)
        raise
    sync_folder(run)
    discard(replaced)
    return path


def discard(path: Path) -> None:
    """Delete what a checkpoint's step is in the name of, if it is there; its name is free in any case.

    Raises: OSError where it cannot even be renamed.
    """
    if os.path.lexists(path):
        step = re.findall(r"\d+", path.name)[0]
        # Renamed first: a folder that is half deleted is not to be taken for a checkpoint.
        _delete(path.rename(_unused(path.with_name(f"{_REMOVED}checkpoint-{step}"))))


def _remove(paths: list[Path]) -> list[str]:
    for path in paths:
        discard(path)
    return [path.name for path in paths]


def _delete(path: Path) -> bool:
    """Delete a folder, or a link to one; whether that went well. What is in the way is told, and no error."""
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        print(f"WARNING: {path} could not be deleted ({error.filename or path}: {error.strerror}): do it", flush=True)
        return False
    return True


def _unused(path: Path) -> Path:
    """A name that nothing has: the path's own, or one with a number behind."""
    names = (path.with_name(path.name + suffix) for suffix in ("", *(f"-{number}" for number in range(2, 10_000))))
    return next(name for name in names if not os.path.lexists(name))


def _step(path: Path) -> int:
    match = CHECKPOINT_NAME.fullmatch(path.name)
    return int(match[1]) if match and path.is_dir() else -1
