"""race.json: what is raced in a folder, for the next call to say what has changed since."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlp_adan.storage import write_json

MADE_BY = "made_by"  # the hash of code and libraries
COMPARED = (
    "family", "recipe", "words", "data", "budget", "entrants", "lr", "weight_decay", "search_runs", "short_share",
    "longer_share", "evaluations",
)  # fmt: skip


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write it; where the folder has that of another race, print what has changed."""
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        before = {}
    pairs = {name: (_text(before[name]), _text(record[name])) for name in COMPARED if name in before}
    changed = [f"{name}: {old} before, {new} now" for name, (old, new) in pairs.items() if old != new]
    if before.get(MADE_BY, record[MADE_BY]) != record[MADE_BY]:
        changed.append("the code or a library changed")
    if changed:
        told = "; ".join(changed)
        print(
            f"note: {path.parent} has a race already ({told}); runs that this leaves as they were are kept", flush=True
        )
    write_json(path, dict(record))


def _text(value: Any) -> str:
    return shlex.join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
