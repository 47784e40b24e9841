"""Small corpora for the tests of data preparation, and what is compared of prepared folders."""

from __future__ import annotations

import random
from pathlib import Path

STEMS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "seven", "wizards", "quietly", "jam", "jars")
WORDS = [*STEMS, *(one + two for one in STEMS for two in STEMS)]


def make_documents(count: int, seed: int = 0) -> list[str]:
    """Different documents of 5 to 60 words, drawn from 182."""
    generator = random.Random(seed)
    return [f"{i} " + " ".join(generator.choices(WORDS, k=generator.randint(5, 60))) for i in range(count)]


def write_texts(folder: Path, num_files: int = 4, documents_each: int = 60) -> Path:
    """A folder of text files, each of documents with blank lines between them."""
    folder.mkdir(parents=True)
    for number in range(num_files):
        text = "\n\n".join(make_documents(documents_each, seed=number))
        (folder / f"part{number}.txt").write_text(text, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
