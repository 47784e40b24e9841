"""The GLUE report: from the results of the runs to report.md, report.html, report.json and a table on the console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glue_eval.metrics import main_score
from glue_eval.results import RunResult
from glue_eval.sample_tasks import SAMPLE_NOTICE, is_sample_folder
from glue_eval.summary import Average, ScoreSummary, TaskSummary, average, summarize
from nlp_adan.reporting import Column, Document, Image, Note, Paragraph, Section, Table, write_report
from nlp_adan.reporting.facts import environment_section, facts_table
from nlp_adan.reporting.plots import dot_plot
from nlp_adan.training.environment import environment

METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
NOTHING = "-"  # a cell without a value
SCORE_COLUMNS = (
    Column("Task"),
    Column("Metric"),
    Column("Median", "right"),
    Column("Majority", "right"),
    Column("SD", "right"),
    Column("Best", "right"),
    Column("n", "right"),
    Column("Remark"),
)


def write_glue_report(
    folder: Path,
    results: Sequence[RunResult],
    *,
    model: str,
    data: str,
    recipe: str,
    is_sample: bool = False,
) -> Document:
    """Write the three files into `folder` and print the table of scores.

    Args:
        folder: Where report.md, report.html and report.json go.
        results: All runs, of any tasks and seeds, in any order; at least one.
        model: The folder or name of the model that was fine-tuned.
        data: The GLUE folder.
        recipe: The name of the settings.
        is_sample: Whether the data are the sample tasks; a folder that holds them is recognized without it.

    Returns:
        The document that was written.

    Raises:
        ValueError: No results, or one without a score of its task.
    """
    summaries = summarize(results)
    is_sample = is_sample or is_sample_folder(Path(data))
    mean = average(summaries, is_sample)
    where = environment()
    document = make_document(summaries, mean, where, model=model, data=data, recipe=recipe, is_sample=is_sample)
    values = make_data(summaries, mean, where, model=model, data=data, recipe=recipe, is_sample=is_sample)
    write_report(folder, document, values)
    print_scores(summaries, mean, document)
    return document


def make_document(
    summaries: Sequence[TaskSummary],
    mean: Average,
    where: dict[str, Any],
    *,
    model: str,
    data: str,
    recipe: str,
    is_sample: bool,
) -> Document:
    """The report as a document; `where` is `environment()`'s answer."""
    rows = _score_rows(summaries, mean)
    notes = (
        [Note(f"These scores are on {SAMPLE_NOTICE}: they cannot be compared with GLUE scores.")] if is_sample else []
    )
    meaning = Paragraph(
        "Development files, after the last step; fractions times 100. Median, SD (sample standard deviation) and best "
        "are over n seeds. Majority: always answering the commonest development label, or one constant score. "
        "Collapsed: the predictions of that many runs are constant, so that their scores say nothing."
    )
    return Document(
        title=f"GLUE: {model}" + (f" ({SAMPLE_NOTICE})" if is_sample else ""),
        summary=verdict(summaries, mean, is_sample),
        sections=(
            Section("Scores", (*notes, Table(SCORE_COLUMNS, tuple(rows)), meaning, _score_plot(summaries, is_sample))),
            _protocol(summaries, model=model, data=data, recipe=recipe, is_sample=is_sample),
            _cost(summaries),
            environment_section(where),
        ),
    )


def make_data(
    summaries: Sequence[TaskSummary],
    mean: Average,
    where: dict[str, Any],
    *,
    model: str,
    data: str,
    recipe: str,
    is_sample: bool,
) -> dict[str, Any]:
    """The report for programs: scores as fractions, every run, protocol and environment."""
    return {
        "is_sample": is_sample,
        "data_kind": SAMPLE_NOTICE if is_sample else "GLUE files",
        "model": model,
        "data": data,
        "recipe": recipe,
        "average": {"name": mean.name, "value": mean.value, "baseline": mean.baseline},
        "tasks": {summary.task.name: _task_data(summary) for summary in summaries},
        "runs": [run.to_json() for summary in summaries for run in summary.runs],
        "environment": where,
    }


def verdict(summaries: Sequence[TaskSummary], mean: Average, is_sample: bool) -> str:
    """One line: the average by name, on how many tasks the model learnt anything, and which collapsed."""
    num_seeds = {len(summary.runs) for summary in summaries}
    seeds = f"{min(num_seeds)} to {max(num_seeds)} seeds" if len(num_seeds) > 1 else _count(num_seeds.pop(), "seed")
    learnt = [summary for summary in summaries if summary.has_learnt]
    line = f"{mean.name[0].upper()}{mean.name[1:]} {_percent(mean.value)} ({seeds} per task"
    line += f"; always answering the majority gives {_percent(mean.baseline)})" if mean.baseline is not None else ")"
    line += f"; above the majority baseline on {len(learnt)} of {_count(len(summaries), 'task')}"
    collapsed = [summary.task.name for summary in summaries if summary.collapsed_seeds]
    line += f"; collapsed runs: {', '.join(collapsed)}." if collapsed else "."
    return f"{SAMPLE_NOTICE[0].upper()}{SAMPLE_NOTICE[1:]}. {line}" if is_sample else line


