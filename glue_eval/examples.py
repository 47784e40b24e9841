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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from glue_eval.data import Split
from glue_eval.encoding import BATCH_ROWS, Texts, encoded_rows
from nlp_adan.storage import cache_folder, new_folder, sha256_file, sha256_json, write_json
from nlp_adan.training.order import IntArray

FORMAT = 1  # of the files; another one is another digest


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


def tokenize(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path | None = None) -> Tokens:
    """The tokens of a split, from the cache or made now; of several processes that ask together, one makes them.

    max_length: tokens of an example at most, special ones included; of a pair the longer text is cut first.
    cache: the folder of all tokens; None: in the user's cache.
    """
    digest = sha256_json([FORMAT, tokenizer_digest(tokenizer), _texts_digest(split.texts), max_length])
    folder = (cache or cache_folder() / "glue_tokens") / digest[:32]
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
    rows = list(encoded_rows(texts, tokenizer, max_length))
    flat = np.concatenate([row.ids for row in rows])
    np.save(folder / "ids.npy", flat.astype(np.uint16) if flat.max() < 1 << 16 else flat)
    np.save(folder / "offsets.npy", np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int64))
    if "token_type_ids" in tokenizer.model_input_names:
        np.save(folder / "types.npy", np.concatenate([row.types for row in rows]))
    write_json(folder / "cut.json", {"num_cut": sum(row.is_cut for row in rows)})


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
