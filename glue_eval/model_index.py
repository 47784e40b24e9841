"""The scores as the `model-index` of a model card on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glue_eval.protocol import Protocol
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.score_tables import counted, metric_name, remark
from glue_eval.summary import TaskSummary
from glue_eval.tasks import SplitFile, Task

# The names under which the hub knows the metrics.
METRIC_TYPES = {
    "accuracy": "accuracy",
    "f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}


def model_index(summaries: Sequence[TaskSummary], protocol: Protocol) -> str:
    """YAML to put at the head of a README.md: one entry per task and score, values as fractions."""
    from huggingface_hub import ModelCardData  # not cheap to import, and a report is written once

    found = [
        _evaluation(summary, split, score, protocol)
        for summary in summaries
        for split in summary.task.dev_splits
        for score in summary.scores
        if score.name in {summary.task.score_name(split, metric) for metric in summary.task.metrics}
    ]
    name = Path(protocol.model).name or protocol.model
    card = ModelCardData(model_name=name, eval_results=found)
    return str(card.to_yaml()) + "\n"


def _evaluation(summary: TaskSummary, split: SplitFile, score: Any, protocol: Protocol) -> Any:
    from huggingface_hub import EvalResult

    kind, config = _dataset(summary, protocol)
    what = f"{metric_name(score.name)}, median of {counted(len(score.values), 'seed')}"
    if told := remark(summary):
        what += f" ({told})"
    return EvalResult(
        task_type="text-classification",
        task_name=summary.task.name,
        dataset_type=kind,
        dataset_name=f"{summary.task.name} ({SAMPLE_NOTICE})" if protocol.is_sample else _dataset_name(summary),
        dataset_config=config,
        dataset_split=split.name.replace("dev", "validation"),
        metric_type=METRIC_TYPES[score.name.partition("_")[0]],
        metric_name=what,
        metric_value=round(score.median, 6),
    )


def _dataset(summary: TaskSummary, protocol: Protocol) -> tuple[str, str | None]:
    """The data set's name on the hub and its configuration; scores on anything else never bear GLUE's name."""
    if protocol.is_sample or not summary.is_glue:
        return summary.task.name, None
    return "nyu-mll/glue", hub_config(summary.task)


def _dataset_name(summary: TaskSummary) -> str:
    return f"GLUE {summary.task.name}" if summary.is_glue else summary.task.name


def hub_config(task: Task) -> str:
    """A GLUE task's name on the hub: `sst2` for SST-2."""
    return task.name.lower().replace("-", "")
