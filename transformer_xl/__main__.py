"""`python -m transformer_xl {prepare,convert,evaluate,generate} ...`: what is done before training, and after it."""

from __future__ import annotations

import importlib
import sys

from nlp_adan.errors import UserError, exit_on_user_error, nearest

# The module of each command, whose `main(words)` runs it; imported only when asked for.
COMMANDS = {
    "prepare": "transformer_xl.prepare_command",
    "convert": "transformer_xl.convert",
    "evaluate": "transformer_xl.evaluate",
    "generate": "transformer_xl.generate",
}
USAGE = f"usage: python -m transformer_xl {{{','.join(COMMANDS)}}} [options]; each has --help"


def main() -> None:
    """Hand the command line to the command that its first word names."""
    with exit_on_user_error():
        words = sys.argv[1:]
        if words and words[0] in ("-h", "--help"):
            print(f"{__doc__}\n\n{USAGE}")
            return
        if not words or words[0] not in COMMANDS:
            given = f"unknown command {words[0]!r}{nearest(words[0], COMMANDS)}" if words else "say what to do"
            raise UserError(f"{given}\n{USAGE}")
        importlib.import_module(COMMANDS[words[0]]).main(words[1:])


if __name__ == "__main__":
    main()
