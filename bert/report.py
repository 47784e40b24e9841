"""The report of a BERT's pretraining run: `python -m bert.report RUN`."""

from __future__ import annotations

from collections.abc import Sequence

from bert.run_kind import MASKED_LM
from nlp_adan.pretraining.report import report_command


def main(words: Sequence[str] | None = None) -> None:
    """`python -m bert.report RUN`."""
    report_command("bert.report", MASKED_LM, words)


if __name__ == "__main__":
    main()
