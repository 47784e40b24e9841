"""What a preparation has finished, shard by shard: so a killed one goes on, and a bad shard is made anew.

journal.jsonl: the first line says what is prepared from what; then one line for each full shard, in the order in which
they were finished; then one line with the last, partly filled shards and the figures of the whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlp_adan.errors import UserError
from nlp_adan.storage import sync_folder, write_text

from .packing import Mark, ShardEntry

JOURNAL = "journal.jsonl"
LOCK = "lock"


class Journal:
    """The journal in a folder of prepared data.

    inputs: what the first line says; entries: the full shards; end: the last line, None while there is none.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any], entries: list[ShardEntry], end: Any = None) -> None:
        self.folder = folder
        self.inputs = inputs
        self.entries = entries
        self.end: dict[str, Any] | None = end

    @staticmethod
    def read(folder: Path) -> Journal | None:
        """The journal there, None where there is none. A last line that was cut off by a kill does not count.

        Raises: UserError where it is no journal.
        """
        try:
            lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return None
        try:
            values = [json.loads(line) for line in lines if line.endswith("\n")]
            if not values:
                return None
            end = values.pop()["end"] if "end" in values[-1] else None
            return Journal(folder, values[0]["inputs"], [ShardEntry.from_json(value) for value in values[1:]], end)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / JOURNAL} is damaged ({error!r}): delete {folder} and prepare again") from error

    def start(self) -> None:
        """Write it anew: the first line and the entries."""
        self.end = None
        values = [{"inputs": self.inputs}, *(entry.as_json() for entry in self.entries)]
        write_text(self.folder / JOURNAL, "".join(json.dumps(value) + "\n" for value in values))
        sync_folder(self.folder)

    def add(self, entry: ShardEntry) -> None:
        """Write down a finished shard."""
        self.entries.append(entry)
        self._append(entry.as_json())

    def finish(self, end: dict[str, Any]) -> None:
        """Write the last line."""
        self.end = end
        self._append({"end": end})

    def all_entries(self) -> list[ShardEntry]:
        """The full shards and, after the end, the partly filled ones."""
        return [*self.entries, *(ShardEntry.from_json(value) for value in (self.end or {"shards": []})["shards"])]

    def part(self, part: str) -> list[ShardEntry]:
        """The full shards of one part, in their order."""
        return [entry for entry in self.entries if entry.part == part]

    def mark(self, part: str, shard: int) -> Mark:
        """Where a shard begins."""
        return self.part(part)[shard - 1].next if shard else Mark()

    def keep_sources(self, num_sources: int) -> None:
        """Forget the shards after which one would go on in a source other than the first `num_sources`."""
        kept = [entry for entry in self.entries if (*entry.next.position, 0)[0] < num_sources]
        self.entries = kept
        self.end = None

    def _append(self, value: dict[str, Any]) -> None:
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def locked(folder: Path, is_done: Callable[[], bool]) -> Iterator[bool]:
    """Make a folder and keep other preparations out of it; a lock ends with the process that has it.

    Where another process has the lock, this one says so and waits. Yields False, and has no lock, where `is_done` is
    true then: there is nothing left to do.
    """
    while True:
        if is_done():
            yield False
            return
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process prepares {folder}: waiting for it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems have no locks
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                print(
                    f"the file system of {folder} has no locks ({error.strerror}): start one preparation at a time",
                    flush=True,
                )
            # The one before may have renamed or removed the folder, and with it the file that is locked now.
            if (folder / LOCK).exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                yield True
                return
