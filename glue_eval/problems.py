"""What is wrong with a file, with line and remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nlp_adan.errors import UserError

SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, or worth knowing of it (`is_error` false): where (line from 1), what, the remedy."""

    path: Path
    line: int | None
    text: str
    remedy: str = ""
    is_error: bool = True

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else f"{self.path}"
        return f"{where}: {self.text}{f': {self.remedy}' if self.remedy else ''}"


OnProblem = Callable[[Problem], None]


def raise_problem(problem: Problem) -> NoReturn:
    """The handler of a reader that wants the file right: a problem is a UserError."""
    raise UserError(str(problem))


def shorten(text: str) -> str:
    """At most 40 characters of a text, for a message."""
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