def print_scores(summaries: Sequence[TaskSummary], mean: Average, document: Document) -> None:
    """Print title, table and verdict on the console, coloured where it can be."""
    from rich.console import Console
    from rich.table import Table as ConsoleTable
    from rich.text import Text

    table = ConsoleTable(title=Text(document.title), title_justify="left")
    for column in SCORE_COLUMNS:
        table.add_column(column.name, justify=column.align)
    for row in _score_rows(summaries, mean):
        table.add_row(*(Text(cell) for cell in row), style="yellow" if "collapsed" in row[-1] else None)
    console = Console()
    console.print(table)
    console.print(Text(document.summary))


def _score_rows(summaries: Sequence[TaskSummary], mean: Average) -> list[tuple[str, ...]]:
    rows = [_score_row(summary, score) for summary in summaries for score in summary.scores]
    last = (mean.name, "mean of medians", _percent(mean.value), _percent(mean.baseline), NOTHING, NOTHING, "", "")
    return [*rows, last]


def _score_row(summary: TaskSummary, score: ScoreSummary) -> tuple[str, ...]:
    collapsed, num_runs = len(summary.collapsed_seeds), len(summary.runs)
    remark = ""
    if collapsed:
        remark = "collapsed" if num_runs == 1 else f"collapsed {collapsed}/{num_runs}"
    return (
        summary.task.name,
        _metric_name(score.name),
        _percent(score.median),
        _percent(score.baseline),
        _percent(score.deviation),
        _percent(score.best),
        str(len(score.values)),
        remark,
    )


def _score_plot(summaries: Sequence[TaskSummary], is_sample: bool) -> Image:
    rows, marks = {}, {}
    for summary in summaries:
        for score in summary.scores:
            name = f"{summary.task.name} {_metric_name(score.name)}"
            rows[name] = [100 * value for value in score.values]
            if score.baseline is not None:
                marks[name] = 100 * score.baseline
    title = f"Each run's scores ({SAMPLE_NOTICE})" if is_sample else "Each run's scores"
    alt = "; ".join(f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in rows.items())
    svg = dot_plot(rows, "score (times 100)", title, marks, "always the majority")
    return Image("scores", svg, f"Dots, one per run. {alt}.")


def _protocol(summaries: Sequence[TaskSummary], *, model: str, data: str, recipe: str, is_sample: bool) -> Section:
    runs = [run for summary in summaries for run in summary.runs]
    facts = [
        ("Model", model),
        ("Data", f"{data} ({SAMPLE_NOTICE})" if is_sample else data),
        ("Recipe", recipe),
        ("Seeds", ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))),
        ("Checkpoint", "the last step's; none is chosen by its development score"),
    ]
    names = ("Task", "Optimizer", "Learning rate", "Batch", "Epochs", "Steps", "Tokens at most", "Train", "Dev")
    rows = []
    for summary in summaries:
        run = summary.runs[0]
        epochs = NOTHING if run.epochs is None else f"{run.epochs:g}"
        length = NOTHING if run.max_length is None else str(run.max_length)
        counts = (str(run.batch_size), epochs, str(run.steps), length, str(run.num_train), str(run.num_dev))
        rows.append((summary.task.name, run.optimizer, f"{run.learning_rate:g}", *counts))
    columns = tuple(Column(name, "left" if name in ("Task", "Optimizer") else "right") for name in names)
    blocks = [facts_table(facts), Table(columns, tuple(rows))]
    by_settings: dict[str, list[str]] = {}
    for summary in summaries:
        if settings := summary.runs[0].settings:
            text = ", ".join(f"{key} {value}" for key, value in settings.items())
            by_settings.setdefault(text, []).append(summary.task.name)
    further = [
        (text, "all" if len(names) == len(summaries) else ", ".join(names)) for text, names in by_settings.items()
    ]
    return Section("Protocol", (*blocks, *([facts_table(further, ("Further settings", "Tasks"))] if further else [])))


def _cost(summaries: Sequence[TaskSummary]) -> Section:
    columns = (Column("Task"), Column("Runs", "right"), Column("Steps", "right"), Column("Seconds", "right"))
    rows = [
        (
            summary.task.name,
            str(len(summary.runs)),
            str(sum(run.steps for run in summary.runs)),
            f"{sum(run.seconds for run in summary.runs):.1f}",
        )
        for summary in summaries
    ]
    totals = tuple(f"{sum(float(row[place]) for row in rows):.{place // 3}f}" for place in (1, 2, 3))
    return Section("Cost", (Table(columns, (*rows, ("all", *totals)), "Wall time of training and scoring."),))


def _task_data(summary: TaskSummary) -> dict[str, Any]:
    return {
        "main_score": main_score(summary.task, summary.medians),
        "collapsed_seeds": list(summary.collapsed_seeds),
        "scores": {
            score.name: {
                "median": score.median,
                "standard_deviation": score.deviation,
                "best": score.best,
                "n": len(score.values),
                "values": list(score.values),
                "baseline": score.baseline,
            }
            for score in summary.scores
        },
    }


def _metric_name(score_name: str) -> str:
    """`accuracy (matched)` for `accuracy_matched`."""
    metric, _, which = score_name.partition("_")
    return METRIC_NAMES[metric] + (f" ({which})" if which else "")


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
