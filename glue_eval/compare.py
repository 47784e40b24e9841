"""`python -m glue_eval report A B C --output_dir DIR`: several models side by side, each against the first."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glue_eval.differences import (
    HIGHER,
    LOWER,
    NONE_SHOWN,
    NOT_COMPARED,
    Difference,
    Side,
    differences,
    make_sides,
    protocol_differences,
)
from glue_eval.latex import latex_table
from glue_eval.output_folder import check_comparison_folder, told_if_unwritable
from glue_eval.recorded import Recorded, read_recorded
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.score_tables import counted, mean_and_deviation, metric_name, remark, signed
from glue_eval.statistics import CONFIDENCE, NUM_RESAMPLES
from glue_eval.summary import ScoreSummary
from nlp_adan.errors import UserError
from nlp_adan.pretraining.quantities import NOTHING
from nlp_adan.reporting import Column, Document, Image, Note, Paragraph, Section, Table, write_report
from nlp_adan.reporting.facts import environment_section
from nlp_adan.reporting.plots import interval_plot
from nlp_adan.storage import write_text
from nlp_adan.training.environment import environment


@dataclass(frozen=True)
class Comparison:
    """The reports, the first of which the others are compared with, and the differences of each of the others."""

    sides: tuple[Side, ...]
    found: tuple[tuple[Difference, ...], ...]
    protocols: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def others(self) -> list[tuple[Side, tuple[Difference, ...]]]:
        """Each report but the first, with its differences."""
        return list(zip(self.sides[1:], self.found, strict=True))

    @property
    def is_sample(self) -> bool:
        """Whether any of the reports is on the sample tasks."""
        return any(side.protocol.is_sample for side in self.sides)

    @property
    def mark(self) -> str:
        """What stands behind every title where tasks are samples."""
        return f" ({SAMPLE_NOTICE})" if self.is_sample else ""


def write_comparison(folder: Path, reports: Sequence[Path]) -> Document:
    """Compare the sweeps in the folders `reports`, two at least, and write report.md, .html, .json and table.tex.

    Args:
        folder: Where the files go; not one of the reports' own folders.
        reports: What `python -m glue_eval --output_dir` filled; the others are compared with the first.

    Raises:
        UserError: A folder holds no sweep or is given twice, none of its runs has a result, or `folder` is one of them
            or another sweep's.
    """
    places = [path.resolve() for path in reports]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UserError(f"{reports[number]} is given twice: name the folders of different sweeps")
    if folder.resolve() in places:
        raise UserError(f"--output_dir: {folder} holds the report of one of them: give another folder")
    check_comparison_folder(folder)
    recorded = [read_recorded(path) for path in reports]
    for each in recorded:
        if not each.results:
            raise UserError(f"{each.folder}: none of its runs ({len(each.failures)}) has a result yet")
    comparison = compare(recorded)
    command = ["python", "-m", "glue_eval", "report", *map(str, reports), "--output_dir", str(folder)]
    document = make_document(comparison, {**environment(), "command": shlex.join(command)})
    with told_if_unwritable(folder):
        write_text(folder / "table.tex", make_latex(comparison))
        write_report(folder, document, make_data(comparison))
    return document


def compare(recorded: Sequence[Recorded]) -> Comparison:
    """All that is to be said of them."""
    sides = make_sides(recorded)
    found = tuple(tuple(differences(sides[0], other)) for other in sides[1:])
    return Comparison(tuple(sides), found, tuple(protocol_differences(sides)))


def make_document(comparison: Comparison, where: dict[str, Any]) -> Document:
    """The comparison as a document."""
    labels = [side.label for side in comparison.sides]
    title = f"GLUE: {' / '.join(labels)}{comparison.mark}"
    sections = [_protocol_section(comparison), _scores_section(comparison), _reading_section(comparison)]
    sections += [_differences_section(comparison, *other) for other in comparison.others]
    sections += [_reports_section(comparison), environment_section(where)]
    return Document(title, verdict(comparison), tuple(sections))


def verdict(comparison: Comparison) -> str:
    """One line: for each of the others, how many scores differ from the first's, and by how much on average."""
    told = []
    for side, found in comparison.others:
        scores = [each for each in found if each.score is not None]
        counts = []
        for what in (HIGHER, LOWER, NONE_SHOWN, NOT_COMPARED):
            if number := sum(each.shows == what for each in scores):
                in_every_seed = sum(each.shows == what and each.seeds == f"all {what}" for each in scores)
                seeds = f" (with every seed on {in_every_seed})" if what in (HIGHER, LOWER) else ""
                counts.append(f"{what} on {number}{seeds}")
        means = [each for each in found if each.score is None]
        text = f"{side.label} against {comparison.sides[0].label}: "
        text += f"{', '.join(counts)} of {counted(len(scores), 'score')}" if scores else "no task in common"
        if means:
            text += f"; {means[0].task} {signed(means[0].value)}"
            text += f" ({_interval(means[0])})" if means[0].interval else ""
        told.append(text)
    line = ". ".join(told) + "."
    return f"{SAMPLE_NOTICE[0].upper()}{SAMPLE_NOTICE[1:]}. {line}" if comparison.is_sample else line


