"""Raw text in: a file, a folder, a hub data set or the built-in corpus, opened as a stream of documents."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from nlp_adan.errors import UserError, nearest
from nlp_adan.progress import progress
from nlp_adan.storage import sha256_file

from .corpus import Corpus, OnBytes, Position, Source
from .digests import Digests, relative_name, stamp
from .lines import SEEKABLE_ENCODINGS, next_line_start
from .manifest import is_prepared
from .table_files import MAX_LINE_CHARS, UNKNOWN_LINE, check_parquet, parquet_rows, read_jsonl, read_parquet
from .text_files import PIECE_CHARS, check_text, read_text

FORMATS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
# A tokenizer's sample is taken at so many places, evenly over the corpus.
NUM_SAMPLE_SPANS = 64
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
    encoding = known_encoding(encoding)
    if data is None:
        from .builtin_corpus import builtin_corpus_file

        file = builtin_corpus_file()
        return FileCorpus("the built-in corpus", file.parent, [file], "utf-8", "text", False)
    path = Path(data).expanduser()
    if path.is_dir():
        files = _files_in(path)
        return FileCorpus(data, path, files, encoding, text_column, one_document_per_file is not False, is_folder=True)
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


def check_outside(data: str | None, folder: Path, remedy: str = "with `--output_dir`") -> None:
    """Raises: UserError where what is to be written into `folder` would become a part of the folder of texts `data`.

    remedy: where another folder is named.
    """
    source = None if data is None else Path(data).expanduser().resolve()
    if source is None or not source.is_dir() or is_prepared(source) or not folder.resolve().is_relative_to(source):
        return
    inside = folder.resolve().relative_to(source).parts
    if not any(name.startswith(".") for name in inside):  # those are left out when the data is read
        raise UserError(
            f"{str(folder)!r} lies inside the data {data!r}, which would grow by it: name another folder {remedy}"
        )


class FileCorpus(Corpus):
    """A corpus of files.

    folder: what source names are relative to; files: in reading order; is_folder: whether they are all that the folder
    holds; the other options as in `open_corpus`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        files: Sequence[Path],
        encoding: str,
        text_column: str,
        one_document_per_file: bool,
        is_folder: bool = False,
    ) -> None:
        super().__init__(name)
        self.is_folder = is_folder
        self.folder = folder
        self.files = list(files)
        self.encoding = encoding
        self.text_column = text_column
        self.one_document_per_file = one_document_per_file
        self._stamps: dict[Path, list[int]] = {}

    @property
    def title(self) -> str:
        """See `Corpus.title`."""
        return PurePath(self.name).name

    @property
    def options(self) -> dict[str, Any]:
        """The options that change the documents; only those that these files use."""
        kinds = {file_kind(path) for path in self.files}
        options: dict[str, Any] = {}
        if kinds - {".parquet"}:
            options["encoding"] = self.encoding
        if ".txt" in kinds:
            options["one_document_per_file"] = self.one_document_per_file
        if kinds - {".txt"}:
            options["text_column"] = self.text_column
        return options

    def _find_sources(self) -> list[Source]:
        sizes = [_readable(path, lambda file: file.stat().st_size) for path in self.files]
        sources = []
        bar = progress(description="Files checked", unit="byte", total=sum(sizes), leave=False)
        with Digests(self.folder, self._digest_purpose()) as digests, bar:
            for path, size in zip(self.files, sizes, strict=True):
                self._stamps[path] = _readable(path, stamp)
                digest = _readable(path, lambda file: digests.sha256(file, self._checked_digest))
                sources.append(Source(relative_name(path, self.folder), size, digest))
                bar.update(size)
        return sources

    def check_unchanged(self) -> None:
        """See `Corpus.check_unchanged`. A change that keeps a file's size and time is not seen."""
        for path, before in self._stamps.items():
            if _readable(path, stamp) != before:
                raise UserError(
                    f"{path} was changed while it was read: run it again when nothing writes to it any more; "
                    "what was made of the files before it is kept"
                )

    def _digest_purpose(self) -> str:
        return self.encoding

    def _checked_digest(self, path: Path) -> str:
        """SHA-256 of a file; one of text or JSON lines is decoded on the way."""
        if file_kind(path) not in (".txt", ".jsonl"):
            return sha256_file(path)
        digest = hashlib.sha256()
        check_text(path, self.encoding, digest.update)
        return digest.hexdigest()

    def read(self, start: Position = (), on_bytes: OnBytes | None = None) -> Iterator[tuple[str, Position]]:
        """See `Corpus.read`. The order is that of the files, then of the documents in each."""
        first = start[0] if start else 0
        if on_bytes is not None:
            on_bytes(sum(source.num_bytes or 0 for source in self.sources[:first]))
        for index, path in enumerate(self.files[first:], start=first):
            for document, cursor in self._read(path, on_bytes, start[1:] if index == first else ()):
                yield document, (index, *cursor)

    def _read(self, path: Path, on_bytes: OnBytes | None, cursor: Position = ()) -> Iterator[tuple[str, Position]]:
        last = 0

        def on_position(position: int) -> None:
            nonlocal last
            if on_bytes is not None:
                on_bytes(position - last)
            last = position

        try:
            kind = file_kind(path)
            if kind == ".parquet":
                yield from read_parquet(path, self.text_column, on_position, cursor or (0, 0))
            elif kind == ".txt":
                parted = not self.one_document_per_file
                yield from read_text(path, self.encoding, parted, on_position, *cursor)
            else:
                yield from read_jsonl(path, self.encoding, self.text_column, on_position, cursor or (0, 0, 0))
        except (PermissionError, FileNotFoundError) as error:
            raise _unreadable(path, error) from error

    def check(self) -> None:
        """See `Corpus.check`."""
        for path in self.files:
            if file_kind(path) == ".parquet":
                _readable(path, lambda file: check_parquet(file, self.text_column))
        self.sources  # noqa: B018 (reads, decodes and hashes every file)
        for path in self.files:
            if file_kind(path).startswith(".jsonl"):
                next(self._read(path, None), None)
        self._check_not_empty()

    def sample_starts(self, num_bytes: int) -> list[Position]:
        """See `Corpus.sample_starts`. Compressed JSON lines and unusual encodings are sampled at a file's beginning."""
        if (self.num_bytes or 0) <= num_bytes:
            return [()]
        starts = set()
        for number in range(NUM_SAMPLE_SPANS):
            offset = (self.num_bytes or 0) * number // NUM_SAMPLE_SPANS
            for index, source in enumerate(self.sources):
                if offset < (source.num_bytes or 0):
                    starts.add((index, *self._cursor_near(self.files[index], offset)))
                    break
                offset -= source.num_bytes or 0
        return sorted(starts)

    def _cursor_near(self, path: Path, offset: int) -> Position:
        kind = file_kind(path)
        if kind == ".parquet":
            return (parquet_rows(path, self.text_column) * offset // path.stat().st_size, 0)
        if offset == 0 or kind == ".jsonl.gz" or self.encoding not in SEEKABLE_ENCODINGS:
            return (0,) if kind == ".txt" else (0, 0, 0)
        # A line that is cut in its middle is text all the same; a record is not.
        limit = PIECE_CHARS if kind == ".txt" else MAX_LINE_CHARS
        with open(path, "rb") as file:
            begin = next_line_start(file, offset, limit)
        return (begin,) if kind == ".txt" else (begin, UNKNOWN_LINE, 0)


def file_kind(path: Path) -> str:
    """The one of FORMATS that a file's name says; .txt for any other."""
    name = path.name.lower()
    return next((ending for ending in FORMATS if name.endswith(ending)), ".txt")


def _files_in(folder: Path) -> list[Path]:
    """The files of a known kind under a folder, sorted by their path within it; hidden files and folders left out.

    Links to folders are followed; a folder that is met twice counts once.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()

    def fail(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    entered = {os.path.realpath(folder)}

    def is_new(path: str) -> bool:
        target = os.path.realpath(path)
        known = target in entered
        entered.add(target)
        return not known

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and is_new(os.path.join(root, name))]
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


def known_encoding(name: str) -> str:
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
