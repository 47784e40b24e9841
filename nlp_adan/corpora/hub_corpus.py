"""A data set of the Hugging Face hub as a corpus, read as a stream (offline: from the hub's cache)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nlp_adan.errors import UserError

from .corpus import Corpus, OnBytes, Position, Source
from .table_files import missing_column
from .text_files import text_pieces

SPLIT = "train"
HUB_TIMEOUT_SECONDS = 10.0


class HubCorpus(Corpus):
    """The training split of a hub data set.

    name: "name" or "name:configuration"; missing: how a message begins that says there is no such local path either.

    Raises: UserError where the hub has no such data set or cannot be reached.
    """

    def __init__(self, name: str, text_column: str, missing: str) -> None:
        super().__init__(name)
        self.path, _, configuration = name.partition(":")
        self.configuration = configuration or None
        self.text_column = text_column
        self.revision = _find_revision(self.path, self.configuration, missing)

    @property
    def options(self) -> dict[str, Any]:
        """The options that change the documents."""
        return {"text_column": self.text_column, "configuration": self.configuration, "split": SPLIT}

    def _find_sources(self) -> list[Source]:
        return [Source(self.name, None, self.revision)]

    def check(self) -> None:
        """See `Corpus.check`."""
        self._check_not_empty()

    def check_unchanged(self) -> None:
        """See `Corpus.check_unchanged`: a revision stays what it is."""

    def read(self, start: Position = (), on_bytes: OnBytes | None = None) -> Iterator[tuple[str, Position]]:
        """See `Corpus.read`. `on_bytes` is told the bytes of the texts: the stream does not tell its own."""
        first, num_pieces = start[1:] if len(start) > 1 else (0, 0)
        for text, number in self.texts(SPLIT, first):
            for count, document in enumerate(text_pieces(text or ""), start=1):
                if number > first or count > num_pieces:
                    if on_bytes is not None:
                        on_bytes(len(document.encode("utf-8", errors="replace")))
                    yield document, (0, number, count)

    def texts(self, split: str, first_row: int = 0) -> Iterator[tuple[str | None, int]]:
        """The texts of a split as they are, each with the number of its row.

        Raises: UserError for a row without this column of text.
        """
        rows = load_rows(self.path, self.configuration, self.revision, skip=first_row, split=split)
        for number, row in enumerate(rows, start=first_row):
            if self.text_column not in row:
                raise missing_column(f"the hub data set {self.name!r}", self.text_column, row)
            text = row[self.text_column]
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"the hub data set {self.name!r}, row {number}: the column {self.text_column!r} holds a "
                    f"{type(text).__name__}, not text; name another with `--text_column`"
                )
            yield text, number

    def num_rows(self) -> dict[str, int | None]:
        """The rows of each split; None where the hub does not say.

        Raises: UserError where the data set cannot be loaded.
        """
        offline = _is_offline()
        splits = _load(self.path, self.configuration, streaming=not offline, revision=self.revision)
        if offline:
            return {name: len(rows) for name, rows in splits.items()}
        known = {name: rows.info.splits or {} for name, rows in splits.items()}
        return {name: known[name][name].num_examples if name in known[name] else None for name in splits}


def load_rows(
    path: str, configuration: str | None, revision: str | None, skip: int = 0, split: str = SPLIT
) -> Iterator[dict[str, Any]]:
    """The rows of a split of a data set, streamed; where the hub is switched off, from its local cache.

    skip: so many rows are left out at the beginning.

    Raises: UserError where the data set cannot be loaded: configuration or split missing, no access.
    """
    rows = _load(path, configuration, split=split, streaming=not _is_offline(), revision=revision)
    with _reported(path, configuration, split):
        yield from rows.skip(skip) if skip else rows


def load_split(path: str, configuration: str | None, revision: str | None, split: str) -> Any:
    """A split of a data set as a whole (`datasets.Dataset`), downloaded where the hub's cache does not have it.

    Raises: UserError where the data set cannot be loaded: configuration or split missing, no access, no network.
    """
    return _load(path, configuration, split=split, revision=revision)


def _load(path: str, configuration: str | None, **options: Any) -> Any:
    import datasets

    with _reported(path, configuration, options.get("split", "all")):
        return datasets.load_dataset(path, configuration, **options)


def _is_offline() -> bool:
    import datasets

    return bool(datasets.config.HF_HUB_OFFLINE)


@contextmanager
def _reported(path: str, configuration: str | None, split: str) -> Iterator[None]:
    """Report whatever the network, the hub or a data set's files make of it; no code of ours may be inside."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        remedy = (
            "Name the configuration as `--data NAME:CONFIGURATION`"
            if "config" in reason.lower()
            else "Run it again when the hub can be reached, or give local files"
        )
        raise UserError(
            f"the hub data set {path!r} (configuration {configuration or 'none'}, split {split!r}) cannot be read: "
            f"{reason}. {remedy}"
        ) from error


def _find_revision(path: str, configuration: str | None, missing: str) -> str | None:
    """The newest revision of a hub data set; None where the hub is switched off and a cached copy has to do."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        try:
            next(load_rows(path, configuration, None), None)
        except UserError as error:
            raise UserError(
                f"{missing}, and the hub data set of this name is not in the local cache while HF_HUB_OFFLINE is set "
                f"({error})"
            ) from error
        return None
    try:
        return str(HfApi().dataset_info(path, timeout=HUB_TIMEOUT_SECONDS).sha)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{missing}, and the hub has no data set {path!r} (or it is private: `hf auth login`)"
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{missing}, and the hub refused the data set {path!r}: {reason}") from error
    except Exception as error:
        raise UserError(
            f"{missing}, and the hub cannot be reached to look for a data set {path!r} ({type(error).__name__}); "
            "give a local path, or connect to the network"
        ) from error
