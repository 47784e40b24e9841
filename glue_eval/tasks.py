"""The GLUE tasks: one table of facts (files, columns, labels, metrics, counts), read by everything else in `glue_eval`.

Sources: Wang et al. 2019 (GLUE), the files that download_glue_data.py writes, and the submission format of
gluebenchmark.com. Counts are those of the published files. One's own task (`glue_eval.task_file`) is a `Task` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nlp_adan.errors import UserError, nearest


@dataclass(frozen=True)
class SplitFile:
    """One file of a task: TSV, or for one's own task also JSON lines (its name says which).

    `file` lies in the task's folder; for one's own task it is a path seen from the task's definition. `columns` names
    every column from left to right (for JSON lines: the members that are read); where `has_header` is true, a TSV
    file's first line is exactly these names. `text_columns` holds one name or two. `label_column` is None for an
    unlabelled (test) file, `id_column` is None where the file has no running number. `num_examples` is the published
    count, without the header, and 0 where none is published.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    label_column: str | None
    num_examples: int = 0
    has_header: bool = True
    id_column: str | None = None
    submission_file: str | None = None

    @property
    def text_indexes(self) -> tuple[int, ...]:
        """Positions of the text columns, counted from 0."""
        return tuple(self.columns.index(name) for name in self.text_columns)

    @property
    def label_index(self) -> int | None:
        """Position of the label column, counted from 0; None in an unlabelled file."""
        return None if self.label_column is None else self.columns.index(self.label_column)

    @property
    def id_index(self) -> int | None:
        """Position of the column with the example's number, counted from 0; None where there is none."""
        return None if self.id_column is None else self.columns.index(self.id_column)


