"""The report of a language model's pretraining run: `python -m transformer_xl.report RUN`."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_adan.pretraining.report import report_command

from .run_kind import LANGUAGE_MODEL


def main(words: Sequence[str] | None = None) -> None:
    """`python -m transformer_xl.report RUN`."""
    report_command("transformer_xl.report", LANGUAGE_MODEL, words)


if __name__ == "__main__":
    main()
