"""The table of GLUE facts: columns, labels, counts and names."""

from __future__ import annotations

import pytest

from glue_eval.tasks import TASKS, TRAINABLE_TASKS, get_task, parse_task_names
from nlp_adan.errors import UserError

# Positions counted from 0: text columns : label of train and dev, text columns of test, number of train columns.
POSITIONS = {
    "CoLA": ((3,), 1, (1,), 4),
    "SST-2": ((0,), 1, (1,), 2),
    "MRPC": ((3, 4), 0, (3, 4), 5),
    "STS-B": ((7, 8), 9, (7, 8), 10),
    "QQP": ((3, 4), 5, (1, 2), 6),
    "MNLI": ((8, 9), 11, (8, 9), 12),
    "QNLI": ((1, 2), 3, (1, 2), 4),
    "RTE": ((1, 2), 3, (1, 2), 4),
    "WNLI": ((1, 2), 3, (1, 2), 4),
}
COUNTS = {
    "CoLA": (8551, 1043, 1063),
    "SST-2": (67349, 872, 1821),
    "MRPC": (3668, 408, 1725),
    "STS-B": (5749, 1500, 1379),
    "QQP": (363846, 40430, 390965),
    "MNLI": (392702, 9815, 9832, 9796, 9847),
    "QNLI": (104743, 5463, 5463),
    "RTE": (2490, 277, 3000),
    "WNLI": (635, 71, 146),
    "AX": (1104,),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_columns_stand_where_the_published_files_have_them(name: str) -> None:
    task = TASKS[name]
    text, label, test_text, width = POSITIONS[name]
    train = task.split("train")
    assert (train.text_indexes, train.label_index, len(train.columns)) == (text, label, width)
    for split in task.dev_splits:
        assert split.text_indexes == text
        # MNLI's gold label is behind five annotators' labels in the development files.
        assert split.label_index == (15 if name == "MNLI" else label)
    for split in task.test_splits:
        assert (split.text_indexes, split.label_index) == (test_text, None)


def test_counts_are_the_published_ones() -> None:
    assert {name: tuple(split.num_examples for split in task.splits) for name, task in TASKS.items()} == COUNTS


def test_labels_are_in_the_order_of_the_submission_files() -> None:
    assert TASKS["MNLI"].labels == TASKS["AX"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["RTE"].labels == TASKS["QNLI"].labels == ("entailment", "not_entailment")
    assert TASKS["CoLA"].labels == ("0", "1")
    assert TASKS["STS-B"].labels is None
    assert TASKS["STS-B"].score_range == (0.0, 5.0)


def test_a_submission_has_the_eleven_files() -> None:
    files = [split.submission_file for task in TASKS.values() for split in task.test_splits]
    names = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX"
    assert files == [f"{name}.tsv" for name in names.split()]


def test_only_cola_has_no_header_and_only_ax_no_training_file() -> None:
    headless = [(task.name, split.name) for task in TASKS.values() for split in task.splits if not split.has_header]
    assert headless == [("CoLA", "train"), ("CoLA", "dev")]
    assert [task.name for task in TASKS.values() if not task.is_trainable] == ["AX"]
    assert len(TRAINABLE_TASKS) == 9


def test_score_names_tell_the_two_mnli_files_apart() -> None:
    assert TASKS["MNLI"].score_names == ("accuracy_matched", "accuracy_mismatched")
    assert TASKS["MRPC"].score_names == ("accuracy", "f1")
    assert all(task.main_metric in task.metrics for task in TASKS.values())


def test_names_are_parsed_without_regard_to_case() -> None:
    assert [task.name for task in parse_task_names("cola, RTE,sts-b,rte")] == ["CoLA", "RTE", "STS-B"]
    assert parse_task_names("all") == list(TRAINABLE_TASKS)
    assert parse_task_names("RTE,ALL")[0] is TASKS["RTE"]
    assert len(parse_task_names("RTE,all")) == 9


def test_the_diagnostic_task_can_be_named_where_it_is_only_looked_at() -> None:
    assert [task.name for task in parse_task_names("RTE,ax", with_diagnostic=True)] == ["RTE", "AX"]
    assert parse_task_names("all", with_diagnostic=True) == list(TRAINABLE_TASKS)


def test_a_misspelled_name_may_be_a_file_that_was_meant() -> None:
    with pytest.raises(UserError, match=r"unknown task 'mine'.*or give the path of a \.yaml file that defines one"):
        parse_task_names("CoLA,mine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("SST2", "did you mean 'SST-2'"), ("COLA,MLNI", "did you mean 'MNLI'"), (" , ", "no task"), ("AX", "MNLI")],
)
def test_names_that_cannot_be_used_are_refused(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_task_names(text)


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="dev_matched, dev_mismatched"):
        get_task("MNLI").split("dev")
