"""Which runs saw a part of their task only, so that no published score stands beside theirs."""

from __future__ import annotations

from glue_eval.protocol import Protocol
from glue_eval.results import RunResult
from glue_eval.tasks import TASKS, Task


def partial_data(task: Task, run: RunResult, protocol: Protocol) -> tuple[str, ...]:
    """What the run did not see whole, in words; empty where it saw its whole task.

    The files that are parts by their names; fewer examples than published, by whatever cause; and where no count is
    published, a limit on the training examples that was met.
    """
    found = list(run.partial)
    if TASKS.get(task.name) == task and not protocol.is_sample:
        num_dev = sum(split.num_examples for split in task.dev_splits)
        counts = (("training", run.num_train, task.split("train").num_examples), ("development", run.num_dev, num_dev))
        found += [f"{seen:,} of {whole:,} {which} examples" for which, seen, whole in counts if seen < whole]
    elif run.num_train == run.settings.get("max_train_examples", protocol.max_train_examples):
        found.append(f"{run.num_train:,} training examples at most")
    return tuple(found)
