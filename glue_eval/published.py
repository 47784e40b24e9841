"""Published GLUE scores to stand beside a report's own, each with its source and the files it was measured on.

A development score and a test score are never subtracted from one another: the test files' labels are not public, and
what was chosen on the development files scores higher there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from glue_eval.averages import ADAN_ONCE, ADAN_TWICE, BERT_TABLE, AverageRule


@dataclass(frozen=True)
class PublishedRow:
    """Scores of one model, times 100 as printed, by task and then by `Task.score_names`.

    split: the files they were measured on. statistic: of how many runs, and by which checkpoint. averages: those that
    the source prints, or that its scores give, with the decimals that are known.
    """

    name: str
    split: Literal["dev", "test"]
    statistic: str
    source: str
    scores: Mapping[str, Mapping[str, float]]
    averages: tuple[tuple[AverageRule, float], ...] = ()

    @property
    def title(self) -> str:
        """The name with the mark of its files."""
        return f"{self.name} ({self.split})"

    def delta(self, task: str, score: str, value: float) -> float | None:
        """A development score (a fraction) less this row's, times 100; None for test rows and for missing scores."""
        published = self.scores.get(task, {}).get(score)
        return None if published is None or self.split != "dev" else 100 * value - published


def _mnli(matched: float, mismatched: float) -> dict[str, float]:
    return {"accuracy_matched": matched, "accuracy_mismatched": mismatched}


ADAN_BERT_BASE = PublishedRow(
    "Adan BERT-base",
    "dev",
    "pretrained and fine-tuned with Adan; one run a task, the checkpoint that scores best on these files",
    "github.com/sail-sg/Adan, NLP/BERT/README.md",
    {
        "MNLI": _mnli(85.7, 85.6),
        "QNLI": {"accuracy": 91.3},
        "QQP": {"accuracy": 91.2},
        "RTE": {"accuracy": 73.3},
        "SST-2": {"accuracy": 93.2},
        "CoLA": {"matthews": 64.6},
        "STS-B": {"pearson": 89.3},
    },
    ((ADAN_TWICE, 84.28), (ADAN_ONCE, 84.08)),
)
# Three of its nine rows are checked against other records; the rest stay out.
RUN_GLUE_BERT_BASE = PublishedRow(
    "run_glue BERT-base",
    "dev",
    "bert-base-cased; one run a task, 3 epochs, the last checkpoint",
    "github.com/huggingface/transformers, examples/pytorch/text-classification/README.md",
    {"MNLI": _mnli(83.91, 84.10), "RTE": {"accuracy": 65.70}, "CoLA": {"matthews": 56.53}},
)
BERT_BASE = PublishedRow(
    "BERT-base",
    "test",
    "one submission to the leaderboard, learning rate chosen on the development files",
    "Devlin et al. 2019, table 1",
    {
        "MNLI": _mnli(84.6, 83.4),
        "QQP": {"f1": 71.2},
        "QNLI": {"accuracy": 90.5},
        "SST-2": {"accuracy": 93.5},
        "CoLA": {"matthews": 52.1},
        "STS-B": {"spearman": 85.8},
        "MRPC": {"f1": 88.9},
        "RTE": {"accuracy": 66.4},
    },
    ((BERT_TABLE, 79.6),),
)
BERT_LARGE = PublishedRow(
    "BERT-large",
    "test",
    "one submission to the leaderboard, the best of several restarts on the development files",
    "Devlin et al. 2019, table 1",
    {
        "MNLI": _mnli(86.7, 85.9),
        "QQP": {"f1": 72.1},
        "QNLI": {"accuracy": 92.7},
        "SST-2": {"accuracy": 94.9},
        "CoLA": {"matthews": 60.5},
        "STS-B": {"spearman": 86.5},
        "MRPC": {"f1": 89.3},
        "RTE": {"accuracy": 70.1},
    },
    ((BERT_TABLE, 82.1),),
)

PUBLISHED = (ADAN_BERT_BASE, RUN_GLUE_BERT_BASE, BERT_BASE, BERT_LARGE)
