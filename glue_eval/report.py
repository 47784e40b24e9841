"""The GLUE report: from the results of the runs to report.md, report.html, report.json, table.tex, model-index.yaml
and plots, and a table on the console.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glue_eval.curves import curves_section
from glue_eval.latex import latex_table
from glue_eval.metrics import main_score
from glue_eval.model_index import model_index
from glue_eval.protocol import Failure, Protocol
from glue_eval.report_sections import (
    averages_section,
    cost_section,
    diagnostics_section,
    intervals_section,
    protocol_section,
    troubles_section,
)
from glue_eval.results import RunResult
from glue_eval.sample_tasks import SAMPLE_NOTICE, is_sample_folder
from glue_eval.score_tables import (
    counted,
    deltas,
    mean_and_deviation,
    metric_name,
    percent,
    percent_interval,
    published_section,
    remark,
    score_table,
)
from glue_eval.statistics import CONFIDENCE, NUM_RESAMPLES
from glue_eval.submission import submission_note
from glue_eval.summary import Average, ScoreSummary, TaskSummary, averages, summarize
from nlp_adan.pretraining.quantities import NOTHING
from nlp_adan.reporting import Document, Image, Note, Paragraph, Section, write_report
from nlp_adan.reporting.facts import environment_section
from nlp_adan.reporting.plots import dot_plot
from nlp_adan.storage import write_text
from nlp_adan.training.environment import environment

CONSOLE_COLUMNS = ("Task", "Metric", "Median", "Majority", "SD", "Best", "n", "Remark")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report is made of. `averages` is empty where no run has a result, else its first heads the report.

    `submission`: what submission.zip in the report's folder holds, and which of its files are constants; None without.
    """

    protocol: Protocol
    summaries: tuple[TaskSummary, ...]
    averages: tuple[Average, ...]
    failures: tuple[Failure, ...]
    environment: Mapping[str, Any]
    submission: str | None = None

    @property
    def without_result(self) -> dict[str, str]:
        """The tasks of which no run has a result, with what became of their runs."""
        found = {summary.task.name for summary in self.summaries}
        kinds = {
            failure.task: failure.kind
            for failure in sorted(self.failures, key=lambda failure: failure.kind == "failed")
        }
        return {task.name: kinds.get(task.name, "not run") for task in self.protocol.tasks if task.name not in found}

    def names_of(self, kind: str) -> list[str]:
        """The tasks of which some run has failed, or has not run."""
        names = {failure.task for failure in self.failures if failure.kind == kind}
        return [task.name for task in self.protocol.tasks if task.name in names]

    @property
    def mark(self) -> str:
        """What stands behind every title where the tasks are samples."""
        return f" ({SAMPLE_NOTICE})" if self.protocol.is_sample else ""


def write_glue_report(
    folder: Path, results: Sequence[RunResult], *, protocol: Protocol, failures: Sequence[Failure] = ()
) -> Document:
    """Write all files into `folder`, report.json last, and print the table of scores.

    Args:
        folder: Where the files go, and where the runs' folders with their predictions are (`TASK/seed-SEED-.../`);
            without the predictions there are no intervals.
        results: All runs that have a result, of any tasks and seeds of the protocol, in any order.
        protocol: How they were done. A folder that holds the sample tasks is recognized without its mark.
        failures: The runs that have none.

    Returns:
        The document that was written.

    Raises:
        ValueError: Neither results nor failures, a result without a score of its task, or of another task.
        UserError: A file of predictions is damaged.
    """
    if not results and not failures:
        raise ValueError("no run to report")
    is_sample = protocol.is_sample or is_sample_folder(Path(protocol.data))
    protocol = dataclasses.replace(protocol, is_sample=is_sample)
    summaries = tuple(summarize(results, protocol, failures, folder))
    found = tuple(averages(summaries, is_sample)) if summaries else ()
    where, submission = protocol.environment or environment(), submission_note(folder)
    report = Report(protocol, summaries, found, tuple(failures), where, submission)
    document = make_document(report)
    write_text(folder / "table.tex", make_latex(report))
    write_text(folder / "model-index.yaml", model_index(summaries, protocol))
    write_report(folder, document, make_data(report))
    print_scores(report, document)
    return document


