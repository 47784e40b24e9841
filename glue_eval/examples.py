"""Tokenized examples: made once and kept memory-mapped in the cache, padded to the longest of their batch.

In the cache folder, `glue_tokens/DIGEST/` holds for one file's texts, one tokenizer and one length

    ids.npy       (num_tokens,) uint16 or uint32, the examples' tokens one after the other
    offsets.npy   (num_examples + 1,) int64, where each example's tokens begin
    types.npy     (num_tokens,) uint8, token types, where the tokenizer makes them
    cut.json      how many examples were longer than the length
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from glue_eval.data import Split
from nlp_adan.storage import cache_folder, new_folder, sha256_file, sha256_json, write_json
from nlp_adan.training.order import IntArray

Texts = Sequence[tuple[str, str | None]]
FORMAT = 1  # of the files; another one is another digest
BATCH_ROWS = 2000  # tokenized at a time: memory stays small, and all cores have work
COMPARED_ROWS = 16


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of a split's examples; see the module's docstring."""

    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    types: npt.NDArray[np.uint8] | None
    num_cut: int

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(num_examples,) tokens of each example."""
        return np.diff(self.offsets)

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        """Memory-mapped from a folder of the cache."""
        types = folder / "types.npy"
        return cls(
            np.load(folder / "ids.npy", mmap_mode="r"),
            np.load(folder / "offsets.npy"),
            np.load(types, mmap_mode="r") if types.is_file() else None,
            int(json.loads((folder / "cut.json").read_text(encoding="utf-8"))["num_cut"]),
        )


def tokenize(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    """The tokens of a split, from the cache or made now; of several processes that ask together, one makes them.

    max_length: tokens of an example at most, special ones included; of a pair the longer text is cut first.
    """
    digest = sha256_json([FORMAT, tokenizer_digest(tokenizer), _texts_digest(split.texts), max_length])
    folder = cache_folder() / "glue_tokens" / digest[:32]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                with new_folder(folder) as temporary:
                    _write_tokens(temporary, split.texts, tokenizer, max_length)
    return Tokens.load(folder)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer makes of a text: equal for equal tokenizers in different folders."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state.pop("truncation", None), state.pop("padding", None)  # of the last call
        return sha256_json([state, type(tokenizer).__name__, tokenizer.model_input_names, tokenizer.truncation_side])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return sha256_json({path.name: sha256_file(path) for path in Path(folder).iterdir()})


def _texts_digest(texts: Texts) -> str:
    digest = hashlib.sha256()
    for begin in range(0, len(texts), BATCH_ROWS):
        digest.update(json.dumps(texts[begin : begin + BATCH_ROWS]).encode())
    return digest.hexdigest()


def _write_tokens(folder: Path, texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    has_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[npt.NDArray[np.uint32]] = []
    types: list[npt.NDArray[np.uint8]] = []
    lengths: list[int] = []
    num_cut = 0
    for row_ids, row_types, is_cut in _encoded_rows(texts, tokenizer, max_length):
        ids.append(np.array(row_ids, dtype=np.uint32))
        types.append(np.array(row_types if has_types else [], dtype=np.uint8))
        lengths.append(len(row_ids))
        num_cut += is_cut
    flat = np.concatenate(ids)
    np.save(folder / "ids.npy", flat.astype(np.uint16) if flat.max() < 1 << 16 else flat)
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    if has_types:
        np.save(folder / "types.npy", np.concatenate(types))
    write_json(folder / "cut.json", {"num_cut": num_cut})


Row = tuple[list[int], list[int], bool]  # ids, token types (or []), whether the example was longer


def _encoded_rows(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Row]:
    """As `tokenizer(..., truncation=True)` encodes them; by the tokenizers library itself where that is the same."""
    first = texts[:COMPARED_ROWS]
    fast = getattr(tokenizer, "backend_tokenizer", None) is not None
    if fast:
        plain, quick = _plain_rows(first, tokenizer, max_length), _quick_rows(first, tokenizer, max_length)
        fast = [row[0] for row in plain] == [row[0] for row in quick]
    for begin in range(0, len(texts), BATCH_ROWS):
        batch = texts[begin : begin + BATCH_ROWS]
        yield from (_quick_rows if fast else _plain_rows)(batch, tokenizer, max_length)


def _plain_rows(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    """By any tokenizer."""
    first = [one for one, _ in texts]
    second = [str(two) for _, two in texts] if texts[0][1] is not None else None
    cut = tokenizer(first, second, truncation=True, max_length=max_length)
    full = list(cut["input_ids"])
    if any(len(ids) >= max_length for ids in full):
        full = tokenizer(first, second, truncation=False, verbose=False)["input_ids"]
    types = cut.get("token_type_ids") or [[]] * len(first)
    return [
        (ids, kinds, len(whole) > max_length)
        for ids, kinds, whole in zip(cut["input_ids"], types, full, strict=True)
    ]  # fmt: skip


def _quick_rows(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    """By the tokenizers library, without the offsets and words that nothing here asks for: 1.7 times as fast."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    inputs = [one if two is None else (one, two) for one, two in texts]
    return [(row.ids, row.type_ids, bool(row.overflowing)) for row in backend.encode_batch_fast(inputs)]


