"""Tensors as they are at one moment, written to files while the training goes on.

Parameters and optimizer states change in the optimizer's step only. Up to the next one, the writing thread reads the
live tensors; what it has not read by then is copied first. So memory is taken for what is late, and for nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlp_adan.training.checkpoint.host_memory import available_host_bytes
from nlp_adan.training.checkpoint.manifest import FileEntry
from nlp_adan.training.checkpoint.tensor_files import CHUNK_BYTES, TensorFile, Write, as_bytes, write_pieces

# What is copied at once, into memory of its own that is given back when it is written.
PIECE_BYTES = 32 << 20
# Of the memory that is left, the share that copies may take; of an accelerator's, which the training needs more, less.
HOST_SHARE, DEVICE_SHARE = 0.8, 0.5


@dataclass(eq=False)
class _Piece:
    """A part of a tensor.

    source: uint8, 1-D; None when it is written. is_copy: nothing changes it. ready: the event on its accelerator after
    which it can be read.
    """

    source: Tensor | None
    is_copy: bool
    ready: Any


class Snapshot:
    """The tensors of some files as they are now. One thread calls `write`, the training's thread `protect`.

    Args:
        files: nothing may change their tensors before `protect` has returned.

    Raises:
        TypeError, ValueError: as TensorFile.header.
    """

    def __init__(self, files: Sequence[TensorFile]) -> None:
        self.num_bytes = sum(file.num_bytes for file in files)
        self._headers = {file.path: file.header for file in files}
        self._accelerator = _Accelerator(
            {tensor.device for file in files for tensor in file.tensors.values() if tensor.device.type != "cpu"}
        )
        self._pieces = {
            file.path: [piece for _, tensor in file.in_order for piece in self._cut(tensor)] for file in files
        }
        # Allocated by the training's thread: on its accelerator, memory for it is registered there.
        self._staging = torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=self._accelerator.is_cuda)
        self._changed = threading.Condition()  # guards what follows, and the pieces
        self._reading = False  # the writing thread reads a live tensor
        self._protecting = False  # the training's thread is making copies
        self._is_safe = False  # no live tensor will be read any more

    def write(self, folder: Path, write: Write = os.write) -> dict[str, FileEntry]:
        """Write the files into a folder; each file's size and hash, when all are safe on the disk.

        Raises: OSError, and whatever reading the tensors raises. All is released then.
        """
        try:
            return {path: write_pieces(folder / path, self._stream(path), write) for path in self._headers}
        finally:
            self.release()

    def protect(self) -> float:
        """Return when the tensors may be changed: what is not read yet is copied.

        Where memory is short, it waits until that is written. At most one chunk of a few MB is waited for besides.

        Returns: the seconds that it took.
        """
        began = time.perf_counter()
        with self._changed:
            if self._is_safe:
                return 0.0
            self._protecting = True
            self._changed.wait_for(lambda: not self._reading)
            live = [piece for pieces in self._pieces.values() for piece in pieces if _is_live(piece)]
        try:
            self._copy(live)
        finally:
            with self._changed:
                self._protecting = False
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: not any(map(_is_live, live)))
            self._is_safe = True
        return time.perf_counter() - began

    def release(self) -> None:
        """Let go of all tensors: nothing will be written any more."""
        with self._changed:
            for pieces in self._pieces.values():
                for piece in pieces:
                    piece.source = None
            self._pieces = {}
            self._reading = False
            self._is_safe = True
            self._changed.notify_all()

    def _cut(self, tensor: Tensor) -> Iterator[_Piece]:
        flat = as_bytes(tensor)
        for begin in range(0, flat.numel(), PIECE_BYTES):
            ready = self._accelerator.now(flat.device)
            yield _Piece(flat[begin : begin + PIECE_BYTES], is_copy=not tensor.is_contiguous(), ready=ready)

    def _copy(self, live: list[_Piece]) -> None:
        """Copy pieces while there is memory. The writing thread reads none of them meanwhile that is not copied."""
        room: dict[torch.device, float] = {}
        for piece in live:
            source = piece.source
            if source is None:  # released: the writing thread has failed
                return
            copy = self._accelerator.copy(source, room)
            if copy is None:
                return
            ready = self._accelerator.now(copy.device, new=True)
            with self._changed:
                if piece.source is not None:
                    piece.source, piece.is_copy, piece.ready = copy, True, ready
                self._changed.notify_all()

    def _stream(self, path: str) -> Iterator[bytes | memoryview]:
        """The bytes of a file; each buffer is good until the next is asked for."""
        yield self._headers[path]
        for piece in self._pieces[path]:
            assert piece.source is not None
            for begin in range(0, len(piece.source), CHUNK_BYTES):
                yield memoryview(self._chunk(piece, begin).numpy())
            with self._changed:
                piece.source = None
                self._changed.notify_all()

    def _chunk(self, piece: _Piece, begin: int) -> Tensor:
        """A part of a piece in host memory that nothing changes.

        A live tensor's goes through the staging buffer, also where it is in host memory already: then `protect` waits
        for a copy of a few MB, however slow the file is. It costs little: hash and write find the bytes in the cache.
        """
        with self._changed:
            self._changed.wait_for(lambda: piece.is_copy or not self._protecting)
            self._reading = not piece.is_copy
            source, ready = piece.source, piece.ready
        assert source is not None
        chunk = source[begin : begin + CHUNK_BYTES]
        if not (piece.is_copy and chunk.device.type == "cpu"):
            chunk = self._accelerator.fetch(chunk, self._staging[: len(chunk)], ready)
        with self._changed:
            self._reading = False
            self._changed.notify_all()
        return chunk


def _is_live(piece: _Piece) -> bool:
    return piece.source is not None and not piece.is_copy


class _Accelerator:
    """Reads and copies tensors that may be on a GPU, beside what the training does there."""

    def __init__(self, devices: set[torch.device]) -> None:
        self.is_cuda = any(device.type == "cuda" for device in devices)
        self._streams = {device: torch.cuda.Stream(device) for device in devices if device.type == "cuda"}
        self._events: dict[torch.device, Any] = {}
        if devices - self._streams.keys():
            torch.accelerator.synchronize()  # of another maker's: all that was begun is done

    def now(self, device: torch.device, new: bool = False) -> Any:
        """The event that all is done that the calling thread had begun on a device when it first asked, or now."""
        if device not in self._streams:
            return None
        if new or device not in self._events:
            self._events[device] = torch.cuda.current_stream(device).record_event()
        return self._events[device]

    def fetch(self, source: Tensor, staging: Tensor, ready: Any) -> Tensor:
        """Copy bytes into the staging buffer, and return it when they are there."""
        stream = self._streams.get(source.device)
        if stream is None:
            return staging.copy_(source)
        stream.wait_event(ready)
        with torch.cuda.stream(stream):
            staging.copy_(source, non_blocking=True)
        stream.synchronize()
        return staging

    def copy(self, source: Tensor, room: dict[torch.device, float]) -> Tensor | None:
        """A copy: on the source's device where that has room, else in host memory; None where neither has.

        room: bytes that copies may still take, by device; looked up where it is missing, and counted down.
        """
        for device in dict.fromkeys((source.device, torch.device("cpu"))):
            if device not in room:
                room[device] = _room(device)
            if room[device] < len(source):
                continue
            room[device] -= len(source)
            try:
                if device.type == "cpu":
                    # numpy asks for large pages, torch does not: several times as fast where memory is new.
                    return torch.from_numpy(np.empty(len(source), dtype=np.uint8)).copy_(source)
                return source.clone()
            except (MemoryError, torch.OutOfMemoryError):
                room[device] = 0
        return None


def _room(device: torch.device) -> float:
    """Bytes that copies may take on a device."""
    if device.type == "cuda":
        return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return 0.0
    available = available_host_bytes()
    return float("inf") if available is None else HOST_SHARE * available