@dataclass(frozen=True)
class Task:
    """One GLUE task, or one's own.

    `labels` are the strings of the label column, in the order of the class numbers 0, 1, ... and of the submission
    file; None for a regression task, whose scores lie in `score_range`. `metrics` name functions of
    `glue_eval.metrics`; a best checkpoint is chosen by `main_metric`. `max_length` is the default number of tokens of
    an example. `skip_short_rows`: the published files hold rows with columns missing, which every reader leaves out.
    `definition` is the file that defines one's own task, None for GLUE's. `other_folder`: another usual name of the
    task's folder.
    """

    name: str
    splits: tuple[SplitFile, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    main_metric: str
    score_range: tuple[float, float] | None = None
    max_length: int = 128
    skip_short_rows: bool = False
    definition: Path | None = None
    other_folder: str | None = None

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number rather than a class."""
        return self.labels is None

    @property
    def is_trainable(self) -> bool:
        """Whether the task has a training file (AX has none)."""
        return any(split.name == "train" for split in self.splits)

    @property
    def dev_splits(self) -> tuple[SplitFile, ...]:
        """The development files: one, but two for MNLI (matched first) and none for AX."""
        return tuple(split for split in self.splits if split.name.startswith("dev"))

    @property
    def test_splits(self) -> tuple[SplitFile, ...]:
        """The unlabelled test files, each with the name of its submission file."""
        return tuple(split for split in self.splits if split.name.startswith("test"))

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores of one run on the development files, in the order in which a report shows them."""
        return tuple(self.score_name(split, metric) for split in self.dev_splits for metric in self.metrics)

    def score_name(self, split: SplitFile, metric: str) -> str:
        """`accuracy`, or `accuracy_matched` where the task has several development files."""
        return f"{metric}_{split.name.partition('_')[2]}" if len(self.dev_splits) > 1 else metric

    def name_scores(self, split_name: str, values: Mapping[str, float]) -> dict[str, float]:
        """Metric values of one development file, renamed by `score_name`, as `score_names` expects them."""
        return {self.score_name(self.split(split_name), metric): value for metric, value in values.items()}

    def split(self, name: str) -> SplitFile:
        """The file of one split, `train`, `dev`, `test`, or MNLI's `dev_matched` and so on.

        Raises:
            UserError: The task has no such split.
        """
        for split in self.splits:
            if split.name == name:
                return split
        known = [split.name for split in self.splits]
        raise UserError(f"{self.name} has no split {name!r}{nearest(name, known)}: it has {', '.join(known)}")


_PAIR = ("sentence1", "sentence2")
_COLA = ("source", "label", "author_label", "sentence")
_MRPC = ("#1 ID", "#2 ID", "#1 String", "#2 String")
_MRPC_TEXT = ("#1 String", "#2 String")
_STSB = ("index", "genre", "filename", "year", "old_index", "source1", "source2", *_PAIR)
_QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
_QQP_TEXT = ("question1", "question2")
_QNLI_TEXT = ("question", "sentence")
_PARSES = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
_MNLI = ("index", "promptID", "pairID", "genre", *_PARSES, *_PAIR)
_MNLI_DEV = (*_MNLI, "label1", "label2", "label3", "label4", "label5", "gold_label")

BINARY = ("0", "1")
TWO_WAY = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")


def _test(
    submission_file: str, columns: tuple[str, ...], text: tuple[str, ...], count: int, file: str = "test.tsv"
) -> SplitFile:
    """An unlabelled file, numbered in its first column."""
    name = file.removesuffix(".tsv") if file.startswith("test") else "test"
    return SplitFile(name, file, columns, text, None, count, id_column=columns[0], submission_file=submission_file)


def _pair_splits(name: str, text: tuple[str, str], counts: tuple[int, int, int]) -> tuple[SplitFile, ...]:
    """The common layout: `index`, two texts and, but for the test file, `label`."""
    labelled = ("index", *text, "label")
    return (
        SplitFile("train", "train.tsv", labelled, text, "label", counts[0], id_column="index"),
        SplitFile("dev", "dev.tsv", labelled, text, "label", counts[1], id_column="index"),
        _test(f"{name}.tsv", labelled[:-1], text, counts[2]),
    )


_COLA_TASK = Task(
    "CoLA",
    (
        SplitFile("train", "train.tsv", _COLA, ("sentence",), "label", 8551, has_header=False),
        SplitFile("dev", "dev.tsv", _COLA, ("sentence",), "label", 1043, has_header=False),
        _test("CoLA.tsv", ("index", "sentence"), ("sentence",), 1063),
    ),
    labels=BINARY,
    metrics=("matthews",),
    main_metric="matthews",
)
_SST2_TASK = Task(
    "SST-2",
    (
        SplitFile("train", "train.tsv", ("sentence", "label"), ("sentence",), "label", 67349),
        SplitFile("dev", "dev.tsv", ("sentence", "label"), ("sentence",), "label", 872),
        _test("SST-2.tsv", ("index", "sentence"), ("sentence",), 1821),
    ),
    labels=BINARY,
    metrics=("accuracy",),
    main_metric="accuracy",
)
_MRPC_TASK = Task(
    "MRPC",
    (
        SplitFile("train", "train.tsv", ("Quality", *_MRPC), _MRPC_TEXT, "Quality", 3668),
        SplitFile("dev", "dev.tsv", ("Quality", *_MRPC), _MRPC_TEXT, "Quality", 408),
        _test("MRPC.tsv", ("index", *_MRPC), _MRPC_TEXT, 1725),
    ),
    labels=BINARY,
    metrics=("accuracy", "f1"),
    main_metric="f1",
)
_STSB_TASK = Task(
    "STS-B",
    (
        SplitFile("train", "train.tsv", (*_STSB, "score"), _PAIR, "score", 5749, id_column="index"),
        SplitFile("dev", "dev.tsv", (*_STSB, "score"), _PAIR, "score", 1500, id_column="index"),
        _test("STS-B.tsv", _STSB, _PAIR, 1379),
    ),
    labels=None,
    metrics=("pearson", "spearman"),
    main_metric="pearson",
    score_range=(0.0, 5.0),
)
_QQP_TASK = Task(
    "QQP",
    (
        SplitFile("train", "train.tsv", _QQP, _QQP_TEXT, "is_duplicate", 363846, id_column="id"),
        SplitFile("dev", "dev.tsv", _QQP, _QQP_TEXT, "is_duplicate", 40430, id_column="id"),
        _test("QQP.tsv", ("id", *_QQP_TEXT), _QQP_TEXT, 390965),
    ),
    labels=BINARY,
    metrics=("accuracy", "f1"),
    main_metric="f1",
    skip_short_rows=True,
)
_MNLI_TASK = Task(
    "MNLI",
    (
        SplitFile(
            "train", "train.tsv", (*_MNLI, "label1", "gold_label"), _PAIR, "gold_label", 392702, id_column="index"
        ),
        SplitFile("dev_matched", "dev_matched.tsv", _MNLI_DEV, _PAIR, "gold_label", 9815, id_column="index"),
        SplitFile("dev_mismatched", "dev_mismatched.tsv", _MNLI_DEV, _PAIR, "gold_label", 9832, id_column="index"),
        _test("MNLI-m.tsv", _MNLI, _PAIR, 9796, "test_matched.tsv"),
        _test("MNLI-mm.tsv", _MNLI, _PAIR, 9847, "test_mismatched.tsv"),
    ),
    labels=THREE_WAY,
    metrics=("accuracy",),
    main_metric="accuracy",
)
_QNLI_TASK = Task("QNLI", _pair_splits("QNLI", _QNLI_TEXT, (104743, 5463, 5463)), TWO_WAY, ("accuracy",), "accuracy")
# 12 % of RTE's examples are longer than 128 tokens, so its default is 256.
_RTE_TASK = Task("RTE", _pair_splits("RTE", _PAIR, (2490, 277, 3000)), TWO_WAY, ("accuracy",), "accuracy", None, 256)
_WNLI_TASK = Task("WNLI", _pair_splits("WNLI", _PAIR, (635, 71, 146)), BINARY, ("accuracy",), "accuracy")
_AX_TASK = Task(
    "AX",
    (_test("AX.tsv", ("index", *_PAIR), _PAIR, 1104, "diagnostic.tsv"),),
    labels=THREE_WAY,
    metrics=("matthews",),
    main_metric="matthews",
    other_folder="diagnostic",  # download_glue_data.py's
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _COLA_TASK,
        _SST2_TASK,
        _MRPC_TASK,
        _STSB_TASK,
        _QQP_TASK,
        _MNLI_TASK,
        _QNLI_TASK,
        _RTE_TASK,
        _WNLI_TASK,
        _AX_TASK,
    )
}
"""Every task by its canonical name, in GLUE's own order; AX, which has a test file only, comes last."""