@dataclasses.dataclass(frozen=True)
class Padding:
    """How rows are made equally long: by which values, on which side, to a multiple of what."""

    token_id: int
    type_id: int
    on_left: bool
    multiple: int = 1

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, multiple: int = 1) -> Padding:
        """As a tokenizer pads."""
        token_id = tokenizer.pad_token_id
        return cls(
            0 if token_id is None else token_id, tokenizer.pad_token_type_id, tokenizer.padding_side == "left", multiple
        )


class Order(Protocol):
    """Which sample stands at a position (`order.EpochOrder`, `grouped_order.GroupedOrder`)."""

    num_samples: int

    def at(self, positions: IntArray) -> tuple[IntArray, IntArray]:
        """Epochs and indices at (n,) positions."""
        ...


class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Examples by their numbers, in batches.

    labels: (num_examples,) int64 classes or float32 scores; None for prediction.
    """

    def __init__(self, tokens: Tokens, labels: npt.NDArray[Any] | None, padding: Padding, max_length: int) -> None:
        self.tokens = tokens
        self.labels = labels
        self.padding = padding
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.tokens.offsets) - 1

    def __getitems__(self, indices: Sequence[int] | IntArray) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, for some tokenizers `token_type_ids`, (batch, longest) int64; `labels`."""
        chosen = np.asarray(indices, dtype=np.int64)
        begins, ends = self.tokens.offsets[chosen], self.tokens.offsets[chosen + 1]
        lengths = ends - begins
        multiple = self.padding.multiple
        width = max(int(lengths.max()), min(-(-int(lengths.max()) // multiple) * multiple, self.max_length))
        columns = np.arange(width)
        mask = columns >= width - lengths[:, None] if self.padding.on_left else columns < lengths[:, None]
        spans = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
        arrays = {"input_ids": (self.tokens.ids, self.padding.token_id)}
        if self.tokens.types is not None:
            arrays["token_type_ids"] = (self.tokens.types, self.padding.type_id)
        batch = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, (flat, filler) in arrays.items():
            rows = np.full(mask.shape, filler, dtype=np.int64)
            rows[mask] = np.concatenate([flat[span] for span in spans])
            batch[name] = torch.from_numpy(rows)
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[chosen])
        return batch


class TrainingExamples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Examples by their positions in the sequence of epochs (`nlp_adan.training.loader.PositionDataset`)."""

    def __init__(self, examples: Examples, order: Order) -> None:
        self.examples = examples
        self.order = order
        self.num_samples = order.num_samples

    def __getitem__(self, positions: IntArray) -> dict[str, Tensor]:
        """A padded batch; positions: (batch,) int64."""
        return self.examples.__getitems__(self.order.at(positions)[1])


class SortedExamples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """All examples without their labels, the longest first: batches hardly need padding, and the largest comes first.

    `places`: (num_examples,) where each example stands, to put predictions back into the file's order.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = Examples(examples.tokens, None, examples.padding, examples.max_length)
        self.sorted = np.argsort(-examples.tokens.lengths, kind="stable")
        self.places = np.argsort(self.sorted)

    def __len__(self) -> int:
        return len(self.sorted)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A padded batch of the examples at these places."""
        return self.examples.__getitems__(self.sorted[np.asarray(indices)])


def as_it_is(batch: Any) -> Any:
    """The collator of batches that the data set has made."""
    return batch
