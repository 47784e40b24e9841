"""What was counted in the published files, for `check-data`: a file that differs was rewritten, cut or mixed up.

Counted in whole files of GLUE, byte for byte as download_glue_data.py writes them; MNLI's matched development labels in
a copy of all its examples. What is not here was not counted: QQP, the rest of MNLI and QNLI's training file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileFacts:
    """One published file: how many examples have each label (in the task's order), and quotation marks in its texts."""

    label_counts: tuple[int, ...] | None = None
    num_quotes: int | None = None


FILE_FACTS: dict[tuple[str, str], FileFacts] = {
    ("CoLA", "train"): FileFacts((2528, 6023), 4),
    ("CoLA", "dev"): FileFacts((322, 721), 0),
    ("CoLA", "test"): FileFacts(None, 0),
    ("SST-2", "train"): FileFacts((29780, 37569), 0),
    ("SST-2", "dev"): FileFacts((428, 444), 0),
    ("SST-2", "test"): FileFacts(None, 0),
    ("MRPC", "train"): FileFacts((1194, 2474), 2503),
    ("MRPC", "dev"): FileFacts((129, 279), 272),
    ("MRPC", "test"): FileFacts(None, 1183),
    ("STS-B", "train"): FileFacts(None, 743),
    ("STS-B", "dev"): FileFacts(None, 305),
    ("STS-B", "test"): FileFacts(None, 150),
    ("MNLI", "dev_matched"): FileFacts((3479, 3123, 3213)),
    ("QNLI", "dev"): FileFacts((2702, 2761), 1530),
    ("QNLI", "test"): FileFacts(None, 1676),
    ("RTE", "train"): FileFacts((1249, 1241), 1443),
    ("RTE", "dev"): FileFacts((146, 131), 155),
    ("RTE", "test"): FileFacts(None, 1559),
    ("WNLI", "train"): FileFacts((323, 312), 58),
    ("WNLI", "dev"): FileFacts((40, 31), 2),
    ("WNLI", "test"): FileFacts(None, 8),
    ("AX", "test"): FileFacts(None, 120),
}
"""By task and split."""

COMMON_TEXTS: dict[tuple[str, str, str], int] = {
    ("CoLA", "train", "dev"): 16,
    ("CoLA", "train", "test"): 19,
    ("CoLA", "dev", "test"): 5,
    ("STS-B", "train", "dev"): 6,
    ("STS-B", "train", "test"): 7,
    ("STS-B", "dev", "test"): 2,
    **{
        (task, *pair): 0
        for task in ("SST-2", "MRPC", "RTE", "WNLI")
        for pair in (("train", "dev"), ("train", "test"), ("dev", "test"))
    },
    ("QNLI", "dev", "test"): 0,
}
"""By task and two splits: distinct texts (pairs, where the task has pairs) that the published files have in common."""

COMMON_PREMISES = frozenset({"WNLI"})
"""The premises of 65 of WNLI's 71 development examples are in its training file, though no pair of texts is."""

MAJORITY_CLASS: dict[str, int] = {"CoLA": 1, "MRPC": 1, "QQP": 0}
"""The class that most training examples have, where it is clearly more than half (70 %, 67 %, 63 %)."""

QUOTED_TWICE_IF_REWRITTEN = frozenset({"QQP"})
"""QQP is published with CSV's quoting inside its texts: of 413 texts with a quotation mark among 9,999 examples, all
stand in quotation marks with those inside doubled. In all other files that were counted, none does."""

LONGER_TEXT: dict[str, int] = {"MNLI": 0, "QNLI": 1, "RTE": 0, "WNLI": 0}
"""Which of two texts is clearly the longer one. Mean characters of training examples: premise and hypothesis 115 and 56
in MNLI (9,999 examples), 266 and 54 in RTE, 105 and 44 in WNLI; a question of QNLI 58, its sentence 165 (9,999)."""
