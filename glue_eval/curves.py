"""The learning curves of a GLUE report: development score and training loss over the epochs, a panel per task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glue_eval.metrics import main_score
from glue_eval.results import CurvePoint, RunResult
from glue_eval.summary import TaskSummary
from nlp_adan.reporting import Image, Note, Paragraph, Section
from nlp_adan.reporting.plots import panel_plot

Points = list[tuple[float, float]]


def curves_section(summaries: Sequence[TaskSummary], mark: str = "") -> Section:
    """A line per seed; `mark` is added to the axis, such as that the tasks are samples."""
    scores = _panels(summaries, lambda summary, point: 100 * main_score(summary.task, point.scores))
    losses = _panels(summaries, lambda summary, point: point.train_loss)
    if not scores:
        return Section("Learning curves", (Note("No run recorded an evaluation along the way."),))
    levels = {
        summary.task.name: 100 * main_score(summary.task, baselines)
        for summary in summaries
        if (baselines := summary.baselines) is not None
    }
    blocks: list[Paragraph | Image] = [
        Paragraph("The mean of a task's scores on the development files, and the training loss since the point before.")
    ]
    svg = panel_plot(scores, f"epochs{mark}", "score (times 100)", levels, "always the majority")
    blocks.append(Image("curves", svg, _in_words("Development scores", scores, 1)))
    if losses:
        svg = panel_plot(losses, f"epochs{mark}", "training loss")
        blocks.append(Image("losses", svg, _in_words("Training losses", losses, 3)))
    return Section("Learning curves", tuple(blocks))


def _panels(
    summaries: Sequence[TaskSummary], height: Callable[[TaskSummary, CurvePoint], float | None]
) -> dict[str, dict[str, Points]]:
    """(epoch, height) by seed, by task; without runs that have no point."""
    found: dict[str, dict[str, Points]] = {}
    for summary in summaries:
        lines = {f"seed {run.seed}": _points(summary, run, height) for run in summary.runs}
        if any(lines.values()):
            found[summary.task.name] = {name: points for name, points in lines.items() if points}
    return found


def _points(summary: TaskSummary, run: RunResult, height: Callable[[TaskSummary, CurvePoint], float | None]) -> Points:
    heights = ((point.epoch, height(summary, point)) for point in run.curve)
    return [(epoch, value) for epoch, value in heights if value is not None]


def _in_words(what: str, panels: dict[str, dict[str, Points]], digits: int) -> str:
    told = [
        f"{task} {', '.join(f'{points[0][1]:.{digits}f} to {points[-1][1]:.{digits}f}' for points in lines.values())}"
        for task, lines in panels.items()
    ]
    return f"{what} of each seed, first to last evaluation: {'; '.join(told)}."
