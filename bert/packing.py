"""Token streams packed into full blocks, in the manner of RoBERTa's FULL-SENTENCES, and the blocks into shards.

Documents follow each other with a separator token between them, without regard to where a block ends; every block is
prefix + content + suffix, for example <s> ... </s>. The tokens after the last full block are dropped (fewer than one
block in each part of the data).

A shard is a file of a fixed number of blocks, beside a file of their checksums. When one is full it is made durable and
told to the journal, with the point in the corpus from which the next one can be made.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nlp_adan.corpora.corpus import Position
from nlp_adan.storage import sync_folder

from .shards import checksum_name, shard_name

TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
# Blocks written at once.
MIN_WRITTEN_TOKENS = 1 << 18
UNFINISHED = ".unfinished"


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smaller unsigned type that holds every id of a vocabulary."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


@dataclass(frozen=True)
class BlockFormat:
    """How blocks look.

    block_size: tokens, prefix and suffix included; prefix, suffix: the special tokens' ids at the ends; separator: the
    id between two documents, None for nothing; dtype: of the file; vocab_size: of the counts.
    """

    block_size: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: int | None
    vocab_size: int

    @property
    def num_content(self) -> int:
        """Tokens of a block that come from documents and separators."""
        return self.block_size - len(self.prefix) - len(self.suffix)

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The type of the ids in a file."""
        return token_dtype(self.vocab_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in a file."""
        return self.block_size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Mark:
    """Where in the corpus a shard begins: `num_used` tokens after the beginning of the document at `position`.

    The tokens are counted with the separator before the document. The other figures are those of the part without
    this document and those after it.
    """

    position: Position = ()
    num_used: int = 0
    num_documents: int = 0
    num_document_tokens: int = 0
    num_chars: int = 0


@dataclass(frozen=True)
class ShardEntry:
    """A finished shard: its files' hashes, and where the next one begins."""

    part: str
    shard: int
    num_blocks: int
    sha256: str
    checksums_sha256: str
    next: Mark

    def as_json(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)

    def digests(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {
            shard_name(self.part, self.shard): self.sha256,
            checksum_name(self.part, self.shard): self.checksums_sha256,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> ShardEntry:
        """The entry that `as_json` gave."""
        mark = {**value["next"], "position": tuple(value["next"]["position"])}
        return ShardEntry(**{**value, "next": Mark(**mark)})


class PartWriter:
    """Writes the shards of one part of the data, in bounded memory.

    folder: where; blocks_per_shard: how many; shard, mark: which shard is written first, and where it begins;
    on_shard: told of every finished one, when its files are on the disk. For the last one, which may hold fewer blocks,
    this is in `finish`.

    counts: (vocab_size,) int64, how often each token occurs in the content of the blocks written so far.
    """

    def __init__(
        self,
        folder: Path,
        part: str,
        form: BlockFormat,
        blocks_per_shard: int,
        on_shard: Callable[[PartWriter, ShardEntry], None],
        shard: int = 0,
        mark: Mark | None = None,
    ) -> None:
        self.form = form
        self.part = part
        self.counts: npt.NDArray[np.int64] = np.zeros(form.vocab_size, dtype=np.int64)
        self.start = mark or Mark()
        self.num_blocks = shard * blocks_per_shard
        self.num_documents = self.start.num_documents
        self.num_document_tokens = self.start.num_document_tokens
        self.num_chars = self.start.num_chars
        self._folder = folder
        self._on_shard = on_shard
        self._shard_content = blocks_per_shard * form.num_content
        self._shard = shard
        self._skip = self.start.num_used
        self._waiting: list[npt.NDArray[Any]] = []
        self._num_waiting = 0
        self._num_written = 0  # of the present shard, content only
        self._file = _ShardFile(folder, part, shard, form)

    @property
    def num_dropped_tokens(self) -> int:
        """After `finish`: tokens that filled no block."""
        return self._num_waiting

    def add(self, ids: npt.NDArray[Any], position: Position = (), num_chars: int = 0) -> None:
        """Append one document's ids; an empty document is ignored. position: where it is in the corpus."""
        if not len(ids):
            return
        stream = ids
        if self.num_documents and self.form.separator is not None:
            stream = np.concatenate([np.array([self.form.separator], dtype=self.form.dtype), ids])
        num_used = self._skip
        self._skip = 0
        while len(stream) - num_used >= (room := self._shard_content - self._num_written - self._num_waiting):
            self._wait(stream[num_used : num_used + room])
            num_used += room
            self._close_shard(Mark(position, num_used, self.num_documents, self.num_document_tokens, self.num_chars))
        self._wait(stream[num_used:])
        self.num_documents += 1
        self.num_document_tokens += len(ids)
        self.num_chars += num_chars
        if self._num_waiting >= max(MIN_WRITTEN_TOKENS, self.form.num_content):
            self._write()

    def finish(self) -> None:
        """Write the last full blocks and drop the rest; call it once, after the last document."""
        self._write()
        if self._num_written:
            self._publish(Mark((), 0, self.num_documents, self.num_document_tokens, self.num_chars))
        self._file.discard()

    def discard(self) -> None:
        """Close and remove the unfinished shard."""
        self._file.discard()

    def _wait(self, ids: npt.NDArray[Any]) -> None:
        self._waiting.append(ids)
        self._num_waiting += len(ids)

    def _write(self) -> None:
        num_content = self.form.num_content
        num_blocks = self._num_waiting // num_content
        if num_blocks == 0:
            return
        stream = np.concatenate(self._waiting)
        content = stream[: num_blocks * num_content].reshape(num_blocks, num_content)
        blocks = np.empty((num_blocks, self.form.block_size), dtype=self.form.dtype)
        begin = len(self.form.prefix)
        blocks[:, :begin] = self.form.prefix
        blocks[:, begin : begin + num_content] = content
        blocks[:, begin + num_content :] = self.form.suffix
        self._file.write(blocks)
        self.counts += np.bincount(content.reshape(-1), minlength=self.form.vocab_size)
        self.num_blocks += num_blocks
        self._num_written += content.size
        self._waiting = [stream[num_blocks * num_content :].copy()]
        self._num_waiting = len(self._waiting[0])

    def _close_shard(self, mark: Mark) -> None:
        self._write()
        self._publish(mark)
        self._shard += 1
        self._num_written = 0
        self._file = _ShardFile(self._folder, self.part, self._shard, self.form)

    def _publish(self, mark: Mark) -> None:
        num_blocks = self._num_written // self.form.num_content
        sha256, checksums_sha256 = self._file.publish()
        self._on_shard(self, ShardEntry(self.part, self._shard, num_blocks, sha256, checksums_sha256, mark))


class _ShardFile:
    """The files of a shard, under other names until they are whole. Nothing is created before the first block."""

    def __init__(self, folder: Path, part: str, shard: int, form: BlockFormat) -> None:
        self._path = folder / shard_name(part, shard)
        self._checksums_path = folder / checksum_name(part, shard)
        self._checksums = array("I")
        self._digest = hashlib.sha256()
        self._file: Any = None

    def write(self, blocks: npt.NDArray[Any]) -> None:
        if self._file is None:
            self._file = open(_unfinished(self._path), "wb")  # noqa: SIM115 (closed in publish or discard)
        content = blocks.data.cast("B")
        self._file.write(content)
        self._digest.update(content)
        size = blocks.shape[1] * blocks.itemsize
        self._checksums.extend(zlib.crc32(content[begin : begin + size]) for begin in range(0, len(content), size))

    def publish(self) -> tuple[str, str]:
        """Make both files durable and give them their names; their SHA-256."""
        _flush(self._file)
        checksums = self._checksums.tobytes()
        with open(_unfinished(self._checksums_path), "wb") as file:
            file.write(checksums)
            _flush(file)
        os.replace(_unfinished(self._checksums_path), self._checksums_path)
        os.replace(_unfinished(self._path), self._path)
        sync_folder(self._path.parent)
        self._file = None
        return self._digest.hexdigest(), hashlib.sha256(checksums).hexdigest()

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            _unfinished(self._path).unlink(missing_ok=True)
            self._file = None


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