TRAINABLE_TASKS: tuple[Task, ...] = tuple(task for task in TASKS.values() if task.is_trainable)
"""The nine tasks of the official average."""


def get_task(name: str) -> Task:
    """The task of that name, upper and lower case alike.

    Raises:
        UserError: No such task; the message names the nearest one.
    """
    by_lower_case = {known.lower(): task for known, task in TASKS.items()}
    task = by_lower_case.get(name.strip().lower())
    if task is None:
        raise UserError(
            f"unknown task {name.strip()!r}{nearest(name.strip(), TASKS)}: choose from {', '.join(TASKS)}, "
            "or give the path of a .yaml file that defines one"
        )
    return task


def parse_task_names(text: str | Iterable[str], with_diagnostic: bool = False) -> list[Task]:
    """Tasks from `all` (the nine), names, and paths of YAML files that define one's own tasks; commas between them.

    Args:
        text: In the order of the result, each once.
        with_diagnostic: AX, which cannot be trained on, may be named too.

    Raises:
        UserError: An unknown name, no name at all, a definition with a mistake, two tasks of one name, or AX.
    """
    from glue_eval.task_file import read_task_file  # it makes Task objects

    names = text.split(",") if isinstance(text, str) else list(text)
    tasks: list[Task] = []
    for name in filter(None, (name.strip() for name in names)):
        if name.lower().endswith((".yaml", ".yml")):
            chosen = [read_task_file(Path(name))]
        else:
            chosen = list(TRAINABLE_TASKS) if name.lower() == "all" else [get_task(name)]
        tasks += [task for task in chosen if task not in tasks]
    if not tasks:
        raise UserError(f"no task in {text!r}: give 'all' or names such as CoLA,RTE")
    by_name: dict[str, Task] = {}
    for task in tasks:
        if not task.is_trainable and not with_diagnostic:
            raise UserError(f"{task.name} has no training file: it is scored by a model trained on MNLI, leave it out")
        other = by_name.setdefault(task.name.lower(), task)
        if other is not task:
            raise UserError(f"{other.definition} and {task.definition} both define {task.name!r}: rename one of them")
    return tasks
