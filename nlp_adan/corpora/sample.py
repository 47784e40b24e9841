"""The text that a tokenizer is trained on: a bounded sample, spread over the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nlp_adan.progress import progress

from .corpus import Corpus, Position

# 100 MB of English have some 250,000 different words: enough for vocabularies of 50,000 and more.
DEFAULT_SAMPLE_BYTES = 100_000_000


class CorpusSample:
    """Documents of about `num_bytes` bytes (UTF-8) in all, at most that and one document; iterated, they are read.

    Of a corpus no larger all documents are taken, of a larger one some in a row at each of several places, evenly over
    it. (At a file's beginning only where that is compressed, and at the beginning of a stream from the hub.)

    record: after an iteration, what was taken, as a JSON value.
    """

    def __init__(self, corpus: Corpus, num_bytes: int) -> None:
        self.corpus = corpus
        self.num_bytes = num_bytes
        self.record: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        starts = self.corpus.sample_starts(self.num_bytes)
        total = min(self.num_bytes, self.corpus.num_bytes or self.num_bytes)
        num_documents = num_bytes = 0
        reached: Position = ()
        with progress(description="Text for the tokenizer", unit="byte", total=total, leave=False) as bar:
            for number, start in enumerate(starts, start=1):
                if num_bytes >= self.num_bytes * number // len(starts):
                    continue
                for document, following in self.corpus.read(max(start, reached)):
                    size = len(document.encode("utf-8", errors="replace"))
                    bar.update(size)
                    yield document
                    num_documents += 1
                    num_bytes += size
                    reached = following
                    if num_bytes >= self.num_bytes * number // len(starts):
                        break
        self.record = {
            "num_bytes": num_bytes,
            "num_documents": num_documents,
            "starts": [list(start) for start in starts],
        }
