"""What a pretraining run left in its folder, read and added up for its report and its model card."""

from __future__ import annotations

import datetime
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open

from nlp_adan.errors import UserError
from nlp_adan.pretraining.run_kind import Measure, RunKind
from nlp_adan.training.run_folder import RunFolder

Point = tuple[float, float]


@dataclass(frozen=True)
class RunRecord:
    """A run's files, as they are in its folder.

    `log`, `evaluations` (of a step, the last) and `notes`, the other lines of eval.jsonl, are in the order of their
    steps; `metrics` are empty where the run is not finished, `manifest` is None where the prepared data are not at
    hand.
    """

    kind: RunKind
    folder: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]
    log: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    notes: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    data_record: Mapping[str, Any]
    manifest: Mapping[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.metrics)

    @property
    def recipe(self) -> str:
        """The name or the path of the recipe."""
        return str(self.settings.get("recipe"))

    @property
    def step(self) -> int:
        """The last optimizer step that the folder tells of."""
        lines = [self.metrics, *self.log[-1:], *self.evaluations[-1:]]
        return max((int(line["step"]) for line in lines if "step" in line), default=0)

    @property
    def last_evaluation(self) -> Mapping[str, Any]:
        """The final figures, or those of the last evaluation before the run was cut short; {} where none was."""
        return self.metrics or (self.evaluations[-1] if self.evaluations else {})

    @property
    def world_size(self) -> int:
        """Ranks of the last start."""
        return int(self.environment.get("world_size", 1))

    @property
    def max_hours(self) -> float | None:
        """The budget in trained hours, where the run has one."""
        hours = self.settings.get("max_hours")
        return None if hours is None else float(hours)

    @property
    def sequences_per_step(self) -> int:
        """Over all ranks and micro-batches."""
        settings = self.settings
        if settings.get("global_batch_size"):
            return int(settings["global_batch_size"])
        per_rank = settings["per_device_train_batch_size"] * settings.get("gradient_accumulation_steps", 1)
        return int(per_rank * self.world_size)

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence; where these are of random length, the length around which they are."""
        return int(self.settings[self.kind.length_option])

    @property
    def tokens_per_step(self) -> float:
        """On average, over all ranks."""
        return self.sequences_per_step * self.kind.mean_length(self.settings)

    @property
    def tokens(self) -> int:
        """Trained tokens, special ones and repetitions included."""
        return int(self.metrics.get("trained_tokens", self.step * self.tokens_per_step))

    @cached_property
    def measure(self) -> Measure:
        """What its curves show."""
        measures = self.kind.measures
        return next((measure for measure in measures if measure.figure in self.last_evaluation), measures[0])

    def measured(self, points: Sequence[Point]) -> list[Point]:
        """(step, measure) of (step, loss in nats a token), where it is a number."""
        found = [(step, self.measure.from_nats(nats)) for step, nats in points]
        return [(step, value) for step, value in found if math.isfinite(value)]

    @property
    def trained_seconds(self) -> float | None:
        """Over all starts, to the last line that says so; a folder of one start without a clock has its log's time."""
        for line in (self.metrics, *reversed(self.log)):
            if line.get("trained_seconds") is not None:
                return float(line["trained_seconds"])
        return float(self.log[-1]["seconds"]) if self.log and len(self.starts) <= 1 else None

    @property
    def flops(self) -> float | None:
        """Of the matrix products, over the whole run; from the log's rates where the run is not finished."""
        if self.metrics.get("trained_flops") is not None:
            return float(self.metrics["trained_flops"])
        per_token = [
            line["flops_per_second"] / line["tokens_per_second"]
            for line in self.log
            if line.get("flops_per_second") and line.get("tokens_per_second")
        ]
        return statistics.median(per_token) * self.tokens if per_token else None

    @property
    def num_resumptions(self) -> int | None:
        """How often the run was taken up again; None where its starts are not recorded."""
        return len(self.starts) - 1 if self.starts else None

    @property
    def seconds_elapsed(self) -> float | None:
        """From the first start to the last log line; None where it is not recorded."""
        if not self.starts or not self.log or self.log[-1]["step"] <= self.starts[-1]["step"]:
            return None
        first, last = (datetime.datetime.fromisoformat(start["date"]) for start in (self.starts[0], self.starts[-1]))
        return (last - first).total_seconds() + float(self.log[-1]["seconds"])

    @property
    def num_parameters(self) -> int | None:
        """Of the trained model, else of the newest checkpoint; None where their weights are not one file."""
        sizes = self._parameter_sizes
        return None if sizes is None else sum(sizes.values())

    @property
    def num_parameters_of_layers(self) -> int | None:
        """Those outside of embedding and softmax; None where the kind does not tell them apart, or as above."""
        sizes, prefix = self._parameter_sizes, self.kind.layers_prefix
        return (
            None
            if sizes is None or prefix is None
            else sum(size for name, size in sizes.items() if name.startswith(prefix))
        )

    @cached_property
    def _parameter_sizes(self) -> dict[str, int] | None:
        checkpoints = [path for path in self.folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        checkpoints.sort(key=lambda path: -int(path.name.rpartition("-")[2]))
        for folder in (self.folder, *checkpoints):
            if (folder / "model.safetensors").is_file():
                with safe_open(folder / "model.safetensors", framework="numpy") as file:
                    return {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return None

    def values(self, name: str) -> list[float]:
        """A figure of the log lines, where it is a number."""
        return [float(line[name]) for line in self.log if line.get(name) is not None]

    def curve(self, name: str, lines: Sequence[Mapping[str, Any]] | None = None) -> list[Point]:
        """(step, figure) of the log, or of other lines, where the figure is a number."""
        chosen = self.log if lines is None else lines
        return [(float(line["step"]), float(line[name])) for line in chosen if line.get(name) is not None]

    def hours_at(self, step: float) -> float | None:
        """Trained hours at a step, between log lines in proportion; None where the log does not say."""
        return None if self._clock is None else float(np.interp(step, *self._clock)) / 3600

    @cached_property
    def _clock(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Steps and trained seconds."""
        points = self.curve("trained_seconds") or (self.curve("seconds") if len(self.starts) <= 1 else [])
        steps, seconds = np.array([(0.0, 0.0), *points]).T
        return (steps, seconds) if points else None


def read_run(run: RunFolder, kind: RunKind, manifest: Mapping[str, Any] | None = None) -> RunRecord:
    """The record of a pretraining run, finished or not.

    Args:
        run: its folder.
        kind: of the run.
        manifest: of the prepared data; None: read from where the run says they are, if they still are there.

    Raises: UserError where the folder holds no pretraining run, or a file in it is damaged.
    """
    path = run.path / "resolved.yaml"
    if not path.is_file():
        raise UserError(f"{str(run.path)!r} holds no run (no resolved.yaml): name a folder that run_pretrain.py filled")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): bring it back, or name another run") from error
    missing = [name for name in kind.marks if not isinstance(settings, Mapping) or name not in settings]
    if missing:
        raise UserError(
            f"{str(run.path)!r} holds no pretraining run of {kind.name} (its resolved.yaml has no {missing[0]}): name "
            "the folder of one"
        )
    data_record = _read_json(run.path / "data.json")
    if manifest is None and data_record.get("folder"):
        found = _read_json(Path(data_record["folder"]) / "manifest.json")
        manifest = found if found.get("key") == data_record.get("key") else None
    evaluations = run.read("eval.jsonl")
    return RunRecord(
        kind=kind,
        folder=run.path,
        settings=settings,
        environment=_read_json(run.path / "environment.json"),
        starts=run.read("starts.jsonl"),
        log=run.read("log.jsonl"),
        evaluations=list({line["step"]: line for line in evaluations if kind.loss in line}.values()),
        notes=[line for line in evaluations if kind.loss not in line],
        metrics=_read_json(run.path / run.last_file),
        data_record=data_record,
        manifest=manifest or None,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): bring it back, or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): bring it back, or remove it")
    return value
