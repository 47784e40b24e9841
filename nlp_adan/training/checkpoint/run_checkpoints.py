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
    names = (f"{_DAMAGED}{path.name}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
    aside = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    path.rename(aside)
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

    What was not written to its end or not yet deleted is deleted. A checkpoint that was about to be replaced by one of
    the same step has its name back, where the new one does not have it yet.
    """
    removed = [path.name for path in run.glob(".*") if _PARTIAL.fullmatch(path.name)]
    for replaced in list(run.glob(f"{_REPLACED}checkpoint-*")):
        if os.path.lexists(own := replaced.with_name(replaced.name.removeprefix(_REPLACED))):
            removed.append(replaced.name)
        else:
            replaced.rename(own)
    removed += [path.name for path in run.glob(f"{_REMOVED}checkpoint-*")]
    for name in removed:
        shutil.rmtree(run / name)
    return removed


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
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)  # of an earlier one that could not be deleted
        path.rename(replaced)
    try:
        partial.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            replaced.rename(path)
        raise
    sync_folder(run)
    shutil.rmtree(replaced, ignore_errors=True)
    return path


def _remove(paths: list[Path]) -> list[str]:
    """Renamed first: a folder that is half deleted is not to be taken for a checkpoint."""
    for path in paths:
        removed = path.with_name(_REMOVED + path.name)
        shutil.rmtree(removed, ignore_errors=True)  # of a removal that failed
        shutil.rmtree(path.rename(removed))
    return [path.name for path in paths]


def _step(path: Path) -> int:
    match = CHECKPOINT_NAME.fullmatch(path.name)
    return int(match[1]) if match and path.is_dir() else -1
