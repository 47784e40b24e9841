"""Raw text in: a file, a folder, a hub data set or the built-in corpus, opened as a stream of documents."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_adan.errors import UserError, nearest
from nlp_adan.storage import sha256_file

from .corpus import Corpus, OnBytes, Source
from .table_files import check_parquet, read_jsonl, read_parquet
from .text_files import check_text, read_text

FORMATS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?")


def open_corpus(
    data: str | None,
    encoding: str = "utf-8",
    text_column: str = "text",
    one_document_per_file: bool | None = None,
) -> Corpus:
    """The corpus that `--data` names. Nothing but names is read yet: `Corpus.check` reads the content.

    data: one of
      - a file: .jsonl, .jsonl.gz or .parquet by its ending; any other file is plain text;
      - a folder: every file in it, at any depth, of one of FORMATS, in the order of their names; other files and
        hidden ones are left out;
      - the name of a data set on the Hugging Face hub, "name" or "name:configuration" (its training split);
      - None: the built-in corpus, made of the documentation that the installation carries.
    encoding: of text and JSON files. text_column: the column of JSON lines, parquet files and hub data sets.
    one_document_per_file: whether a text file is one document, or blank lines part it into several. None: a folder's
      files are one document each (books, articles), a file on its own is parted (the usual form of a collection).

    Raises: UserError for an unknown encoding, a path that is not there, a folder without files of a known kind.
    """
    encoding = _known_encoding(encoding)
    if data is None:
        from .builtin_corpus import builtin_corpus_file

        file = builtin_corpus_file()
        return FileCorpus("the built-in corpus", file.parent, [file], "utf-8", "text", False)
    path = Path(data).expanduser()
    if path.is_dir():
        files = _files_in(path)
        return FileCorpus(data, path, files, encoding, text_column, one_document_per_file is not False)
    if path.is_file():
        return FileCorpus(data, path.parent, [path], encoding, text_column, one_document_per_file is True)
    if path.exists():
        raise UserError(f"--data {data!r} is neither a file nor a folder: save its text in a file first")
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    missing = f"--data {data!r}: no such file or folder{nearest(path.name, siblings)}"
    if not _HUB_NAME.fullmatch(data) or data.lower().endswith(FORMATS):
        raise UserError(f"{missing}; give a {', '.join(FORMATS)} file, a folder of them, or a hub data set's name")
    from .hub_corpus import HubCorpus

    return HubCorpus(data, text_column, missing)


class FileCorpus(Corpus):
    """A corpus of files.

    folder: what source names are relative to; files: in reading order; the other options as in `open_corpus`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        files: Sequence[Path],
        encoding: str,
        text_column: str,
        one_document_per_file: bool,
    ) -> None:
        super().__init__(name)
        self.folder = folder
        self.files = list(files)
        self.encoding = encoding
        self.text_column = text_column
        self.one_document_per_file = one_document_per_file

    @property
    def options(self) -> dict[str, Any]:
        """The options that change the documents; only those that these files use."""
        kinds = {_kind(path) for path in self.files}
        options: dict[str, Any] = {}
        if kinds - {".parquet"}:
            options["encoding"] = self.encoding
        if ".txt" in kinds:
            options["one_document_per_file"] = self.one_document_per_file
        if kinds - {".txt"}:
            options["text_column"] = self.text_column
        return options

    def _find_sources(self) -> list[Source]:
        return [
            Source(path.relative_to(self.folder).as_posix(), path.stat().st_size, _readable(path, sha256_file))
            for path in self.files
        ]

    def documents(self, on_bytes: OnBytes | None = None) -> Iterator[str]:
        """See `Corpus.documents`. The order is that of the files, then of the documents in each."""
        for path in self.files:
            yield from self._read(path, on_bytes)

    def _read(self, path: Path, on_bytes: OnBytes | None) -> Iterator[str]:
        last = 0

        def on_position(position: int) -> None:
            nonlocal last
            if on_bytes is not None:
                on_bytes(position - last)
            last = position

        try:
            kind = _kind(path)
            if kind == ".parquet":
                yield from read_parquet(path, self.text_column, on_position)
            elif kind == ".txt":
                yield from read_text(path, self.encoding, not self.one_document_per_file, on_position)
            else:
                yield from read_jsonl(path, self.encoding, self.text_column, on_position)
        except (PermissionError, FileNotFoundError) as error:
            raise _unreadable(path, error) from error

    def check(self) -> None:
        """See `Corpus.check`. Text is decoded, JSON is parsed, of parquet the schema is read."""
        for path in self.files:
            kind = _kind(path)
            if kind == ".parquet":
                _readable(path, lambda file: check_parquet(file, self.text_column))
            elif kind == ".txt":
                _readable(path, lambda file: check_text(file, self.encoding))
            else:
                for _ in self._read(path, None):
                    pass
        self._check_not_empty()


def _kind(path: Path) -> str:
    name = path.name.lower()
    return next((ending for ending in FORMATS if name.endswith(ending)), ".txt")


def _files_in(folder: Path) -> list[Path]:
    """The files of a known kind under a folder, sorted by their path within it; hidden files and folders left out."""
    found: list[Path] = []
    others: Counter[str] = Counter()

    def fail(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(FORMATS):
                found.append(Path(root, name))
            else:
                others[os.path.splitext(name)[1].lower() or "none"] += 1
    if not found:
        seen = ", ".join(f"{ending} ({count})" for ending, count in sorted(others.items()))
        holds = f"only files with other endings: {seen}" if others else "no files"
        raise UserError(f"--data {str(folder)!r} holds {holds}; put {', '.join(FORMATS)} files into it")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _known_encoding(name: str) -> str:
    """The codec's own name, so that "utf8", "UTF-8" and "utf-8-sig" are one option."""
    try:
        codec = codecs.lookup(name)
        codecs.getincrementaldecoder(name)(errors="strict").decode(b"")
        if not isinstance(codec.incrementaldecoder(errors="strict").decode(b"", final=True), str):
            raise LookupError(name)
    except (LookupError, TypeError, ValueError) as error:
        usual = ["utf-8", "utf-16", "latin-1", "cp1252", "ascii", "shift_jis", "gb18030", "big5", "koi8-r"]
        raise UserError(
            f"--encoding {name!r} is not an encoding{nearest(name, usual)}; usual ones: {', '.join(usual)}"
        ) from error
    return codec.name.removesuffix("-sig")


def _readable(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (PermissionError, FileNotFoundError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror}): allow reading it, or remove it from the data")
