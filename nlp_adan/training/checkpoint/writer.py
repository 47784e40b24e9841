"""Writes the checkpoints of a run behind its training: all ranks together, and published only when all is safe."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint.copy_memory import CopyMemory
from nlp_adan.training.checkpoint.manifest import FileEntry, Manifest
from nlp_adan.training.checkpoint.run_checkpoints import partial_folder, publish
from nlp_adan.training.checkpoint.snapshot import Snapshot
from nlp_adan.training.checkpoint.tensor_files import TensorFile, Write, hash_and_sync, write_pieces


@dataclass(frozen=True)
class Failure:
    """Why a checkpoint could not be written.

    rank: the one that failed first; path: the file, or the folder; bytes_needed: of the whole checkpoint, all ranks;
    bytes_free: what the run's file system had when what was written of it was gone, None where it does not say;
    trace: the traceback of an error that is not the operating system's.
    """

    step: int
    rank: int
    path: str
    reason: str
    bytes_needed: int = 0
    bytes_free: int | None = None
    trace: str = ""

    def __str__(self) -> str:
        where = "" if self.reason.startswith(self.path) else f"{self.path}: "
        size = f"; it has {self.bytes_needed:,} bytes" if self.bytes_needed else ""
        free = f", {self.bytes_free:,} are free" if self.bytes_free is not None else ""
        return (
            f"the checkpoint of step {self.step:,} could not be written: {where}{self.reason} "
            f"(rank {self.rank}{size}{free})"
        )


@dataclass(frozen=True)
class _Share:
    """What a rank has to say when its files are written. written: None where it failed."""

    written: dict[str, FileEntry] | None
    failure: Failure | None
    num_bytes: int


class CheckpointWriter:
    """Writes a run's checkpoints in a thread of its own. Every rank has one, and begins the same checkpoints.

    Args:
        run: the run's folder, which all ranks share.
        group: of all ranks, on gloo, used by nothing else; None for a single rank. Its timeout is how long a rank may
            write longer than another.
        on_published: called in the thread of every rank with a new checkpoint's path, before `wait` returns.
        write: writes to a file, as os.write.

    Attributes:
        published: the last checkpoint that was published.
        failed: what became of the last one that was begun, where that is not published and well; the same on all ranks
            unless they cannot reach each other any more.
        stall_seconds: how long `begin`, `protect` and `wait` have held the training up, over all checkpoints.
        write_seconds: how long the last one took from its beginning to its end.
    """

    def __init__(
        self,
        run: Path,
        *,
        rank: int = 0,
        world_size: int = 1,
        group: Any = None,
        on_published: Callable[[Path], None] = lambda path: None,
        write: Write = os.write,
    ) -> None:
        if world_size > 1 and group is None:
            raise ValueError(f"{world_size} ranks need a group to agree in")
        self.run, self.rank, self.world_size = run, rank, world_size
        self.published: Path | None = None
        self.failed: Failure | None = None
        self.stall_seconds = 0.0
        self.write_seconds = 0.0
        self._group, self._on_published, self._write = group, on_published, write
        self._snapshot: Snapshot | None = None
        self._memory = CopyMemory()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def begin(
        self,
        step: int,
        files: Sequence[TensorFile],
        small: Mapping[str, bytes],
        written: Sequence[str] = (),
        error: str | None = None,
        *,
        zero_stage: int | None,
        sequences_per_step: int,
        versions: Mapping[str, str | None],
    ) -> None:
        """Begin to write a checkpoint, when the one before is done.

        Until `protect` or `wait` has returned, nothing may change the tensors: give copies of what a forward pass
        changes in place. All paths are relative to the checkpoint, and each is named by one rank.

        Args:
            small: the content of other files.
            written: files that are in `partial_folder(run, step)` already, as libraries write them.
            error: why this rank has nothing to write: then all ranks fail.
        """
        with self._holding_up():
            self._join()
            self.failed, self._snapshot = None, None
            failure = (
                Failure(step, self.rank, str(partial_folder(self.run, step)), error) if error is not None else None
            )
            if failure is None:
                try:
                    self._snapshot = Snapshot(files, self._memory)
                except Exception as raised:
                    failure = self._failure(step, raised)
            manifest = Manifest(
                step=step,
                world_size=self.world_size,
                zero_stage=zero_stage,
                sequences_per_step=sequences_per_step,
                date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                versions=dict(versions),
            )
            arguments = (manifest, self._snapshot, dict(small), tuple(written), failure)
            # A daemon: a training that fails does not wait for its checkpoint.
            self._thread = threading.Thread(target=self._work, args=arguments, name="checkpoint", daemon=True)
            self._thread.start()

    def protect(self) -> float:
        """Return when the optimizer may change its tensors; the seconds that it took (Snapshot.protect)."""
        with self._holding_up():
            return self._snapshot.protect() if self._snapshot is not None else 0.0

    def wait(self) -> None:
        """Return when nothing is being written."""
        with self._holding_up():
            self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    @contextlib.contextmanager
    def _holding_up(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.stall_seconds += time.perf_counter() - began

    # ---- the thread ----

    def _work(
        self,
        manifest: Manifest,
        snapshot: Snapshot | None,
        small: Mapping[str, bytes],
        written: Sequence[str],
        failure: Failure | None,
    ) -> None:
        began = time.perf_counter()
        try:
            share = self._write_share(manifest.step, snapshot, small, written, failure)
            self.failed = self._finish(manifest, self._gather(share))
        except Exception as error:  # a rank is gone, most likely
            self.failed = self._failure(manifest.step, error)
        finally:
            self.write_seconds = time.perf_counter() - began

    def _write_share(
        self,
        step: int,
        snapshot: Snapshot | None,
        small: Mapping[str, bytes],
        written: Sequence[str],
        failure: Failure | None,
    ) -> _Share:
        """Write this rank's files."""
        if failure is not None or snapshot is None:
            return _Share(None, failure, 0)
        num_bytes = snapshot.num_bytes
        partial = partial_folder(self.run, step)
        try:
            num_bytes += sum(map(len, small.values()))
            entries = snapshot.write(partial, self._write)  # first: the training may be waiting for it
            for path, content in small.items():
                entries[path] = write_pieces(partial / path, [content], self._write)
            for path in written:
                entries[path] = hash_and_sync(partial / path)
                num_bytes += entries[path].size
            return _Share(entries, None, num_bytes)
        except Exception as error:
            return _Share(None, self._failure(step, error), num_bytes)

    def _finish(self, manifest: Manifest, shares: list[_Share]) -> Failure | None:
        """Publish what all ranks have written, or remove it; the same failure on all ranks."""
        failure = next((share.failure for share in shares if share.failure is not None), None)
        if self.rank == 0:
            partial = partial_folder(self.run, manifest.step)
            if failure is None:
                try:
                    self.published = publish(self.run, dataclasses.replace(manifest, files=_merged(shares)))
                except Exception as error:
                    failure = self._failure(manifest.step, error)
            if failure is not None:
                shutil.rmtree(partial, ignore_errors=True)
                failure = dataclasses.replace(
                    failure, bytes_needed=sum(share.num_bytes for share in shares), bytes_free=_bytes_free(self.run)
                )
        failure, self.published = self._gather((failure, self.published))[0]
        if failure is not None or self.published is None:
            return failure
        try:
            self._on_published(self.published)
        except Exception as error:
            failure = self._failure(manifest.step, error)
        return next((found for found in self._gather(failure) if found is not None), None)

    def _failure(self, step: int, error: Exception) -> Failure:
        if isinstance(error, OSError):
            path = str(error.filename or partial_folder(self.run, step))
            return Failure(step, self.rank, path, error.strerror or str(error))
        partial = str(partial_folder(self.run, step))
        if isinstance(error, UserError):
            return Failure(step, self.rank, partial, str(error))
        trace = "".join(traceback.format_exception(error))
        return Failure(step, self.rank, partial, f"{type(error).__name__}: {error}", trace=trace)

    def _gather(self, value: Any) -> list[Any]:
        """A value of each rank, on every rank; all wait for each other."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values


def _merged(shares: Sequence[_Share]) -> dict[str, FileEntry]:
    """The files of all ranks. Raises: ValueError where two have written the same."""
    files: dict[str, FileEntry] = {}
    for rank, share in enumerate(shares):
        for path, entry in (share.written or {}).items():
            if path in files:
                raise ValueError(f"rank {rank} and one before it have both written {path}")
            files[path] = entry
    return files


def _bytes_free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
