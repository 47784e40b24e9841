"""One run of a set, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

RESULT = "result.json"  # in a run's folder, written last and whole: the run is finished

Advance = Callable[[float, float], None]
"""`advance(done, total)`: how far a run is, in whatever it counts."""


@dataclass(frozen=True)
class Run:
    """A function to call in a process of its own.

    name: unique among the runs of a set, as people read it.
    folder: the run's own; made where it is missing.
    function: importable, called as `function(folder, advance, **arguments)`; it writes `folder/result.json` last, whole
        or not at all (`storage.write_json`). What it prints goes to `folder/output.log`. It may go on where an earlier
        attempt stopped.
    arguments: picklable.
    work: how much there is to do, compared with the other runs.
    """

    name: str
    folder: Path
    function: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    work: float = 1.0

    @property
    def is_done(self) -> bool:
        """Whether the result is there."""
        return (self.folder / RESULT).is_file()


@dataclass(frozen=True)
class Outcome:
    """What became of a run: `kept` (its result was there), `done` now, or `failed`, and then `error` says why.

    seconds: wall time of its process.
    """

    run: Run
    state: Literal["kept", "done", "failed"]
    error: str = ""
    seconds: float = 0.0
