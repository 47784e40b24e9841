"""Token streams packed into full blocks, in the manner of RoBERTa's FULL-SENTENCES.

Documents follow each other with a separator token between them, without regard to where a block ends; every block is
prefix + content + suffix, for example <s> ... </s>. The tokens after the last full block are dropped (fewer than one
block in each part of the data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

TokenArray = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
# Blocks written at once.
MIN_WRITTEN_TOKENS = 1 << 18


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


class BlockWriter:
    """Writes documents' tokens as blocks to a file of shape (num_blocks, block_size), in bounded memory.

    counts: (vocab_size,) int64, how often each token occurs in the content of the blocks written so far.
    """

    def __init__(self, file: BinaryIO, form: BlockFormat) -> None:
        self.form = form
        self.num_blocks = 0
        self.num_documents = 0
        self.num_document_tokens = 0
        self.num_dropped_tokens = 0
        self.counts: npt.NDArray[np.int64] = np.zeros(form.vocab_size, dtype=np.int64)
        self._file = file
        self._waiting: list[npt.NDArray[np.generic]] = []
        self._num_waiting = 0

    def add(self, ids: Sequence[int]) -> None:
        """Append one document's ids; an empty document is ignored."""
        if not ids:
            return
        if self.num_documents and self.form.separator is not None:
            self._wait(np.array([self.form.separator], dtype=self.form.dtype))
        self.num_documents += 1
        self.num_document_tokens += len(ids)
        self._wait(np.array(ids, dtype=self.form.dtype))
        if self._num_waiting >= max(MIN_WRITTEN_TOKENS, self.form.num_content):
            self._write()

    def finish(self) -> None:
        """Write the last full blocks and drop the rest; call it once, after the last document."""
        self._write()
        self.num_dropped_tokens = self._num_waiting

    def _wait(self, ids: npt.NDArray[np.generic]) -> None:
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
        self._file.write(blocks.tobytes())
        self.counts += np.bincount(content.reshape(-1), minlength=self.form.vocab_size)
        self.num_blocks += num_blocks
        self._waiting = [stream[num_blocks * num_content :].copy()]
        self._num_waiting = len(self._waiting[0])
