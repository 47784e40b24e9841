"""`python -m glue_eval list`."""

from __future__ import annotations

import json

import pytest

from glue_eval.listing import list_command
from glue_eval.published import PUBLISHED
from glue_eval.tasks import TASKS
from nlp_adan.errors import UserError


def test_programs_get_every_fact(capsys: pytest.CaptureFixture[str]) -> None:
    list_command(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["tasks"]) == list(TASKS)
    assert found["tasks"]["STS-B"] == {
        "files": {"train.tsv": 5749, "dev.tsv": 1500, "test.tsv": 1379},
        "metrics": ["pearson", "spearman"],
        "labels": None,
        "score_range": [0.0, 5.0],
        "max_length": 128,
    }
    assert found["tasks"]["RTE"]["labels"] == ["entailment", "not_entailment"]
    assert {"adan", "adamw"} <= set(found["recipes"])
    assert [(row["name"], row["split"]) for row in found["published"]] == [(row.name, row.split) for row in PUBLISHED]


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    list_command([])
    lines = capsys.readouterr().out.splitlines()
    (mnli,) = (line for line in lines if line.startswith("MNLI"))
    assert "392,702, 9,815 + 9,832, 9,796 + 9,847  accuracy" in mnli and mnli.endswith("contradiction")
    (ax,) = (line for line in lines if line.startswith("AX"))
    assert "-, -, 1,104" in ax
    assert any(line.startswith("recipes: ") and "adan" in line for line in lines)
    assert len(lines) == 1 + len(TASKS) + 3 + len(PUBLISHED)


def test_a_misspelled_option_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown option '--jsn'"):
        list_command(["--jsn"])
