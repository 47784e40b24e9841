"""How a start takes up a run: alone in its folder, from the newest checkpoint that is good."""

from __future__ import annotations

from pathlib import Path

from nlp_adan.errors import UserError
from nlp_adan.locks import RankLock
from nlp_adan.training.agreement import fail_together, largest_over_ranks
from nlp_adan.training.checkpoint.manifest import OPTIMIZER_FOLDER, Manifest, verify
from nlp_adan.training.checkpoint.optimizer_parts import DESCRIPTION
from nlp_adan.training.checkpoint.run_checkpoints import clean_partial, newest_good, set_aside


def lock_run(folder: Path, rank: int) -> RankLock:
    """Keep other starts out of a run's folder as long as this process lives. Every rank has to call it.

    Raises: UserError where a rank of another start is still alive, such as one that outlived its launcher.
    """
    lock, error = RankLock(folder), None
    if rank == 0:
        try:
            lock.take_all()
        except UserError as caught:
            error = caught
    fail_together(error)
    if rank != 0:
        lock.take(rank)
    return lock


def find_checkpoint(folder: Path, resume: str, rank: int) -> Path | None:
    """The checkpoint to go on from, every byte of it checked by rank 0. Every rank has to call it.

    Checkpoints of the run that are passed over because they are damaged are named and moved aside.

    Args:
        folder: of the run.
        resume: "no"; "auto", the newest good one in the folder; or a checkpoint's path.

    Raises: UserError where the named one is damaged.
    """
    if resume == "no":
        return None
    named = Path(resume) if resume != "auto" else None
    step, error = -1, None
    if rank == 0:
        try:
            clean_partial(folder)
            if named is None:
                step = _newest_good(folder)
            else:
                error = _damaged(named)
        except UserError as caught:
            error = caught
        except OSError as caught:
            error = UserError(f"--resume: {caught.filename or folder}: {caught.strerror}; see that it can be changed")
    fail_together(error)
    if named is not None:
        return named
    step = int(largest_over_ranks(step)[0])
    return folder / f"checkpoint-{step}" if step >= 0 else None


def _newest_good(folder: Path) -> int:
    """The step of the newest good checkpoint, -1 where the run has none; newer ones are moved aside.

    Raises: UserError where none of a run's checkpoints is good, or where a newer one may be: it is for another version
        of this package, or the system does not let it be read.
    """
    found, damages = newest_good(folder)
    for path, damage in damages:
        if damage.is_newer:
            raise UserError(f"--resume: {path}: {damage}; go on with the version that wrote it")
        if damage.may_be_good:
            raise UserError(f"--resume: {path}: {damage}; see that it can be read, or move that checkpoint away")
    if found is None and damages:
        raise UserError(
            f"--resume: {folder} has no checkpoint that is good: {damages[0][0].name}: {damages[0][1]}; bring a good "
            "one back, or begin anew in another --output_dir"
        )
    for path in dict.fromkeys(path for path, _ in damages):
        wrong = [damage for each, damage in damages if each == path]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        print(f"--resume: passed over {path}: {wrong[0]}{more}; it is now {set_aside(path).name}", flush=True)
    return -1 if found is None else Manifest.read(found).step


def check_batches(checkpoint: Path, sequences_per_step: int) -> None:
    """Raise a UserError where the steps before a checkpoint had another number of sequences, over all ranks."""
    before = Manifest.read(checkpoint).sequences_per_step
    if before != sequences_per_step:
        raise UserError(
            f"--resume: the run took {before} sequences a step and would now take {sequences_per_step}; "
            f"`--global_batch_size {before}` keeps its batches on any number of ranks"
        )


def check_fsdp(checkpoint: Path, by_fsdp: bool) -> None:
    """Raise a UserError where FSDP wrote a checkpoint and does not train here, or the other way round."""
    was_by_fsdp = f"{OPTIMIZER_FOLDER}/{DESCRIPTION}" not in Manifest.read(checkpoint).files
    if was_by_fsdp != by_fsdp:
        raise UserError(
            f"--resume: {checkpoint} was written {'under' if was_by_fsdp else 'without'} FSDP, whose files are its "
            f"own; go on {'under' if was_by_fsdp else 'without'} it, or begin another run in another --output_dir"
        )


def _damaged(checkpoint: Path) -> UserError | None:
    damages = verify(checkpoint)
    if not damages:
        return None
    if damages[0].is_newer:
        return UserError(f"--resume: {checkpoint}: {damages[0]}; go on with the version that wrote it")
    more = f" and {len(damages) - 1} more" if len(damages) > 1 else ""
    return UserError(
        f"--resume: {str(checkpoint)!r} is damaged: {damages[0]}{more}; name another one, or "
        "`auto` for the newest good one"
    )
