"""Averages by name give the published ones from their rows; a development score never meets a test score."""

from __future__ import annotations

from pathlib import Path

import pytest

from glue_eval.averages import ADAN_ONCE, ADAN_TWICE, BERT_TABLE, OFFICIAL, RULES, mean_over_tasks
from glue_eval.metrics import main_score
from glue_eval.published import ADAN_BERT_BASE, BERT_BASE, BERT_LARGE, PUBLISHED, PublishedRow
from glue_eval.tasks import TASKS, TRAINABLE_TASKS, Task
from nlp_adan.reporting import Note, Table
from tests.unit.glue_runs import protocol_of, run_of

# Devlin et al. 2019: BERT-large on the leaderboard with all nine tasks, whose average is 80.5.
BERT_LARGE_NINE = {
    "CoLA": {"matthews": 60.5},
    "SST-2": {"accuracy": 94.9},
    "MRPC": {"f1": 89.3, "accuracy": 85.4},
    "STS-B": {"pearson": 87.6, "spearman": 86.5},
    "QQP": {"f1": 72.1, "accuracy": 89.3},
    "MNLI": {"accuracy_matched": 86.7, "accuracy_mismatched": 85.9},
    "QNLI": {"accuracy": 92.7},
    "RTE": {"accuracy": 70.1},
    "WNLI": {"accuracy": 65.1},
}


@pytest.mark.parametrize(
    ("row", "rule", "printed", "decimals"),
    [(BERT_BASE, BERT_TABLE, 79.6, 1), (BERT_LARGE, BERT_TABLE, 82.1, 1),
     (ADAN_BERT_BASE, ADAN_TWICE, 84.28, 2), (ADAN_BERT_BASE, ADAN_ONCE, 84.08, 2)],
)  # fmt: skip
def test_rules_give_the_published_averages_from_their_rows(
    row: PublishedRow, rule: object, printed: float, decimals: int
) -> None:
    assert dict(row.averages)[rule] == printed  # type: ignore[index]
    assert rule.of(row.scores) == pytest.approx(printed, abs=0.5001 * 10**-decimals)  # type: ignore[attr-defined]


def test_the_official_average_gives_the_leaderboards() -> None:
    assert main_score(TASKS["MRPC"], BERT_LARGE_NINE["MRPC"]) == pytest.approx(87.35)
    assert round(OFFICIAL.of(BERT_LARGE_NINE), 1) == 80.5
    assert OFFICIAL.tasks == {task.name for task in TRAINABLE_TASKS}
    with pytest.raises(KeyError, match="WNLI"):
        OFFICIAL.of({name: values for name, values in BERT_LARGE_NINE.items() if name != "WNLI"})


def test_a_mean_over_other_tasks_says_over_how_many() -> None:
    rule = mean_over_tasks({name: TASKS[name].score_names for name in ("CoLA", "MRPC")})
    assert rule.name == "mean over the 2 tasks run"
    assert rule.of(BERT_LARGE_NINE) == pytest.approx((60.5 + 87.35) / 2)


def test_published_scores_are_of_known_tasks_and_scores_and_in_range() -> None:
    assert [row.split for row in PUBLISHED] == ["dev", "dev", "test", "test"]
    for row in PUBLISHED:
        assert row.source and row.statistic and row.title.endswith(f"({row.split})")
        for task, scores in row.scores.items():
            assert set(scores) <= set(TASKS[task].score_names)
            assert all(45 < value < 100 for value in scores.values())
    for rule in RULES:
        for group in rule.groups:
            assert all(score in TASKS[task].score_names for task, score in group)


def test_only_development_rows_have_a_delta() -> None:
    assert ADAN_BERT_BASE.delta("CoLA", "matthews", 0.656) == pytest.approx(1.0)
    assert ADAN_BERT_BASE.delta("MRPC", "f1", 0.9) is None
    assert BERT_BASE.delta("CoLA", "matthews", 0.656) is None


def test_a_report_shows_test_rows_without_difference() -> None:
    from glue_eval.score_tables import published_section
    from glue_eval.summary import averages, summarize

    protocol = protocol_of()
    summaries = summarize([run_of(task.name, 1, 0.6) for task in TRAINABLE_TASKS], protocol)
    scores, means, *_ = published_section(summaries, averages(summaries), protocol).blocks
    assert isinstance(scores, Table) and isinstance(means, Table)

    def cells(table: Table, width: int) -> dict[tuple[str, ...], dict[str, str]]:
        heads = [column.name for column in table.columns]
        return {row[:width]: dict(zip(heads, row, strict=True)) for row in table.rows}

    rows = cells(scores, 2)
    cola = rows["CoLA", "Matthews"]
    assert (cola["Adan BERT-base (dev)"], cola["run_glue BERT-base (dev)"]) == ("64.6 (-4.6)", "56.5 (+3.5)")
    assert (cola["BERT-base (test)"], cola["BERT-large (test)"]) == ("52.1", "60.5")
    assert rows["QNLI", "accuracy"]["run_glue BERT-base (dev)"] == "-"  # not checked: never shown
    assert ("STS-B", "Spearman") in rows and ("WNLI", "accuracy") not in rows
    assert cells(means, 1)[ADAN_TWICE.name,]["Adan BERT-base (dev)"] == "84.3 (-24.3)"
    assert cells(means, 1)[BERT_TABLE.name,]["BERT-base (test)"] == "79.6"


OWN = Task("mine", TASKS["RTE"].splits, ("a", "b"), ("accuracy",), "accuracy", definition=Path("mine.yaml"))


@pytest.mark.parametrize("what", ["sample", "partial", "own", "limit", "short train", "short dev", "mnli"])
def test_what_is_not_whole_glue_is_compared_with_nothing(what: str) -> None:
    from glue_eval.score_tables import deltas, published_section
    from glue_eval.summary import averages, summarize

    task, run = TASKS["RTE"], run_of("RTE", 1, 0.6)
    changes: dict[str, object] = {}
    why = ""
    if what == "own":
        task, run = OWN, run_of("mine", 1, {"accuracy": 0.6})
    elif what == "partial":
        run, why = run_of("RTE", 1, 0.6, partial=["train.SAMPLE320.tsv"]), "(train.SAMPLE320.tsv)"
    elif what == "limit":  # as a file of one's own sets it for a single task
        settings = {"max_train_examples": 50}
        run, why = run_of("RTE", 1, 0.6, num_train=50, settings=settings), "(50 of 2,490 training examples)"
    elif what == "short train":  # a file that bears the whole one's name
        run, why = run_of("RTE", 1, 0.6, num_train=500), "(500 of 2,490 training examples)"
    elif what == "short dev":
        run, why = run_of("RTE", 1, 0.6, num_dev=100), "(100 of 277 development examples)"
    elif what == "mnli":
        run = run_of("RTE", 1, 0.6, start="runs/mnli")
    else:
        changes = {"is_sample": True}
    protocol = protocol_of([task], **changes)
    summaries = summarize([run], protocol)
    (note,) = published_section(summaries, averages(summaries), protocol).blocks
    assert isinstance(note, Note) and note.text.startswith("Nothing is compared: ")
    assert why in note.text and bool(summaries[0].partial) == bool(why)
    assert deltas(summaries[0], summaries[0].scores[0], protocol) == {}
    whole = protocol_of([TASKS["RTE"]])
    (summary,) = summarize([run_of("RTE", 1, 0.6)], whole)
    assert set(deltas(summary, summary.scores[0], whole)) == {row.title for row in PUBLISHED[:2]}
