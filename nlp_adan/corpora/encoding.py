"""Documents to token ids in worker processes, in order, a bounded number of batches at a time."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from nlp_adan.errors import UserError

from . import word_encoder
from .word_encoder import WordEncoder, receive, send

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The ids of the documents of a batch, each (num_tokens,) uint16 or uint32.
Ids = list[npt.NDArray[Any]]
# More of them than this are started only when asked for: each takes up to 150 MB.
MAX_DEFAULT_WORKERS = 4


class Encoder(Protocol):
    """Something that encodes a batch of documents, given as UTF-8."""

    def encode(self, documents: Sequence[bytes]) -> Sequence[bytes]:
        """The packed ids of each document."""


class _Worker:
    """A process that encodes. Its library's threads are switched off: there are as many workers as cores."""

    def __init__(self, state: str, type_code: str) -> None:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        # -P: the folder of the script does not come first among those of the modules.
        command = [sys.executable, "-P", word_encoder.__file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=1 << 16
        )
        self._requests, self._answers = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        send(self._requests, [state.encode(), type_code.encode()])

    def encode(self, documents: Sequence[bytes]) -> Sequence[bytes]:
        try:
            send(self._requests, documents)
            return receive(self._answers)
        except (EOFError, BrokenPipeError) as error:
            raise UserError(
                f"a process that tokenizes ended (exit status {self._process.wait()}), for want of memory perhaps: "
                "run it again, it goes on where it was; `--num_workers 1` takes less memory"
            ) from error

    def close(self) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):  # of what was not sent yet
            self._requests.close()
        self._answers.close()
        self._process.wait()


class _Here:
    """Encodes in this process: what is small, and by tokenizers that are not of the tokenizers library."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, type_code: str) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._type_code = type_code
        self._tokenizer = tokenizer
        self._words = WordEncoder(backend.to_str(), type_code) if backend is not None else None

    def encode(self, documents: Sequence[bytes]) -> Sequence[bytes]:
        texts = [document.decode() for document in documents]
        if self._words is not None:
            return self._words.encode(texts)
        encodings = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(ids, dtype=self._type_code).tobytes() for ids in encodings]


class EncoderPool:
    """Encodes batches, several at a time.

    tokenizer: its settings of padding and truncation do not count; dtype: of the ids, uint16 or uint32; num_workers:
    processes, 0 to do it in this one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, dtype: type[np.generic], num_workers: int) -> None:
        self._dtype = dtype
        code = "H" if np.dtype(dtype).itemsize == 2 else "I"
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._workers: list[_Worker] = []
        if num_workers == 0 or backend is None:
            self._encoders: list[Encoder] = [_Here(tokenizer, code)]
        else:
            self._workers = [_Worker(backend.to_str(), code) for _ in range(num_workers)]
            self._encoders = list(self._workers)

    def encode(self, batches: Iterator[tuple[Any, Sequence[bytes]]]) -> Iterator[tuple[Any, Ids]]:
        """For each (label, documents in UTF-8) the label and the documents' ids, in the order of the batches.

        One batch more than there are workers is read ahead.
        """
        idle: queue.SimpleQueue[Encoder] = queue.SimpleQueue()
        for encoder in self._encoders:
            idle.put(encoder)

        def encode(documents: Sequence[bytes]) -> Ids:
            encoder = idle.get()
            try:
                packed = encoder.encode(documents)
            finally:
                idle.put(encoder)
            return [np.frombuffer(ids, dtype=self._dtype) for ids in packed]

        waiting: deque[tuple[Any, Future[Ids]]] = deque()
        with ThreadPoolExecutor(len(self._encoders)) as executor:
            for label, documents in batches:
                waiting.append((label, executor.submit(encode, documents)))
                if len(waiting) > len(self._encoders) + 1:
                    yield _finished(waiting)
            while waiting:
                yield _finished(waiting)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()


def _finished(waiting: deque[tuple[Any, Future[Ids]]]) -> tuple[Any, Ids]:
    label, future = waiting.popleft()
    return label, future.result()


@contextmanager
def encoder_pool(
    tokenizer: PreTrainedTokenizerBase, dtype: type[np.generic], num_workers: int
) -> Iterator[EncoderPool]:
    """An `EncoderPool` for a block of code."""
    pool = EncoderPool(tokenizer, dtype, num_workers)
    try:
        yield pool
    finally:
        pool.close()


def default_num_workers() -> int:
    """One for each core that this process may use, within reason."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_DEFAULT_WORKERS, available))
