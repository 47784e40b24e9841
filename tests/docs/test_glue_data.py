"""docs/glue_data.md: its own task works as it is written there, and so do its commands that need no data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from glue_eval.check_command import check_command
from glue_eval.data import read_split
from glue_eval.listing import list_command
from glue_eval.task_file import KEYS
from glue_eval.tasks import parse_task_names

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "glue_data.md").read_text(encoding="utf-8")


def test_the_task_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (definition,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert definition.count("\n") == 7
    (row,) = re.findall(r"`(\{\"title\".*?\})`", PAGE, flags=re.DOTALL)
    (tmp_path / "headlines.yaml").write_text(definition)
    rows = [json.loads(row), {"title": "a", "summary": "b", "topic": "politics"}]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "train.tsv").write_text("topic\ttitle\tsummary\npolitics\tOne\tTwo\nsports\tThree\tFour\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    check_command(["--tasks", "headlines.yaml"])
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["headlines", "train.tsv", "2"],
        ["headlines", "dev.jsonl", "2"],
    ]
    (task,) = parse_task_names("headlines.yaml")
    assert read_split(tmp_path, task, "dev").labels == [1, 0]


def test_the_keys_of_the_page_are_those_that_there_are() -> None:
    table = PAGE[PAGE.index("| key | |") :].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(KEYS)


def test_list_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`list --json`" in PAGE
    list_command(["--json"])
    assert json.loads(capsys.readouterr().out)["tasks"]["MNLI"]["files"]["train.tsv"] == 392702
