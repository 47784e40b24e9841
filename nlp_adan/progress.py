"""Progress bars: one kind everywhere, drawn by rank 0 only, with the rate and the time left."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress(iterable: Iterable[Any] | None = None, *, description: str, unit: str, total: int | None = None) -> tqdm:
    """A bar over `iterable`, or one to `update` by hand. `unit` names what is counted, in the singular."""
    return tqdm(
        iterable,
        desc=description,
        unit=f" {unit}",
        total=total,
        unit_scale=unit == "byte",
        dynamic_ncols=True,
        mininterval=0.5,
        disable=int(os.environ.get("RANK", "0")) > 0,
    )
