"""`python -m nlp_adan.training.checkpoint inspect|verify|export|reshard DIR`; `--help` tells of each."""

from __future__ import annotations

import sys

from nlp_adan.errors import exit_on_user_error
from nlp_adan.training.checkpoint.commands import main
from nlp_adan.training.signals import exits_to_be_resumed


def command() -> None:
    """`main` as a program; a signal leaves nothing half written."""
    with exit_on_user_error(), exits_to_be_resumed("the same command"):
        sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    command()