def make_document(report: Report) -> Document:
    """The report as a document."""
    summaries, protocol = report.summaries, report.protocol
    sections = [
        _scores_section(report),
        *troubles_section(summaries, report.failures),
    ]
    if summaries:
        sections += [
            averages_section(report.averages),
            published_section(summaries, report.averages, protocol),
            intervals_section(summaries, report.mark),
            curves_section(summaries, report.mark),
            *diagnostics_section(summaries),
        ]
    if report.submission is not None:
        sections.append(Section("Submission", (Note(report.submission),)))
    sections += [protocol_section(summaries, protocol), cost_section(summaries)]
    sections.append(environment_section(report.environment))
    return Document(f"GLUE: {protocol.model}{report.mark}", verdict(report), tuple(sections))


def make_data(report: Report) -> dict[str, Any]:
    """The report for programs: scores as fractions, every run, protocol and environment.

    Two equal sweeps differ under the keys `timing` and `environment` only.
    """
    protocol = report.protocol.to_json()
    del protocol["environment"]
    means = [_average_data(mean) for mean in report.averages]
    return {
        "is_sample": report.protocol.is_sample,
        "data_kind": SAMPLE_NOTICE if report.protocol.is_sample else "GLUE files",
        "protocol": protocol,
        "average": means[0] if means else None,
        "averages": means,
        "tasks": {summary.task.name: _task_data(summary, report.protocol) for summary in report.summaries},
        "failures": [failure.to_json() for failure in report.failures],
        "bootstrap": {"resamples": NUM_RESAMPLES, "confidence": CONFIDENCE},
        "submission": report.submission,
        "runs": [run.to_json() for summary in report.summaries for run in summary.runs],
        "environment": dict(report.environment),
    }


def verdict(report: Report) -> str:
    """One line: the average by name, on how many tasks the model learnt anything, and what to mind."""
    summaries = report.summaries
    minded = [
        ("collapsed runs", [summary.task.name for summary in summaries if summary.collapsed_seeds]),
        ("failed runs", report.names_of("failed")),
        ("not run yet", report.names_of("not run")),
        ("partial data", [summary.task.name for summary in summaries if summary.partial]),
    ]
    line = _in_numbers(report) if summaries else f"No result of {counted(len(report.failures), 'run')}"
    line += "".join(f"; {what}: {', '.join(names)}" for what, names in minded if names)
    return f"{_capital(SAMPLE_NOTICE)}. {line}." if report.protocol.is_sample else f"{line}."


def _in_numbers(report: Report) -> str:
    summaries, mean = report.summaries, report.averages[0]
    num_seeds = {len(summary.runs) for summary in summaries}
    seeds = f"{min(num_seeds)} to {max(num_seeds)} seeds" if len(num_seeds) > 1 else counted(num_seeds.pop(), "seed")
    learnt = [summary for summary in summaries if summary.has_learnt]
    line = f"{_capital(mean.name)} {percent(mean.value)} on the development files ({seeds} per task"
    line += f"; always answering the majority gives {percent(mean.baseline)})" if mean.baseline is not None else ")"
    interval = " with the whole 95 % interval" if all(summary.has_resamples for summary in summaries) else ""
    return f"{line}; above the majority baseline{interval} on {len(learnt)} of {counted(len(summaries), 'task')}"


def print_scores(report: Report, document: Document) -> None:
    """Print title, table and verdict on the console, coloured where it can be."""
    from rich.console import Console
    from rich.table import Table as ConsoleTable
    from rich.text import Text

    table = ConsoleTable(title=Text(document.title), title_justify="left")
    for name in CONSOLE_COLUMNS:
        table.add_column(name, justify="left" if name in ("Task", "Metric", "Remark") else "right", overflow="fold")
    for row in _console_rows(report):
        table.add_row(*(Text(cell) for cell in row), style="yellow" if "collapsed" in row[-1] else None)
    console = Console()
    console.print(table)
    console.print(Text(document.summary))


