"""The parts of a GLUE report below its scores: what failed, averages, intervals, diagnostics, protocol and cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from glue_eval.protocol import Failure, Protocol
from glue_eval.results import RunResult
from glue_eval.sample_tasks import SAMPLE_NOTICE
from glue_eval.score_tables import metric_name, percent, percent_interval
from glue_eval.statistics import NUM_RESAMPLES
from glue_eval.summary import Average, TaskSummary
from nlp_adan.pretraining.quantities import NOTHING, count, duration, share
from nlp_adan.reporting import Column, Image, Note, Paragraph, Section, Table
from nlp_adan.reporting.facts import facts_table
from nlp_adan.reporting.plots import interval_plot

BYTES_PER_MIB = 1 << 20
NO_SETTING = "none"


def troubles_section(summaries: Sequence[TaskSummary], failures: Sequence[Failure]) -> list[Section]:
    """Every failed and every collapsed run by name; no section where there is none."""
    rows = [(failure.task, str(failure.seed), failure.kind, failure.error) for failure in failures]
    for summary in summaries:
        constant = "constant predictions: the scores are those of always giving one answer"
        if summary.task.is_regression:
            constant = "predictions that hardly differ: the model has learnt the mean score at most"
        for run in summary.runs:
            if run.seed in summary.collapsed_seeds:
                kind = ("diverged", run.diverged) if run.diverged else ("collapsed", constant)
                rows.append((summary.task.name, str(run.seed), *kind))
    if not rows:
        return []
    told = "Runs without a result are in no score of this report; the same command tries them again. " * bool(failures)
    if len(rows) > len(failures):
        told += "Collapsed and diverged runs count in all scores, and in a comparison as losses."
    columns = (Column("Task"), Column("Seed", "right"), Column("What"), Column("How"))
    return [Section("Failed, missing and collapsed runs", (Table(columns, tuple(rows)), Paragraph(told.strip())))]


def averages_section(found: Sequence[Average]) -> Section:
    """The averages by name; they do not agree with one another."""
    columns = (
        Column("Average"),
        Column("Value", "right"),
        Column("95 % over examples", "right"),
        Column("Majority", "right"),
        Column("What it is"),
    )
    rows = [
        (mean.name, percent(mean.value), percent_interval(mean.interval), percent(mean.baseline), mean.rule.definition)
        for mean in found
    ]
    told = "Of the medians above, on the development files."
    if len(found) > 1:
        told += " These averages are over different tasks and scores: compare each with its own kind only."
    return Section("Averages", (Table(columns, tuple(rows)), Paragraph(told)))


def intervals_section(summaries: Sequence[TaskSummary], mark: str) -> Section:
    """The bootstrap intervals over examples; `mark` stands above the plot, such as that the tasks are samples."""
    title = "Uncertainty over the development examples"
    rows, plotted = [], {}
    for summary in summaries:
        for score in summary.scores:
            found = score.interval
            name, half = f"{summary.task.name} {metric_name(score.name)}", NOTHING
            if found is not None:
                plotted[name] = (100 * found.low, 100 * score.median, 100 * found.high)
                half = f"± {50 * (found.high - found.low):.1f}"
            examples = NOTHING if score.num_examples is None else f"{score.num_examples:,}"
            cells = (percent(score.median), percent_interval(found), half, examples)
            rows.append((summary.task.name, metric_name(score.name), *cells))
    if not plotted:
        return Section(title, (Note("No intervals: the runs left no predictions of the development examples."),))
    heads = ("Median", "95 % over examples", "Half width", "Dev examples")
    columns = (Column("Task"), Column("Metric"), *(Column(head, "right") for head in heads))
    told = (
        f"The bootstrap: {NUM_RESAMPLES:,} times the examples of the file are drawn anew, with replacement, the same "
        "ones for all seeds, and the median over the seeds is formed; the interval holds the middle 95 % of these. "
        "It tells how far another development file of the same kind could move the score of these very runs. It does "
        "not tell what other seeds would give: that is the SD above."
    )
    alt = "; ".join(f"{name} {middle:.1f} ({low:.1f} to {high:.1f})" for name, (low, middle, high) in plotted.items())
    svg = interval_plot(plotted, "score (times 100)", f"Medians with 95 % intervals{mark}")
    return Section(title, (
        Table(columns, tuple(rows)),
        Paragraph(told),
        Image("intervals", svg, f"Medians with intervals. {alt}."),
    ))  # fmt: skip


def diagnostics_section(summaries: Sequence[TaskSummary]) -> list[Section]:
    """MNLI's runs on the diagnostic examples, by category; no section where none was scored."""
    runs = [run for summary in summaries for run in summary.runs if run.ax]
    if not runs:
        return []
    names = list(dict.fromkeys(name for run in runs for name in run.ax))
    rows = []
    for name in names:
        values = [run.ax[name] for run in runs if name in run.ax]
        rows.append((name, percent(statistics.median(values)), percent(max(values)), str(len(values))))
    columns = (Column("Category"), *(Column(head, "right") for head in ("Median", "Best", "n")))
    caption = "Matthews correlation times 100 of the MNLI runs on the diagnostic examples (AX)"
    return [Section("Diagnostics", (Table(columns, tuple(rows), caption),))]


