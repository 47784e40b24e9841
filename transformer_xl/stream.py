"""A text on disk as three streams of token ids, and the training part as segments of columns.

train.bin, valid.bin and test.bin hold nothing but ids, one after another (numpy.memmap opens them, too); manifest.json
says of which type, tokenizer/ what they stand for, train_counts.npy how often each occurs in the training part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nlp_adan.corpora.manifest import STREAM, damaged_files, read_counts, read_manifest
from nlp_adan.corpora.pretrained_tokenizer import load_tokenizer
from nlp_adan.errors import UserError

from .vocabulary import TextRules

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = "tokenizer"
COUNTS = "train_counts.npy"
IntArray = npt.NDArray[np.int64]
# The rule of Merity et al. 2017 for random lengths around one: so often that one, else half of it; then normal with
# this standard deviation; never shorter than this.
FULL_LENGTH_PROBABILITY = 0.95
LENGTH_DEVIATION = 5.0
MIN_RANDOM_LENGTH = 5


@dataclass(frozen=True)
class PreparedStream:
    """A folder with a prepared stream. It needs nothing outside of it and may be copied anywhere."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.manifest["vocab_size"])

    @property
    def rules(self) -> TextRules:
        """How the text became tokens."""
        return TextRules(**self.manifest["rules"])

    @property
    def unit_of_loss(self) -> str:
        """What a loss is told as: "bits_per_character" or "perplexity"."""
        return self.rules.unit_of_loss

    @cached_property
    def train(self) -> np.memmap[Any, Any]:
        """(num_tokens,) uint8, uint16 or uint32: the stream to train on."""
        return self._part("train")

    @cached_property
    def valid(self) -> np.memmap[Any, Any]:
        """The stream held out for validation."""
        return self._part("valid")

    @cached_property
    def test(self) -> np.memmap[Any, Any]:
        """The stream held out for the end."""
        return self._part("test")

    @cached_property
    def train_counts(self) -> IntArray:
        """(vocab_size,) int64: how often each token occurs in the training part."""
        return read_counts(self.folder / COUNTS)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the stream's tokens.

        Raises: UserError where its files are not those of one.
        """
        return load_tokenizer(str(self.folder / TOKENIZER))

    def _part(self, part: str) -> np.memmap[Any, Any]:
        entry = self.manifest["parts"][part]
        dtype = np.dtype(self.manifest["dtype"])
        return np.memmap(self.folder / f"{part}.bin", dtype, mode="r", shape=(int(entry["num_tokens"]),))


def open_stream(folder: Path) -> PreparedStream:
    """The prepared stream in a folder. Every file's size is checked, and its hash if it changed since it was last read.

    Raises: UserError where there is none, or where a file or the manifest is not as it was written.
    """
    manifest = read_manifest(folder, STREAM)
    for name, state in damaged_files(folder, manifest, read_all=False, skip_unknown=False).items():
        raise UserError(f"{folder / name} {state}: delete {folder} and prepare the text again")
    return PreparedStream(folder, manifest)


def fixed_lengths(num_tokens: int, length: int) -> IntArray:
    """Where the segments of a column begin and end: every `length` tokens; the last one may be shorter.

    Returns: (num_segments + 1,) int64 from 0 to num_tokens.
    """
    return np.append(np.arange(0, num_tokens, length, dtype=np.int64), np.int64(num_tokens))


def mean_random_length(length: int) -> float:
    """Tokens of a segment of random length around one, on average; never less than the shortest that is drawn."""
    return max(MIN_RANDOM_LENGTH, length * (FULL_LENGTH_PROBABILITY + (1 - FULL_LENGTH_PROBABILITY) / 2))


def random_lengths(num_tokens: int, length: int, seed: int, epoch: int) -> IntArray:
    """Where the segments of a column begin and end in one pass, of random lengths around one (Merity et al. 2017).

    As many as the rule has on the average, the same for every pass; drawn by (seed, epoch), then stretched so that they
    cover the column.

    Returns: (num_segments + 1,) int64, rising from 0 to num_tokens.
    """
    count = max(1, round(num_tokens / mean_random_length(length)))
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed % (1 << 64), epoch])))
    around = np.where(generator.random(count) < FULL_LENGTH_PROBABILITY, length, length / 2)
    drawn = np.maximum(MIN_RANDOM_LENGTH, generator.normal(around, LENGTH_DEVIATION).astype(np.int64))
    # A token for each segment, so that none is empty; what is left of the column in proportion to the drawn lengths.
    shares = np.cumsum(drawn - 1) / (drawn - 1).sum()
    bounds = np.arange(1, count + 1) + np.floor(shares * (num_tokens - count)).astype(np.int64)
    bounds[-1] = num_tokens
    return np.append(np.int64(0), bounds)


class StreamSegments(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A stream as columns that are read side by side, segment by segment, pass after pass, without end.

    Column c of the L = (num_tokens - 1) // num_columns tokens each covers the stream from c x L on; a label is the next
    token of the stream, so a column's last one is the next column's first token. Step s takes the same segment of every
    column; a sample's position is s x num_columns + column (`nlp_adan.training.loader.PositionDataset`).

    Args:
        tokens: (num_tokens,) unsigned integers; a whole file's memmap goes to other processes by its name.
        num_columns: sequences of an optimizer step.
        length: tokens of a segment; the last one of a pass may have fewer.
        random_seed: of random lengths around it; None: none are random.

    Raises: UserError where a column is shorter than a segment.
    """

    def __init__(self, tokens: npt.NDArray[Any], num_columns: int, length: int, random_seed: int | None = None) -> None:
        self.tokens = tokens
        self.num_columns = num_columns
        self.length = length
        self.random_seed = random_seed
        self.column_tokens = (len(tokens) - 1) // num_columns
        if self.column_tokens < length:
            raise UserError(
                f"the training part has {len(tokens):,} tokens: too few for {num_columns} sequences of {length} tokens "
                f"side by side and one more; add text, or choose a smaller `--global_batch_size` or `--tgt_len`"
            )
        self._pass = -1
        self._bounds: IntArray = np.zeros(0, dtype=np.int64)
        self.num_segments = len(self._bounds_of(0)) - 1
        self.num_samples = self.num_segments * num_columns

    def begins_pass(self, step: int) -> bool:
        """Whether the step takes the first segment of a pass over the stream."""
        return step % self.num_segments == 0

    def segment_length(self, step: int) -> int:
        """Tokens that the step takes of each column."""
        begin, end = self._segment(step)
        return end - begin

    def __getitem__(self, positions: IntArray) -> dict[str, Tensor]:
        """`input_ids` and `labels`, (n, seq) int64: the segments at (n,) positions of one step, labels one further.

        Raises: ValueError where the positions are of more than one step.
        """
        steps, columns = np.divmod(np.asarray(positions, dtype=np.int64), self.num_columns)
        if not len(steps) or (steps != steps[0]).any():
            raise ValueError(f"positions of one step are asked for, not of {sorted(set(steps.tolist()))[:5]}")
        begin, end = self._segment(int(steps[0]))
        places = (columns * self.column_tokens + begin)[:, None] + np.arange(end - begin + 1)
        ids = torch.from_numpy(self.tokens[places].astype(np.int64))
        return {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}

    def _segment(self, step: int) -> tuple[int, int]:
        """Where the step's segment begins and ends in each column."""
        number, segment = divmod(step, self.num_segments)
        bounds = self._bounds_of(number)
        return int(bounds[segment]), int(bounds[segment + 1])

    def _bounds_of(self, number: int) -> IntArray:
        """The bounds of the segments of a pass; kept while it lasts."""
        if self._pass != number and (self._pass < 0 or self.random_seed is not None):
            if self.random_seed is None:
                self._bounds = fixed_lengths(self.column_tokens, self.length)
            else:
                self._bounds = random_lengths(self.column_tokens, self.length, self.random_seed, number)
            self._pass = number
        return self._bounds

    def __getstate__(self) -> dict[str, Any]:
        """Of a file's memmap its name in place of its content."""
        state = dict(self.__dict__)
        tokens = self.tokens
        if isinstance(tokens, np.memmap) and tokens.filename is not None and _is_whole(tokens):
            state["tokens"] = (tokens.filename, tokens.dtype)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.tokens, tuple):
            name, dtype = self.tokens
            self.tokens = np.memmap(name, dtype, mode="r")


def _is_whole(tokens: np.memmap[Any, Any]) -> bool:
    """Whether it is all of its file, in one dimension; a slice has its file's name too."""
    return tokens.ndim == 1 and tokens.nbytes == Path(str(tokens.filename)).stat().st_size
