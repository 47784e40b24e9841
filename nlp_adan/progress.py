"""Progress bars: one kind everywhere, drawn by rank 0 only, with the rate and the time left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

TERMINAL_INTERVAL_SECONDS = 0.5
LOG_FILE_INTERVAL_SECONDS = 10.0  # into a file or a pipe each redrawing is a line


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    description: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    leave: bool = True,
    bar_format: str | None = None,
) -> tqdm:
    """A bar over `iterable`, or one to `update` by hand. `unit` names what is counted, in the singular.

    `leave`: whether the full bar stays on the screen. `bar_format`: tqdm's, where a count and a rate say nothing.
    """
    return tqdm(
        iterable,
        desc=description,
        unit=f" {unit}",
        total=total,
        initial=initial,
        leave=leave,
        bar_format=bar_format,
        unit_scale=unit == "byte",
        dynamic_ncols=True,
        mininterval=TERMINAL_INTERVAL_SECONDS if sys.stderr.isatty() else LOG_FILE_INTERVAL_SECONDS,
        disable=int(os.environ.get("RANK", "0")) > 0,
    )
