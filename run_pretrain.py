"""The door: [deepspeed | torchrun | python] run_pretrain.py {bert,transformer_xl,lstm} --recipe NAME [any option]."""

from __future__ import annotations

import importlib
import os
import sys

from nlp_adan.errors import UserError, exit_on_user_error, nearest, ranks_leave_at_once

# The module and its function of the words that trains each family; imported only when asked for.
FAMILIES = {
    "bert": ("bert.pretrain", "main"),
    "transformer_xl": ("transformer_xl.pretrain", "transformer_xl"),
    "lstm": ("transformer_xl.pretrain", "lstm"),
    "prepare": ("bert.prepare_command", "main"),
}
USAGE = f"usage: run_pretrain.py {{{','.join(FAMILIES)}}} --recipe NAME --output_dir DIR [any option]"


def main() -> None:
    """Hand the command line to the family that its first word names."""
    with ranks_leave_at_once(), exit_on_user_error():
        # A launcher may put its --local_rank before our words; the rank is in the environment too.
        words = [word for word in sys.argv[1:] if not word.startswith(("--local_rank", "--local-rank"))]
        if words and words[0] in ("-h", "--help"):
            print(f"{__doc__}\n\n{USAGE}\n\n`run_pretrain.py bert --help` lists the options of a family.")
            return
        if not words or words[0].startswith("-"):
            raise UserError(f"say first what to pretrain: {', '.join(FAMILIES)}\n{USAGE}")
        family, *rest = words
        if family not in FAMILIES:
            raise UserError(f"unknown model family {family!r}{nearest(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
        module, function = FAMILIES[family]
        train = getattr(importlib.import_module(module), function)
        from nlp_adan.training.signals import exits_to_be_resumed

        how = "the same command" if family == "prepare" else "the same command and `--resume auto`"
        with exits_to_be_resumed(how):
            train(rest)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
