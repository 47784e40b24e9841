"""Pretraining of Transformer-XL and LSTM language models: announced, not built yet."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_adan.errors import UserError


def main(words: Sequence[str]) -> None:
    """Say that these families cannot be trained yet."""
    raise UserError(
        "transformer_xl and lstm cannot be trained yet: this version pretrains BERT only "
        "(`run_pretrain.py bert --recipe tiny --output_dir runs/tiny`)"
    )