def _console_rows(report: Report) -> list[tuple[str, ...]]:
    rows = [
        (
            summary.task.name,
            metric_name(score.name),
            *(percent(value) for value in (score.median, score.baseline, score.deviation, score.best)),
            str(len(score.values)),
            remark(summary),
        )
        for summary in report.summaries
        for score in summary.scores
    ]
    rows += [(name, *(NOTHING,) * (len(CONSOLE_COLUMNS) - 2), what) for name, what in report.without_result.items()]
    for mean in report.averages[:1]:
        cells = (percent(mean.value), percent(mean.baseline), NOTHING, NOTHING, "", "")
        rows.append((mean.name, "mean of medians", *cells))
    return rows


def _scores_section(report: Report) -> Section:
    summaries, protocol = report.summaries, report.protocol
    blocks: list[Any] = []
    if protocol.is_sample:
        blocks.append(Note(f"These scores are on {SAMPLE_NOTICE}: they cannot be compared with GLUE scores."))
    if protocol.mnli_model is not None and any(summary.starts for summary in summaries):
        names = ", ".join(summary.task.name for summary in summaries if summary.starts)
        blocks.append(Note(f"{names} started from the MNLI model {protocol.mnli_model}, not from the pretrained one."))
    meaning = (
        "Development files; fractions times 100. Median, mean, SD (sample standard deviation) and best are over n "
        "seeds. Majority: always answering the commonest development label, or one constant score. Collapsed: the "
        "predictions of that many runs are constant, so that their scores say nothing."
    )
    table = score_table(summaries, report.without_result, protocol)
    if any(column.name.startswith("Δ") for column in table.columns):
        meaning += " Δ: the median less the development score of a published row, which is that of a single run."
    blocks += [table, Paragraph(meaning)]
    if summaries:
        blocks.append(_score_plot(report))
    return Section("Scores", tuple(blocks))


def _score_plot(report: Report) -> Image:
    rows, marks = {}, {}
    for summary in report.summaries:
        for score in summary.scores:
            name = f"{summary.task.name} {metric_name(score.name)}"
            rows[name] = [100 * value for value in score.values]
            if score.baseline is not None:
                marks[name] = 100 * score.baseline
    alt = "; ".join(f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in rows.items())
    svg = dot_plot(rows, "score (times 100)", f"Each run's scores{report.mark}", marks, "always the majority")
    return Image("scores", svg, f"Dots, one per run. {alt}.")


def make_latex(report: Report) -> str:
    """table.tex: a row per score, and the averages below."""
    heads = ("Task", "Metric", "Median", "Mean ± SD", "95 % over examples", "Best", "n")

    def row(summary: TaskSummary, score: ScoreSummary) -> tuple[str, ...]:
        cells = (percent(score.median), mean_and_deviation(score), percent_interval(score.interval))
        return (summary.task.name, metric_name(score.name), *cells, percent(score.best), str(len(score.values)))

    rows = [row(summary, score) for summary in report.summaries for score in summary.scores]
    means = [(mean.name, "", percent(mean.value), "", percent_interval(mean.interval), "", "")
             for mean in report.averages]  # fmt: skip
    groups = [group for group in (rows, means) if group]
    caption = f"GLUE development scores times 100 of {report.protocol.model}{report.mark}"
    return latex_table(heads, groups, caption, num_left=2)


def _average_data(mean: Average) -> dict[str, Any]:
    found = None if mean.interval is None else mean.interval.to_json()
    return {
        "name": mean.name,
        "definition": mean.rule.definition,
        "value": mean.value,
        "baseline": mean.baseline,
        "interval": found,
    }


def _task_data(summary: TaskSummary, protocol: Protocol) -> dict[str, Any]:
    return {
        "main_score": main_score(summary.task, summary.medians),
        "collapsed_seeds": list(summary.collapsed_seeds),
        "failed_seeds": [failure.seed for failure in summary.failures],
        "partial": list(summary.partial),
        "started_from": list(summary.starts),
        "scores": {
            score.name: {
                "median": score.median,
                "mean": score.mean,
                "standard_deviation": score.deviation,
                "best": score.best,
                "n": len(score.values),
                "values": list(score.values),
                "baseline": score.baseline,
                "interval": None if score.interval is None else score.interval.to_json(),
                "deltas": {title: round(value, 4) for title, value in deltas(summary, score, protocol).items()},
            }
            for score in summary.scores
        },
    }


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
