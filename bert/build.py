"""From documents to shards: tokenized in parallel, split by hash, packed; begun anywhere a shard begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_adan.corpora.corpus import Corpus, Position
from nlp_adan.corpora.encoding import encoder_pool
from nlp_adan.corpora.pretrained_tokenizer import num_token_ids
from nlp_adan.errors import UserError
from nlp_adan.progress import progress

from .packing import BlockFormat, Mark, PartWriter, ShardEntry

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedTokenizerBase

PARTS = ("train", "valid")
# Text that goes to a worker at once.
BATCH_CHARS = 1 << 20
# Less than this is tokenized here: a worker takes a sixth of a second to start.
MIN_BYTES_FOR_WORKERS = 2_000_000
SHARD_BYTES = 1 << 28


@dataclass(frozen=True)
class Plan:
    """What is made of a corpus.

    form: of the blocks; valid_fraction, seed: of the split; shard_bytes: of a shard of the training part; num_workers:
    processes that tokenize.
    """

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase
    form: BlockFormat
    valid_fraction: float
    seed: int
    shard_bytes: int
    num_workers: int

    def blocks_per_shard(self, part: str) -> int:
        """Shards of the validation part are smaller in its proportion: all parts' shards begin near each other."""
        blocks = self.shard_bytes / self.form.block_bytes
        return max(1, int(blocks if part == "train" else blocks * self.valid_fraction))


@dataclass(frozen=True)
class Start:
    """With which shard of a part to begin, and where that is."""

    shard: int = 0
    mark: Mark = field(default_factory=Mark)


class IsValid:
    """Whether a document, in UTF-8, belongs to the validation part: by its own hash alone.

    Neither the order nor the company of documents matters, and a larger part holds the smaller one; another seed
    chooses other documents.
    """

    def __init__(self, valid_fraction: float, seed: int) -> None:
        self._threshold = valid_fraction * 2**64
        self._hash = blake2b(digest_size=8, key=str(seed).encode())

    def __call__(self, content: bytes) -> bool:
        digest = self._hash.copy()
        digest.update(content)
        return int.from_bytes(digest.digest(), "big") < self._threshold


def build(
    plan: Plan,
    folder: Path,
    starts: Mapping[str, Start],
    on_shard: Callable[[PartWriter, ShardEntry], None],
    is_done: Callable[[], bool] = lambda: False,
) -> dict[str, PartWriter]:
    """Write the shards of the parts in `starts` from there to the corpus' end, the last ones not finished.

    on_shard: see `PartWriter`; is_done: asked after each batch whether to stop early.

    Returns the writers, whose `finish` is still to be called. On an error unfinished files are removed.
    """
    writers = {
        part: PartWriter(folder, part, plan.form, plan.blocks_per_shard(part), on_shard, start.shard, start.mark)
        for part, start in starts.items()
    }
    num_bytes = plan.corpus.num_bytes
    num_workers = plan.num_workers if num_bytes is None or num_bytes >= MIN_BYTES_FOR_WORKERS else 0
    with ExitStack() as stack:
        bar = stack.enter_context(progress(description="Tokens", unit="byte", total=num_bytes))
        pool = stack.enter_context(encoder_pool(plan.tokenizer, plan.form.dtype, num_workers))
        started = time.monotonic()
        num_documents = 0
        try:
            for batch, ids in pool.encode(_batches(plan, {part: start.mark for part, start in starts.items()}, bar)):
                for (part, position, num_chars), document_ids in zip(batch, ids, strict=True):
                    writers[part].add(document_ids, position, num_chars)
                num_documents += len(batch)
                rate = num_documents / max(1e-9, time.monotonic() - started)
                bar.set_postfix_str(f"{rate:.0f} documents/s", refresh=False)
                if is_done():
                    break
        except BaseException:
            for writer in writers.values():
                writer.discard()
            raise
    return writers


def block_format(tokenizer: PreTrainedTokenizerBase, block_size: int) -> BlockFormat:
    """The blocks' shape for a tokenizer: the special tokens that it puts around one sequence.

    Raises: UserError where a block of this size has no room between them.
    """
    text = "a"
    inner = tokenizer(text, add_special_tokens=False)["input_ids"]
    outer = tokenizer(text)["input_ids"]
    begin = next(i for i in range(len(outer)) if outer[i : i + len(inner)] == inner)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    form = BlockFormat(
        block_size=block_size,
        prefix=tuple(outer[:begin]),
        suffix=tuple(outer[begin + len(inner) :]),
        separator=separator,
        vocab_size=num_token_ids(tokenizer),
    )
    if form.num_content < 1:
        raise UserError(
            f"a block of {block_size} tokens has no room for text between its special tokens: choose "
            f"`--block_size {block_size - form.num_content + 1}` or more"
        )
    return form


Label = tuple[str, Position, int]  # of a document: its part, where it is, its characters


def _batches(plan: Plan, marks: Mapping[str, Mark], bar: tqdm[Any]) -> Iterator[tuple[list[Label], list[bytes]]]:
    """The documents that belong to the parts, in UTF-8, about BATCH_CHARS characters at a time."""
    is_valid = IsValid(plan.valid_fraction, plan.seed)
    begins = {part: mark.position for part, mark in marks.items()}
    position = begin = min(begins.values())
    labels: list[Label] = []
    contents: list[bytes] = []
    total = 0

    def on_bytes(count: int) -> None:
        if begin and not bar.n:  # what an earlier run has done says nothing of this one's speed
            bar.initial = count
        bar.update(count)

    for document, following in plan.corpus.read(begin, on_bytes):
        if not position or position[0] != following[0]:
            position = (following[0],)  # a source's first document begins there, not where the one before ended
        content = document.encode("utf-8", errors="replace")
        part = PARTS[is_valid(content)]
        if part in begins and position >= begins[part]:
            labels.append((part, position, len(document)))
            contents.append(content)
            total += len(document)
        position = following
        if total >= BATCH_CHARS:
            yield labels, contents
            labels, contents, total = [], [], 0
    if labels:
        yield labels, contents
