"""Both parts of prepared data, all of their shards or only those that were damaged."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nlp_adan.errors import UserError
from nlp_adan.storage import sha256_file

from .build import PARTS, Plan, Start, build
from .journal import JOURNAL, LOCK, Journal
from .packing import BlockFormat, Mark, PartWriter, ShardEntry
from .prepared import COUNTS, TOKENIZER
from .shards import checksum_name, shard_name

# Blocks counted at once: about 64 MiB as the int64 that bincount makes of them.
COUNTED_BYTES = 1 << 24
# Files of the counts of so many finished training shards, while a preparation is not finished.
COUNTS_BEFORE = "counts-"
Counts = npt.NDArray[np.int64]


def make_parts(plan: Plan, folder: Path, journal: Journal) -> tuple[dict[str, Any], Counts]:
    """Write all shards that the journal does not have; the manifest's entries for the parts, and the training counts.

    Counts: (vocab_size,) int64, special tokens at the ends of blocks left out.

    Raises: UserError where the corpus cannot be read, or is too small for one block of each part.
    """
    _remove_others(folder, journal)
    starts = {part: Start(len(journal.part(part)), _next_mark(journal, part)) for part in PARTS}
    counts = _counts_before(folder, plan.form, starts["train"].shard)
    last: list[ShardEntry] = []
    is_finishing = False

    def on_shard(writer: PartWriter, entry: ShardEntry) -> None:
        if is_finishing:
            last.append(entry)
            return
        if entry.part == "train":
            np.save(_counts_file(folder, entry.shard + 1), counts + writer.counts)
        journal.add(entry)
        if entry.part == "train":
            _counts_file(folder, entry.shard).unlink(missing_ok=True)

    writers = build(plan, folder, starts, on_shard)
    is_finishing = True
    for writer in writers.values():
        writer.finish()
    plan.corpus.check_unchanged()
    _check_enough(writers, plan)
    counts += writers["train"].counts
    for file in folder.glob(f"{COUNTS_BEFORE}*"):
        file.unlink()
    parts = {part: _summary(writer, plan) for part, writer in writers.items()}
    journal.finish({"shards": [entry.as_json() for entry in last], **parts})
    return parts, counts


def repair(plan: Plan, folder: Path, manifest: Mapping[str, Any], damaged: Iterable[str]) -> None:
    """Make the damaged files of prepared data anew, each equal to what it was.

    Raises: UserError where one does not come out as it was, or cannot be made.
    """
    journal = Journal.read(folder)
    names = set(damaged)
    if journal is None or journal.end is None or journal.inputs != manifest["inputs"]:
        raise UserError(f"{folder} cannot be mended without its journal: delete {folder} and prepare again")
    for part in PARTS:
        for shard in range(-(-manifest[part]["num_blocks"] // manifest[part]["blocks_per_shard"])):
            if names & {shard_name(part, shard), checksum_name(part, shard)}:
                _remake(plan, folder, part, Start(shard, journal.mark(part, shard)))
    if COUNTS in names:
        counts = recounted(folder, plan.form, manifest["train"]["num_shards"])
        np.save(folder / COUNTS, without_special_tokens(counts, plan))
    if any(name.startswith(f"{TOKENIZER}/") for name in names):
        shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
        plan.tokenizer.save_pretrained(str(folder / TOKENIZER))
    for name in sorted(names):
        if not (folder / name).is_file() or sha256_file(folder / name) != manifest["files"][name]["sha256"]:
            raise UserError(f"{folder / name} does not come out as it was: delete {folder} and prepare again")


def _remake(plan: Plan, folder: Path, part: str, start: Start) -> None:
    made: list[ShardEntry] = []
    writers = build(plan, folder, {part: start}, lambda writer, entry: made.append(entry), is_done=lambda: bool(made))
    if made:
        writers[part].discard()
    else:
        writers[part].finish()


def recounted(folder: Path, form: BlockFormat, num_shards: int) -> Counts:
    """How often each token occurs in the content of the first training shards: (vocab_size,) int64."""
    counts: Counts = np.zeros(form.vocab_size, dtype=np.int64)
    rows = max(1, COUNTED_BYTES // form.block_bytes)
    begin, end = len(form.prefix), form.block_size - len(form.suffix)
    for shard in range(num_shards):
        blocks = np.memmap(folder / shard_name("train", shard), dtype=form.dtype, mode="r").reshape(-1, form.block_size)
        for first in range(0, len(blocks), rows):
            content = blocks[first : first + rows, begin:end]
            counts += np.bincount(content.reshape(-1), minlength=form.vocab_size)
    return counts


def without_special_tokens(counts: Counts, plan: Plan) -> Counts:
    """The counts with 0 for the tokenizer's special tokens, which are never masked."""
    counts = counts.copy()
    counts[[token for token in plan.tokenizer.all_special_ids if token < len(counts)]] = 0
    return counts


def _next_mark(journal: Journal, part: str) -> Mark:
    return journal.mark(part, len(journal.part(part)))


def _counts_file(folder: Path, num_shards: int) -> Path:
    return folder / f"{COUNTS_BEFORE}{num_shards:05}.npy"


def _counts_before(folder: Path, form: BlockFormat, num_shards: int) -> Counts:
    try:
        counts: Counts = np.load(_counts_file(folder, num_shards))
    except (OSError, ValueError, EOFError):  # after a source was mended, or a power cut
        counts = recounted(folder, form, num_shards)
    return counts


def _remove_others(folder: Path, journal: Journal) -> None:
    """Remove what a killed preparation had begun, and finished shards that are not in the journal any more."""
    kept = {name for entry in journal.entries for name in entry.digests()} | {JOURNAL, LOCK}
    for file in folder.iterdir():
        if file.is_file() and file.name not in kept and not file.name.startswith(COUNTS_BEFORE):
            file.unlink()


def _summary(writer: PartWriter, plan: Plan) -> dict[str, int]:
    per_shard = plan.blocks_per_shard(writer.part)
    return {
        "num_blocks": writer.num_blocks,
        "num_shards": -(-writer.num_blocks // per_shard),
        "blocks_per_shard": per_shard,
        "num_tokens": writer.num_blocks * writer.form.block_size,
        "num_documents": writer.num_documents,
        "num_document_tokens": writer.num_document_tokens,
        "num_dropped_tokens": writer.num_dropped_tokens,
        "num_chars": writer.num_chars,
    }


def _check_enough(writers: Mapping[str, PartWriter], plan: Plan) -> None:
    for part, writer in writers.items():
        if writer.num_blocks == 0:
            raise UserError(
                f"too little text for one block of {plan.form.block_size} tokens in the {part} part: it has "
                f"{writer.num_document_tokens} tokens in {writer.num_documents} documents, and "
                f"--valid_fraction {plan.valid_fraction}. Add text, choose a smaller --block_size, or a "
                f"{'larger' if part == 'valid' else 'smaller'} --valid_fraction"
            )
