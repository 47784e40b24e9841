"""Optimizers raced on one recipe: run_race.py {bert,transformer_xl,lstm} --recipe NAME --optim adamw,adan [options]."""

from __future__ import annotations

import os
import sys

from nlp_adan.errors import UserError, exit_on_user_error, nearest

# What makes a run of a family from its options; imported only when asked for.
FAMILIES = {
    "bert": "bert.pretrain:pretraining",
    "transformer_xl": "transformer_xl.pretrain:transformer_xl_pretraining",
    "lstm": "transformer_xl.pretrain:lstm_pretraining",
}
USAGE = f"""usage: run_race.py {{{",".join(FAMILIES)}}} --recipe NAME --optim adamw,adan --output_dir DIR [options]

example, a quarter of an hour on two CPU cores:
  python run_race.py bert --recipe tiny --optim adamw,adan --budget steps:400 --seeds 3 --output_dir runs/race

`run_race.py bert --help` lists the options of a race, `run_pretrain.py bert --help` those of the family's runs, which \
it takes too."""


def main() -> None:
    """Race on the family that the first word names."""
    with exit_on_user_error():
        words = sys.argv[1:]
        if words and words[0] in ("-h", "--help"):
            print(f"{__doc__}\n\n{USAGE}")
            return
        if not words or words[0].startswith("-"):
            raise UserError(f"say first what to train: {', '.join(FAMILIES)}\n{USAGE}")
        family, *rest = words
        if family not in FAMILIES:
            raise UserError(f"unknown model family {family!r}{nearest(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "a race starts its runs itself: start it with `python run_race.py`; `--jobs` uses more GPUs"
            )
        from nlp_adan.race.setup import race
        from nlp_adan.training.signals import exits_to_be_resumed

        with exits_to_be_resumed("the same command"):
            failed = race(family, FAMILIES[family], rest)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