def protocol_section(summaries: Sequence[TaskSummary], protocol: Protocol) -> Section:
    """How every run was done, and in what the tasks differ."""
    blocks: list[Table | Paragraph] = [facts_table(protocol_facts(protocol))]
    names = ("Task", "Optimizer", "Learning rate", "Batch", "Epochs", "Steps", "Tokens at most", "Cut", "Train", "Dev")
    rows = []
    for summary in summaries:
        run = summary.usual
        epochs = NOTHING if run.epochs is None else f"{run.epochs:.3g}"
        length = NOTHING if run.max_length is None else str(run.max_length)
        counts = (str(run.batch_size), epochs, str(run.steps), length, share(run.num_cut / max(run.num_train, 1)))
        sizes = (f"{run.num_train:,}", f"{run.num_dev:,}")
        rows.append((summary.task.name, run.optimizer, f"{run.learning_rate:g}", *counts, *sizes))
    columns = tuple(Column(name, "left" if name in ("Task", "Optimizer") else "right") for name in names)
    blocks += [
        Table(columns, tuple(rows)),
        Paragraph("Cut: the share of the training examples that are longer than the tokens at most."),
    ]
    by_settings: dict[str, list[str]] = {}
    for summary in summaries:
        if settings := settings_in_words(summary.usual.settings):
            text = ", ".join(f"{name} {value}" for name, value in settings.items() if value != NO_SETTING)
            by_settings.setdefault(text, []).append(summary.task.name)
    further = [
        (text, "all" if len(tasks) == len(summaries) else ", ".join(tasks)) for text, tasks in by_settings.items()
    ]
    if further:
        blocks.append(facts_table(further, ("Further settings", "Tasks")))
    partial = [(summary.task.name, ", ".join(summary.partial)) for summary in summaries if summary.partial]
    if partial:
        blocks.append(facts_table(partial, ("Partial data", "What is there")))
    return Section("Protocol", tuple(blocks))


def settings_in_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a run by the names of their options, with values as one says them."""
    found = {}
    for name, value in settings.items():
        if name == "warmup_steps" and isinstance(value, (int, float)):
            found[name] = f"{100 * value:g} % of the steps" if value < 1 else f"{value:,.0f}"
        elif isinstance(value, bool):
            found[name] = "yes" if value else "no"
        elif value is None:
            found[name] = "the model's" if name == "dropout" else NO_SETTING
        else:
            found[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def protocol_facts(protocol: Protocol) -> list[tuple[str, str]]:
    """The protocol in words, by what it is about; the same names for every report, so that two can be compared."""
    checkpoint = {
        "last": "the last step's; none is chosen by its development score",
        "best": "of each run the one that scored best on the development files, which flatters",
    }[protocol.checkpoint]
    batches = "examples of similar length together" if protocol.group_by_length else "examples in random order"
    start = "the pretrained model"
    if protocol.mnli_model is not None:
        start += (
            f"; RTE, MRPC and STS-B the MNLI model {protocol.mnli_model}: another protocol than the published rows'"
        )
    facts = [
        ("Model", protocol.model),
        ("Weights (SHA-256)", (protocol.model_sha256 or NOTHING)[:16]),
        ("Data", f"{protocol.data} ({SAMPLE_NOTICE})" if protocol.is_sample else protocol.data),
        ("Recipe", protocol.recipe),
        ("Own settings", protocol.config or "none"),
        ("Seeds", ", ".join(map(str, protocol.seeds))),
        ("Checkpoint", checkpoint),
        ("Batches", batches),
        ("Runs start from", start),
        (
            "Dropout",
            "the model's, or as the settings of a task say" if protocol.dropout is None else f"{protocol.dropout:g}",
        ),
    ]
    if protocol.max_length is not None:
        facts.append(("Tokens at most, of all tasks", str(protocol.max_length)))
    if protocol.max_train_examples is not None:
        facts.append(("Training examples at most", f"{protocol.max_train_examples:,}"))
    if protocol.allow_partial:
        facts.append(("Partial files", "accepted"))
    return facts


def cost_section(summaries: Sequence[TaskSummary]) -> Section:
    """Wall time, speed, padding and memory, by task."""
    heads = ("Runs", "Steps", "Time", "Time a run", "Tokens", "Tokens/s", "Padding", "Peak memory")
    rows = [(summary.task.name, *_cost_cells(summary.runs)) for summary in summaries]
    everything = [run for summary in summaries for run in summary.runs]
    rows.append(("all", *_cost_cells(everything)))
    told = (
        "Time: of training and scoring, summed over the runs, which may have run side by side. Tokens: of training "
        "examples, without padding; tokens/s is the median over the runs, of their training time. Padding: its share "
        "of all tokens processed."
    )
    columns = (Column("Task"), *(Column(head, "right") for head in heads))
    return Section("Cost", (Table(columns, tuple(rows)), Paragraph(told)))


def _cost_cells(runs: Sequence[RunResult]) -> tuple[str, ...]:
    tokens, padding = sum(run.tokens for run in runs), sum(run.padding for run in runs)
    speeds = [run.timing["tokens_per_second"] for run in runs if run.timing.get("tokens_per_second")]
    memory = [run.timing["peak_memory_bytes"] for run in runs if run.timing.get("peak_memory_bytes")]
    seconds = sum(run.seconds for run in runs)
    return (
        str(len(runs)),
        f"{sum(run.steps for run in runs):,}",
        duration(seconds),
        duration(seconds / max(len(runs), 1)),
        count(tokens) if tokens else NOTHING,
        f"{statistics.median(speeds):,.0f}" if speeds else NOTHING,
        share(padding / (tokens + padding)) if tokens else NOTHING,
        f"{max(memory) / BYTES_PER_MIB:,.0f} MiB" if memory else NOTHING,
    )
