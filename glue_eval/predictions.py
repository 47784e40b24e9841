"""The predictions of a run, an object an example: see `glue_eval.results` for the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glue_eval.data import Split
from glue_eval.results import PREDICTIONS
from glue_eval.tasks import Task
from nlp_adan.errors import UserError
from nlp_adan.storage import finite, write_text

Logits = npt.NDArray[np.float32]


def answers(task: Task, logits: Logits) -> npt.NDArray[Any]:
    """Class numbers (num_examples,) int64, or scores float32, from (num_examples, num_labels or 1) logits.

    Of logits that are NaN: class 0, or NaN.
    """
    return logits[:, 0] if task.is_regression else logits.argmax(axis=-1)


def answer_names(task: Task, logits: Logits) -> list[str] | list[float]:
    """The answers as the task's own label strings, or scores."""
    found = answers(task, logits)
    return [float(score) for score in found] if task.labels is None else [task.labels[number] for number in found]


def write_predictions(folder: Path, name: str, split: Split, logits: Logits) -> Path:
    """Write `folder/predictions/NAME.jsonl`, whole or not at all.

    split: what was predicted, in file order; logits: (num_examples, num_labels), or (num_examples, 1) for scores.
    """
    task = split.task
    lines = []
    names = answer_names(task, logits)
    for row, (number, answer) in enumerate(zip(split.ids, names, strict=True)):
        line: dict[str, Any] = {"id": number, "prediction": answer}
        if split.labels is not None:
            label = split.labels[row]
            line["label"] = float(label) if task.labels is None else task.labels[int(label)]
        line["logits"] = [float(f"{value:.7g}") for value in logits[row]]
        lines.append(json.dumps(finite(line), ensure_ascii=False, allow_nan=False))
    path = folder / PREDICTIONS / f"{name}.jsonl"
    write_text(path, "".join(f"{line}\n" for line in lines))
    return path


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """The objects of a predictions file, in its order.

    Raises:
        UserError: The file is missing or a line is not one of ours; names file, line and remedy.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: the run that should have written it is not there; run it again")
    found = []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        try:
            item = json.loads(line.decode())
            _ = item["id"], item["prediction"]
        except (ValueError, KeyError, TypeError) as error:
            what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "a prediction"
            raise UserError(f"{path}:{number}: not {what} ({error}); remove the run's folder and repeat it") from error
        found.append(item)
    return found
