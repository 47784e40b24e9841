"""Mistakes that a user can mend, and how a command reports them.

Every command of the toolkit raises `UserError` for what its user did wrong: one or two lines that name the value,
the file and line where there is one, and the remedy. `exit_on_user_error` turns it into that text on standard error
and exit code 2, without a traceback. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator

EXIT_CODE = 2
# A launcher kills every rank as soon as one of them ends: the other ranks give rank 0 this long to print the message.
OTHER_RANKS_WAIT_SECONDS = 5.0
SHOWN_CHARS = 60  # of a name that is too long


class UserError(Exception):
    """A mistake of the user's. The message names the value and the remedy, in one or two lines."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean 'X'?)` for the choice nearest to `word`, or an empty string where none is near."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" (did you mean {by_lower_case[found[0]]!r}?)" if found else ""


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` raised inside, once over all ranks, and exit with code 2."""
    try:
        with _told_if_too_long():
            yield
    except UserError as error:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        rank = int(os.environ.get("RANK", "0")) if several else 0
        if rank > 0:
            time.sleep(OTHER_RANKS_WAIT_SECONDS)
        where = f" (rank {rank})" if rank > 0 else ""
        print(f"error{where}: {error}", file=sys.stderr, flush=True)
        # Under a launcher the other ranks may wait in a collective for this one: leave without its clean-up.
        if several:
            sys.stdout.flush()
            os._exit(EXIT_CODE)
        sys.exit(EXIT_CODE)


@contextlib.contextmanager
def _told_if_too_long() -> Iterator[None]:
    """Turn what the system says of a name that is too long, wherever it is first used, into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        shown = str(error.filename)
        shown = shown if len(shown) <= SHOWN_CHARS else f"{shown[:SHOWN_CHARS]}..."
        raise UserError(f"{shown!r}: {error.strerror}; give a shorter one") from error


@contextlib.contextmanager
def ranks_leave_at_once() -> Iterator[None]:
    """Around a whole program: as one of several ranks, it exits without the interpreter's clean-up.

    gloo's threads need the interpreter to drop a collective's tensors, some time after they have told its result. One
    that comes too late for that ends the process by SIGABRT ("terminate called without an active exception"), and its
    launcher then kills the ranks that are still writing. What was registered at exit is done as ever, first.
    Begin it before libraries are imported: what they register comes before it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    exit_code: int | None = None

    def leave() -> None:
        if exit_code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)

    atexit.register(leave)
    try:
        yield
        exit_code = 0
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):  # otherwise a text, which the interpreter prints
            exit_code = ended.code or 0
        raise
