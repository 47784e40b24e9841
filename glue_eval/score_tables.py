"""Rows of scores as a reader sees them: names of metrics, scores times 100, remarks; and the published rows beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glue_eval.protocol import Protocol
from glue_eval.published import PUBLISHED, PublishedRow
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.statistics import Interval
from glue_eval.summary import Average, ScoreSummary, TaskSummary
from nlp_adan.pretraining.quantities import NOTHING
from nlp_adan.reporting import Column, Note, Paragraph, Section, Table

METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def metric_name(score_name: str) -> str:
    """`accuracy (matched)` for `accuracy_matched`."""
    metric, _, which = score_name.partition("_")
    return METRIC_NAMES[metric] + (f" ({which})" if which else "")


def percent(value: float | None) -> str:
    """A fraction times 100, with one decimal; never `-0.0`."""
    return NOTHING if value is None else f"{100 * value:.1f}".replace("-0.0", "0.0")


def signed(value: float) -> str:
    """A difference of fractions times 100, with its sign."""
    text = percent(value)
    return text if text.startswith("-") else f"+{text}"


def percent_interval(value: Interval | None) -> str:
    """Both ends times 100."""
    return NOTHING if value is None else f"{percent(value.low)} to {percent(value.high)}"


def mean_and_deviation(score: ScoreSummary) -> str:
    """`61.2 ± 0.8`, without the deviation for a single seed."""
    return percent(score.mean) + ("" if score.deviation is None else f" ± {100 * score.deviation:.1f}")


def counted(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def remark(summary: TaskSummary) -> str:
    """What a reader of the row must know: collapsed, failed, partial."""
    collapsed, num_runs = len(summary.collapsed_seeds), len(summary.runs)
    told = []
    if collapsed:
        told.append("collapsed" if num_runs == 1 else f"collapsed {collapsed}/{num_runs}")
    for kind in ("failed", "not run"):
        if number := sum(failure.kind == kind for failure in summary.failures):
            told.append(f"{kind} {number}/{num_runs + len(summary.failures)}")
    if summary.partial:
        told.append("partial data")
    if summary.starts:
        told.append("from MNLI")
    return ", ".join(told)


def incomparable(summary: TaskSummary, protocol: Protocol) -> str:
    """Why a task's scores cannot stand beside published ones; empty where they can."""
    if protocol.is_sample:
        return SAMPLE_NOTICE
    if not summary.is_glue:
        return "not a GLUE task"
    if summary.partial:
        return f"partial data ({', '.join(summary.partial)})"
    if summary.starts:
        return "it started from an MNLI model, which is another protocol"
    return ""


def comparable_rows(summaries: Sequence[TaskSummary], protocol: Protocol) -> list[PublishedRow]:
    """The published rows that have a score of some task that can be compared."""
    tasks = {summary.task.name for summary in summaries if not incomparable(summary, protocol)}
    return [row for row in PUBLISHED if tasks & set(row.scores)]


def deltas(summary: TaskSummary, score: ScoreSummary, protocol: Protocol) -> dict[str, float]:
    """By the titles of the published development rows: the median less their score, times 100."""
    if incomparable(summary, protocol):
        return {}
    found = {row.title: row.delta(summary.task.name, score.name, score.median) for row in PUBLISHED}
    return {title: value for title, value in found.items() if value is not None}


def score_table(summaries: Sequence[TaskSummary], failed: Mapping[str, str], protocol: Protocol) -> Table:
    """The table of scores; `failed`: by name the tasks without any result, and what became of them."""
    dev_rows = [row for row in comparable_rows(summaries, protocol) if row.split == "dev"]
    heads = ("Task", "Metric", "Median", "Mean ± SD", "Best", "n", "Majority")
    columns = [Column(head, "left" if head in ("Task", "Metric") else "right") for head in heads]
    columns += [Column(f"Δ {row.title}", "right") for row in dev_rows]
    rows = []
    for summary in summaries:
        for score in summary.scores:
            found = deltas(summary, score, protocol)
            rows.append((
                summary.task.name,
                metric_name(score.name),
                percent(score.median),
                mean_and_deviation(score),
                percent(score.best),
                str(len(score.values)),
                percent(score.baseline),
                *(f"{found[row.title]:+.1f}" if row.title in found else NOTHING for row in dev_rows),
                remark(summary),
            ))  # fmt: skip
    empty = (NOTHING,) * (len(columns) - 1)
    rows += [(name, *empty, what) for name, what in failed.items()]
    return Table((*columns, Column("Remark")), tuple(rows))


def published_section(summaries: Sequence[TaskSummary], found: Sequence[Average], protocol: Protocol) -> Section:
    """This report's medians beside the published rows, development rows with their differences, and the sources."""
    title = "Beside published numbers"
    reasons = {summary.task.name: incomparable(summary, protocol) for summary in summaries}
    rows = comparable_rows(summaries, protocol)
    if not rows:
        why = sorted({reason for reason in reasons.values() if reason}) or ["no published row has these tasks"]
        return Section(title, (Note(f"Nothing is compared: {'; '.join(why)}."),))
    body = []
    for summary in summaries:
        for score in summary.scores if not reasons[summary.task.name] else ():
            published = [row.scores.get(summary.task.name, {}).get(score.name) for row in rows]
            if any(value is not None for value in published):
                cells = [_beside(row, value, score.median) for row, value in zip(rows, published, strict=True)]
                body.append((summary.task.name, metric_name(score.name), percent(score.median), *cells))
    means = []
    for average in found:
        known = [{rule.name: value for rule, value in row.averages}.get(average.name) for row in rows]
        if any(value is not None for value in known) and not any(reasons[task] for task in average.rule.tasks):
            cells = [_beside(row, value, average.value) for row, value in zip(rows, known, strict=True)]
            means.append((average.name, percent(average.value), *cells))
    here = (Column("Here", "right"), *(Column(row.title, "right") for row in rows))
    tables = [Table((Column("Task"), Column("Metric"), *here), tuple(body))]
    if means:
        tables.append(Table((Column("Average"), *here), tuple(means)))
    sources = tuple((row.title, row.statistic, row.source) for row in rows)
    told = (
        f"Here: the median of the runs, {_checkpoint(protocol)}, on the development files. A published row is a single "
        "run, so that a difference holds the luck of that one run beside all else that differs. In brackets: the "
        "difference, for rows measured on the development files only; rows on the test files are shown without."
    )
    excluded = [f"{task}: {reason}" for task, reason in reasons.items() if reason]
    return Section(title, (
        *tables,
        Paragraph(told),
        *([Note(f"Not compared: {'; '.join(excluded)}.")] if excluded else []),
        Table((Column("Row"), Column("What it is"), Column("Source")), sources),
    ))  # fmt: skip


def _beside(row: PublishedRow, value: float | None, ours: float) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1f} ({100 * ours - value:+.1f})" if row.split == "dev" else f"{value:.1f}"


def _checkpoint(protocol: Protocol) -> str:
    return "at the last step" if protocol.checkpoint == "last" else "at the step that scored best on these very files"
