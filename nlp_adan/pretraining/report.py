"""The report of a pretraining run, finished or cut short: report.md, report.html and report.json in its folder.

Nothing but the folder is read, and the manifest of the prepared data where that is still to be found.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp_adan.errors import exit_on_user_error
from nlp_adan.pretraining.curves import (
    loss_section,
    published_section,
    quartiles,
    thinned,
    throughput_section,
)
from nlp_adan.pretraining.facts import cost_section, data_section, settings_section
from nlp_adan.pretraining.quantities import count, duration
from nlp_adan.pretraining.record import RunRecord, read_run
from nlp_adan.pretraining.run_kind import RunKind
from nlp_adan.reporting import Document, write_report
from nlp_adan.reporting.facts import environment_section
from nlp_adan.training.run_folder import RunFolder


def write_pretraining_report(run: RunFolder, kind: RunKind, manifest: Mapping[str, Any] | None = None) -> Document:
    """Write the three files and the plots into the run's folder.

    Args:
        run: the folder of a pretraining run, finished or not.
        kind: of the run.
        manifest: of its prepared data; None: looked for where the run says they are.

    Returns:
        The document that was written.

    Raises: UserError where the folder holds no pretraining run, or a file in it is damaged.
    """
    record = read_run(run, kind, manifest)
    document = make_document(record)
    write_report(run.path, document, make_data(record))
    return document


def make_document(record: RunRecord) -> Document:
    """The report as a document."""
    sections = [
        loss_section(record),
        *([published_section(record, curve)] if (curve := record.kind.published(record.recipe)) else []),
        *record.kind.sections(record),
        throughput_section(record),
        cost_section(record),
        data_section(record),
        settings_section(record),
        environment_section({name: value for name, value in record.environment.items() if name != "command"}),
    ]
    return Document(
        title=f"Pretraining: {record.folder.absolute().name}",
        summary=verdict(record),
        sections=tuple(sections),
        notices=tuple(notices(record)),
    )


def make_data(record: RunRecord) -> dict[str, Any]:
    """The report for programs: final figures, curves, throughput, cost, settings, environment."""
    return {
        "finished": record.finished,
        "step": record.step,
        "tokens": record.tokens,
        "trained_seconds": record.trained_seconds,
        "flops": record.flops,
        "num_resumptions": record.num_resumptions,
        "evaluation": dict(record.last_evaluation),
        "throughput": {name: quartiles(record.values(name)) for name in ("tokens_per_second", "flops_per_second",
                                                                           "mfu", "data_wait")},
        "train_loss": thinned(record.curve("loss")),
        "valid_loss": record.curve(record.kind.loss, record.evaluations),
        **record.kind.data(record),
        "data": dict(record.data_record),
        "settings": dict(record.settings),
        "environment": dict(record.environment),
    }  # fmt: skip


def verdict(record: RunRecord) -> str:
    """One line: what the model knows beside guessing, and what it took."""
    last = record.last_evaluation
    if not record.step:
        return "No step is logged yet."
    took = f"{count(record.tokens)} tokens in {duration(record.trained_seconds)} of training"
    if speed := quartiles(record.values("tokens_per_second")):
        took += f", {speed[1]:,.0f} tokens/s (median)"
    if last.get(record.kind.loss) is None:
        return f"Not evaluated after {record.step:,} steps; {took}."
    return f"{record.kind.known(record)}; {took}."


def notices(record: RunRecord) -> list[str]:
    """What a reader must know before the figures."""
    found, last = [], record.last_evaluation
    if not record.finished:
        text = f"Unfinished: the run stands at step {record.step:,}"
        max_steps = int(record.settings.get("max_steps") or -1)
        if record.max_hours is not None:
            text += f", {duration(record.trained_seconds)} of {record.max_hours:g} h"
        elif max_steps > 0:
            text += f" of {max_steps:,}"
        after = (
            f"the figures are those of the evaluation after step {last['step']:,}" if last else "it is not evaluated"
        )
        found.append(f"{text}; {after}.")
    loss, unigram = last.get(record.kind.loss), last.get("eval_unigram_cross_entropy")
    if loss is not None and unigram is not None and loss >= unigram:
        found.append("The loss is not below the unigram cross-entropy: the model knows no more than word frequencies.")
    if lost := sum(line.get("loss") is None for line in record.log):
        found.append(f"The training loss is not a number on {lost} of {len(record.log)} log lines.")
    return found


def report_command(program: str, kind: RunKind, words: Sequence[str] | None = None) -> None:
    """`python -m PROGRAM RUN`: the report of a run of this kind.

    words: of the command line; None: this process's.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description="Write the report of a pretraining run.")
    parser.add_argument("run", help="the folder that run_pretrain.py filled")
    folder = Path(parser.parse_args(words).run)
    with exit_on_user_error():
        document = write_pretraining_report(RunFolder(folder), kind)
        print(f"{document.summary}\nreport: {folder / 'report.md'}, {folder / 'report.html'}")