def make_data(comparison: Comparison) -> dict[str, Any]:
    """The comparison for programs; fractions."""
    return {
        "is_sample": comparison.is_sample,
        "bootstrap": {"resamples": NUM_RESAMPLES, "confidence": CONFIDENCE, "paired": True, "statistic": "mean"},
        "reports": [
            {
                "label": side.label,
                "folder": str(side.recorded.folder),
                "model": side.protocol.model,
                "scores": {
                    task: {
                        score.name: {"mean": score.mean, "standard_deviation": score.deviation, "median": score.median,
                                     "values": list(score.values)}
                        for score in summary.scores
                    }
                    for task, summary in side.summaries.items()
                },
            }
            for side in comparison.sides
        ],
        "protocol_differences": [
            {"what": what, "tasks": tasks, "values": list(values)} for what, tasks, values in comparison.protocols
        ],
        "differences": {side.label: [each.to_json() for each in found] for side, found in comparison.others},
    }  # fmt: skip


def make_latex(comparison: Comparison) -> str:
    """table.tex: a row per score with each report's mean and the differences, and the averages' differences below."""
    heads = ["Task", "Metric"]
    heads += [side.label for side in comparison.sides]
    heads += [f"{side.label} - {comparison.sides[0].label}" for side, _ in comparison.others]
    by_name = [{(each.task, each.score): each for each in found} for found in comparison.found]

    def difference(found: Difference | None) -> str:
        return NOTHING if found is None else f"{signed(found.value)} ({_interval(found)})"

    rows = []
    for task, name, cells in _score_rows(comparison):
        rows.append((task, metric_name(name), *cells, *(difference(each.get((task, name))) for each in by_name)))
    blank = ("",) * (1 + len(comparison.sides))
    averages = dict.fromkeys(each.task for found in comparison.found for each in found if each.score is None)
    means = [(name, *blank, *(difference(each.get((name, None))) for each in by_name)) for name in averages]
    caption = f"GLUE development scores times 100, mean and SD over seeds, 95 % over examples{comparison.mark}"
    return latex_table(heads, [group for group in (rows, means) if group], caption, num_left=2)


def _protocol_section(comparison: Comparison) -> Section:
    """What is not alike, before any score."""
    blocks: list[Any] = []
    if comparison.is_sample:
        blocks.append(Note(f"These scores are on {SAMPLE_NOTICE}: they cannot be compared with GLUE scores."))
    if not comparison.protocols:
        blocks.append(Paragraph("All runs were done alike, but for the model."))
        return Section("Protocol", tuple(blocks))
    columns = (Column("What differs"), Column("Tasks"), *(Column(side.label) for side in comparison.sides))
    rows = tuple((what, tasks, *values) for what, tasks, values in comparison.protocols)
    blocks += [
        Note("The runs were not done alike. A difference of scores may come from any of these, not from the model:"),
        Table(columns, rows),
    ]
    return Section("Protocol", tuple(blocks))


def _scores_section(comparison: Comparison) -> Section:
    columns = (
        Column("Task"),
        Column("Metric"),
        *(Column(side.label, "right") for side in comparison.sides),
        Column("Remark"),
    )
    rows = []
    for task, name, cells in _score_rows(comparison):
        told = [
            f"{side.label}: {text}"
            for side in comparison.sides
            if task in side.summaries and (text := remark(side.summaries[task]))
        ]
        rows.append((task, metric_name(name), *cells, "; ".join(told)))
    meaning = "Development files; fractions times 100: mean ± SD (sample standard deviation) over n seeds."
    return Section("Scores", (Table(columns, tuple(rows)), Paragraph(meaning)))


