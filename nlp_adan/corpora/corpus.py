"""What a corpus is: named sources, and the documents in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from nlp_adan.errors import UserError

# Where reading begins: nothing for the beginning, else the number of a source and what its reader needs to go on inside
# it. Positions of one corpus are ordered as the documents are.
Position = tuple[int, ...]
# Told how many more bytes of the sources have been read, as they are stored (compressed ones: compressed).
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Source:
    """One input of a corpus.

    path: relative to the corpus' folder, or the hub data set's name; num_bytes: size as stored, None where unknown;
    sha256: hexadecimal digest of the file's bytes, or the hub's revision.
    """

    path: str
    num_bytes: int | None
    sha256: str | None


class Corpus(ABC):
    """Documents in a deterministic order, read as a stream: a corpus may be larger than memory."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def _find_sources(self) -> list[Source]:
        """Every source with its digest; reads each file once."""

    @abstractmethod
    def read(self, start: Position = (), on_bytes: OnBytes | None = None) -> Iterator[tuple[str, Position]]:
        """The documents from `start` on, each with the position from which the next one is read.

        No document is blank; line ends are one newline character; longer documents come in pieces.

        Raises: UserError for input that cannot be read, naming the file and the line or byte.
        """

    def documents(self, on_bytes: OnBytes | None = None) -> Iterator[str]:
        """All documents; see `read`."""
        return (document for document, _ in self.read((), on_bytes))

    def sample_starts(self, num_bytes: int) -> list[Position]:
        """Positions at which a sample of `num_bytes` bytes is to be taken, ascending, spread over the corpus."""
        return [()]

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The options that change the documents, as JSON values."""

    @abstractmethod
    def check(self) -> None:
        """Report bad input before anything is made of it, as far as that is cheap.

        Text files are read and decoded, for they are hashed anyway; of files of records the first one is read.

        Raises: UserError for the first source that cannot be read, or where there is no text at all.
        """

    @abstractmethod
    def check_unchanged(self) -> None:
        """Report a source that is not what it was when its digest was taken.

        Raises: UserError naming it.
        """

    @property
    def title(self) -> str:
        """The corpus' name without the folders above it."""
        return self.name

    @cached_property
    def sources(self) -> list[Source]:
        """Every source with its size and digest, in the order in which it is read. Reads each file once."""
        return self._find_sources()

    @property
    def num_bytes(self) -> int | None:
        """Size of all sources as stored, or None where one is unknown."""
        sizes = [source.num_bytes for source in self.sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def identity(self) -> dict[str, Any]:
        """A JSON value that is equal for two corpora of equal documents, wherever their files lie."""
        return {"sources": [asdict(source) for source in self.sources], "options": self.options}

    def _check_not_empty(self) -> None:
        if next(self.documents(), None) is None:
            raise UserError(f"the data {self.name!r} holds no text: every document in it is empty; add text to it")
