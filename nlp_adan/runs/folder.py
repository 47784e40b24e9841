"""A run's folder: one process at a time writes it, and a run that failed leaves word there.

.lock         locked while a process writes; it says which
output.log    what the run printed, all attempts one after the other
failed.json   of the last attempt, where it failed: the error, the end of the output, the number of attempts
result.json   written last: the run is finished
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from nlp_adan.storage import write_json

FAILED = "failed.json"
OUTPUT = "output.log"
SHOWN_LINES = 20
TAIL_BYTES = 1 << 14


def output_tail(folder: Path, begin: int = 0) -> list[str]:
    """The last lines of a run's output, of what follows byte `begin`."""
    path = folder / OUTPUT
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(begin, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()][-SHOWN_LINES:]


def num_attempts(folder: Path) -> int:
    """Attempts that failed so far."""
    try:
        return int(json.loads((folder / FAILED).read_text(encoding="utf-8"))["attempts"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def write_failure(folder: Path, name: str, error: str, seconds: float) -> None:
    """Leave failed.json, counting attempts on."""
    write_json(
        folder / FAILED,
        {
            "name": name,
            "error": error,
            "attempts": num_attempts(folder) + 1,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 1),
            "output": output_tail(folder),
        },
    )
