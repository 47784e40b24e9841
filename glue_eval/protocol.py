"""What a report is about, apart from its runs: the model, the tasks, and how every run of them was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from glue_eval.json_types import check_members
from glue_eval.tasks import TASKS, SplitFile, Task

NOT_RUN = "it has not run yet"
OWN_FILES = "the tasks' own files"


@dataclass(frozen=True)
class Failure:
    """A run without a result: the name of its task, its seed, and in a line what went wrong, or `NOT_RUN`."""

    task: str
    seed: int
    error: str

    @property
    def kind(self) -> str:
        """`failed`, or `not run`."""
        return "not run" if self.error == NOT_RUN else "failed"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a member per field."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Protocol:
    """What all runs of a report share; what differs between tasks (learning rate, steps, ...) is in their results.

    model: a folder or the hub's name, and `model_sha256`, the hash of its weights.
    data: the GLUE folder, `hub` or `sample`, as it was given, or `OWN_FILES`; `is_sample`: the generated tasks.
    tasks, seeds: what was asked for, whether or not a run failed.
    recipe: name or file of the hyperparameters; `config`: the file of the user's own, given beside it.
    checkpoint: `last`, that of the last step, or `best`, that with the best development score.
    group_by_length: batches hold examples of similar lengths, which changes the batches.
    mnli_model: the folder of the model, fine-tuned on MNLI, that RTE, MRPC and STS-B started from.
    dropout: of the model during fine-tuning; None: its configuration's.
    max_length, max_train_examples, allow_partial: limits of the call; None: the task's.
    environment: `nlp_adan.training.environment.environment()` of the runs, command and numbers of processes included:
        the only member in which two equal sweeps differ.
    """

    model: str
    data: str
    tasks: tuple[Task, ...]
    recipe: str
    seeds: tuple[int, ...]
    config: str | None = None
    is_sample: bool = False
    checkpoint: Literal["last", "best"] = "last"
    group_by_length: bool = False
    mnli_model: str | None = None
    dropout: float | None = None
    max_length: int | None = None
    max_train_examples: int | None = None
    allow_partial: bool = False
    model_sha256: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            ValueError: It is not one of this report's.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise ValueError(f"no task {name!r} in this report: it has {', '.join(task.name for task in self.tasks)}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object with a member per field; one of GLUE's tasks is its name, one's own task its definition."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values["tasks"] = [task_to_json(task) for task in self.tasks]
        return {**values, "seeds": list(self.seeds), "environment": dict(self.environment)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Protocol:
        """The protocol that `to_json` wrote.

        Raises:
            ValueError: A member is unknown, missing or of another type, or a task is not known; the message names it.
        """
        try:
            tasks = tuple(task_from_json(task) for task in value["tasks"])
            found = cls(**{**value, "tasks": tasks, "seeds": tuple(value["seeds"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the protocol of a report: {error}") from error
        check_members(found)
        return found


def task_to_json(task: Task) -> str | dict[str, Any]:
    """The name of one of GLUE's tasks; every field of one's own."""
    if TASKS.get(task.name) == task:
        return task.name
    values = dataclasses.asdict(task)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def task_from_json(value: str | Mapping[str, Any]) -> Task:
    """The task that `task_to_json` wrote; KeyError or TypeError where it is none."""
    if isinstance(value, str):
        return TASKS[value]
    values = _as_fields(value)
    if values.get("definition") is not None:
        values["definition"] = Path(values["definition"])
    splits = tuple(SplitFile(**_as_fields(split)) for split in value["splits"])
    return Task(**{**values, "splits": splits})


def _as_fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples."""
    return {name: tuple(item) if isinstance(item, (list, tuple)) else item for name, item in value.items()}
