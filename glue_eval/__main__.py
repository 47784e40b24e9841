"""`python -m glue_eval [run] --model DIR --data GLUE --output_dir OUT`, and its subcommands; `--help` tells of each."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from glue_eval import PRELOAD
from nlp_adan.errors import UserError, exit_on_user_error, nearest, ranks_leave_at_once
from nlp_adan.training.signals import exits_to_be_resumed

# The module and its function of the words that follow; imported only when asked for.
SUBCOMMANDS = {
    "run": ("glue_eval.sweep", "sweep", "fine-tune on all tasks with all seeds, and report; without a subcommand too"),
    "check-data": ("glue_eval.check_command", "check_command", "check the files of the tasks"),
    "report": ("glue_eval.report_command", "report_command", "report on one sweep's runs, or compare several"),
    "submit": ("glue_eval.submit_command", "submit_command", "write or check a submission for the leaderboard"),
    "list": ("glue_eval.listing", "list_command", "tasks, recipes and published rows"),
}
FAILED_EXIT_CODE = 1


def main(words: Sequence[str]) -> None:
    """Hand the words to the subcommand that the first of them names.

    Raises:
        UserError: a mistake of the user's.
        SystemExit: with `FAILED_EXIT_CODE` where runs failed.
    """
    # A launcher may put its --local_rank before our words; the rank is in the environment too.
    words = [word for word in words if not word.startswith(("--local_rank", "--local-rank"))]
    name = "run"
    if words and not words[0].startswith("-"):
        name, *words = words
        if name not in SUBCOMMANDS:
            raise UserError(
                f"unknown subcommand {name!r}{nearest(name, SUBCOMMANDS)}; known are {', '.join(SUBCOMMANDS)}"
            )
    elif words and words[0] in ("-h", "--help"):
        for known, (_, _, text) in SUBCOMMANDS.items():
            print(f"python -m glue_eval {known:10}  {text}")
        print("Each has a --help. Options of `run`:\n", flush=True)
    module, function, _ = SUBCOMMANDS[name]
    num_failed = getattr(importlib.import_module(module), function)(words)
    if num_failed:
        sys.exit(FAILED_EXIT_CODE)


def start_early(words: Sequence[str]) -> None:
    """Have the server of the runs import what they need while this process imports the same."""
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    does_runs = not words or words[0] == "run" or words[0].startswith("-")
    if not (is_alone and does_runs) or {"--help", "-h", "--dry_run"} & set(words):
        return
    import torch

    if not torch.accelerator.is_available():
        from nlp_adan.runs import start_server

        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it found no GPU
        start_server(PRELOAD)


def command(words: Sequence[str]) -> None:
    """`main` as a program: a mistake is told without a traceback, a signal ends it with a word on how to go on."""
    with ranks_leave_at_once(), exit_on_user_error(), exits_to_be_resumed("the same command"):
        start_early(words)
        main(words)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    command(sys.argv[1:])
