"""What a report tells of the GLUE probes along the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_adan.pretraining.curves import MAX_ROWS, thinned
from nlp_adan.pretraining.quantities import plain
from nlp_adan.pretraining.record import RunRecord
from nlp_adan.reporting import Column, Image, Note, Section, Table
from nlp_adan.reporting.plots import line_plot


def probes(record: RunRecord) -> list[Mapping[str, Any]]:
    """The lines of eval.jsonl that are of probes."""
    return [line for line in record.notes if "probe" in line]


def probes_section(record: RunRecord) -> Section:
    """GLUE scores along the way."""
    lines = probes(record)
    names = sorted({(task, metric) for line in lines for task, scores in line["probe"].items() for metric in scores})
    is_sample = any(line.get("sample_tasks") for line in lines)

    def score(line: Mapping[str, Any], task: str, metric: str) -> float | None:
        value = line["probe"].get(task, {}).get(metric)
        return None if value is None else 100 * value

    series = {
        f"{task} {metric}": [(float(line["step"]), value) for line in lines
                             if (value := score(line, task, metric)) is not None]
        for task, metric in names
    }  # fmt: skip
    columns = (Column("Step", "right"), *(Column(f"{task} {metric}", "right") for task, metric in names))
    rows = [
        (f"{line['step']:,}", *(plain(score(line, *name), 1) for name in names)) for line in thinned(lines, MAX_ROWS)
    ]
    what = "the generated sample tasks, not GLUE" if is_sample else "GLUE's development sets"
    alt = "; ".join(f"{name}: {', '.join(f'{y:.1f}' for _, y in points)}" for name, points in series.items())
    caption = f"Short fine-tunings of the model as it was, on {what}; scores times 100, one seed"
    svg = line_plot(series, "optimizer steps of pretraining", "score (times 100)")
    return Section("GLUE probes", (
        *([Note(f"These scores are on {what}: they cannot be compared with GLUE scores.")] if is_sample else []),
        Table(columns, tuple(rows), caption),
        Image("probes", svg, f"Probe scores. {alt}."),
    ))  # fmt: skip
