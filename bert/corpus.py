"""What a corpus is: named sources, and the documents in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from nlp_adan.errors import UserError

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
    def documents(self, on_bytes: OnBytes | None = None) -> Iterator[str]:
        """The documents, none of them blank, line ends as one newline character, longer ones in pieces.

        Raises: UserError for input that cannot be read, naming the file and the line or byte.
        """

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The options that change the documents, as JSON values."""

    @abstractmethod
    def check(self) -> None:
        """Read through all sources, keeping nothing, so that bad input is reported before anything is made of it.

        Raises: UserError for the first source that cannot be read, or where there is no text at all.
        """

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