def _score_rows(comparison: Comparison) -> list[tuple[str, str, tuple[str, ...]]]:
    """(task, score name, a cell per report) of every score that any report has."""
    names = dict.fromkeys(
        (task, score.name)
        for side in comparison.sides
        for task, each in side.summaries.items()
        for score in each.scores
    )
    return [(task, name, tuple(_cell(side, task, name) for side in comparison.sides)) for task, name in names]


def _cell(side: Side, task: str, name: str) -> str:
    summary = side.summaries.get(task)
    found: list[ScoreSummary] = [] if summary is None else [score for score in summary.scores if score.name == name]
    return f"{mean_and_deviation(found[0])} (n {len(found[0].values)})" if found else NOTHING


def _reading_section(comparison: Comparison) -> Section:
    """What the tables of differences say, once for all of them."""
    first = comparison.sides[0].label
    told = (
        f"Difference: the mean over a model's runs less that over the runs of {first}, times 100. Its interval is a "
        f"paired bootstrap: {NUM_RESAMPLES:,} times the development examples are drawn anew, with replacement, the "
        "same ones for both, and the interval holds the middle 95 % of the differences; where it contains 0, no "
        "difference is shown. Of twenty such intervals one misses by chance. It is about these very runs and says "
        'nothing about other seeds. Seeds: "all higher" means that every run of the model scores above every run of '
        f'{first}, "overlap" that their scores mix; a collapsed or diverged run is below all others, whatever it '
        "scores."
    )
    return Section("How to read the differences", (Paragraph(told),))


def _differences_section(comparison: Comparison, side: Side, found: Sequence[Difference]) -> Section:
    first = comparison.sides[0].label
    title = f"{side.label} against {first}"
    if not found:
        return Section(title, (Note("They have no task in common."),))
    values = (Column("Difference", "right"), Column("95 % over examples", "right"), Column("Shows"))
    scores: list[tuple[str, ...]] = []
    means: list[tuple[str, ...]] = []
    for each in found:
        shows = f"{each.shows}: {each.reason}" if each.reason else each.shows
        cells = (signed(each.value), _interval(each), shows)
        if each.score is None:
            means.append((each.task, *cells))
        else:
            scores.append((each.task, metric_name(each.score), *cells, each.seeds))
    number = comparison.sides.index(side)
    plotted = {
        f"{each.task} {'' if each.score is None else metric_name(each.score)}".strip(): (
            100 * each.interval.low, 100 * each.value, 100 * each.interval.high)
        for each in found if each.interval is not None
    }  # fmt: skip
    blocks: list[Any] = [
        Table((Column("Task"), Column("Metric"), *values, Column("Seeds")), tuple(scores)),
        Table((Column("Average"), *values), tuple(means)),
    ]
    if plotted:
        alt = "; ".join(f"{name} {at:+.1f} ({low:+.1f} to {high:+.1f})" for name, (low, at, high) in plotted.items())
        title_of_plot = f"Differences with 95 % intervals{comparison.mark}"
        svg = interval_plot(plotted, "difference (times 100)", title_of_plot, 0.0)
        blocks.append(Image(f"differences_{number}", svg, f"Differences with intervals. {alt}.", title))
    return Section(title, tuple(blocks))


def _reports_section(comparison: Comparison) -> Section:
    rows = [
        (
            side.label,
            side.protocol.model,
            ", ".join(dict.fromkeys(run.optimizer for run in side.recorded.results)),
            side.protocol.recipe,
            side.protocol.data,
            ", ".join(map(str, side.protocol.seeds)),
            str(side.recorded.folder),
        )
        for side in comparison.sides
    ]
    names = ("Label", "Model", "Optimizer", "Recipe", "Data", "Seeds", "Report")
    return Section("Reports", (Table(tuple(Column(name) for name in names), tuple(rows)),))


def _interval(found: Difference) -> str:
    ends = found.interval
    return NOTHING if ends is None else f"{signed(ends.low)} to {signed(ends.high)}"
