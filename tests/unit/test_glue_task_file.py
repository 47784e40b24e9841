"""One's own tasks: what a definition makes, that it works where a GLUE task does, and every mistake with its line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from glue_eval.data import read_split, split_paths
from glue_eval.metrics import METRICS, score
from glue_eval.task_file import CLASS_METRICS, SCORE_METRICS, read_task_file
from glue_eval.tasks import TASKS, parse_task_names
from nlp_adan.errors import UserError

TOPICS = """name: headlines
train: train.tsv
dev: more/dev.jsonl
text: [title, summary]
label: topic
labels: [no, 1.0, sports]
metrics: [accuracy, matthews]
"""
GRADES = """name: grades
train: train.jsonl
dev: dev.tsv
test: test.tsv
text: answer
label: grade
score_range: [-1, 1]
max_length: 64
"""


def write_topics(folder: Path, definition: str = TOPICS) -> Path:
    """A task with two texts and three labels, of which YAML would make a truth value and a number."""
    (folder / "more").mkdir(parents=True, exist_ok=True)
    table = ["id\ttopic\ttitle\tsummary", 'a\tno\tOne "title\tA summary', "b\tsports\tTwo\tAnother", "c\t1.0\tThree\tX"]
    (folder / "train.tsv").write_text("\n".join(table) + "\n")
    rows = [{"title": "Four", "summary": "Y", "topic": 1.0, "x": None}, {"topic": "no", "summary": "", "title": "Five"}]
    (folder / "more" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "topics.yaml"
    path.write_text(definition)
    return path


def write_grades(folder: Path, definition: str = GRADES) -> Path:
    """A regression task of one text, with a test file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"answer": "good", "grade": 1}, {"answer": "bad", "grade": "-0.5"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dev.tsv").write_text("grade\tanswer\n0.25\tso so\n")
    (folder / "test.tsv").write_text("answer\nunknown\n\nlast\n")
    path = folder / "grades.yml"
    path.write_text(definition)
    return path


def test_a_task_with_labels(tmp_path: Path) -> None:
    task = read_task_file(write_topics(tmp_path))
    assert (task.name, task.labels, task.metrics) == ("headlines", ("no", "1.0", "sports"), ("accuracy", "matthews"))
    assert (task.main_metric, task.max_length, task.is_regression) == ("accuracy", 128, False)
    train = read_split(Path("no such folder"), task, "train")
    assert train.texts == [('One "title', "A summary"), ("Two", "Another"), ("Three", "X")]
    assert (train.labels, train.ids) == ([0, 2, 1], ["0", "1", "2"])
    dev = read_split(tmp_path, task, "dev")
    assert (dev.texts, dev.labels) == ([("Four", "Y"), ("Five", "")], [1, 0])
    assert split_paths(tmp_path / "x", task) == {
        "train": tmp_path / "train.tsv",
        "dev": tmp_path / "more" / "dev.jsonl",
    }
    assert set(score(task, [0, 1], [0, 2]).values) == {"accuracy", "matthews"} == set(task.score_names)


def test_a_task_with_scores(tmp_path: Path) -> None:
    task = read_task_file(write_grades(tmp_path))
    assert (task.labels, task.score_range, task.metrics) == (None, (-1.0, 1.0), ("pearson", "spearman"))
    assert (task.max_length, [split.name for split in task.test_splits]) == (64, ["test"])
    train = read_split(tmp_path, task, "train")
    assert (train.texts, train.labels) == ([("good", None), ("bad", None)], [1.0, -0.5])
    test = read_split(tmp_path, task, "test")
    assert (test.texts, test.labels) == ([("unknown", None), ("", None), ("last", None)], None)


def test_it_goes_to_another_process_and_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_topics(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    tasks = parse_task_names("RTE, topics.yaml,./topics.yaml")
    assert [task.name for task in tasks] == ["RTE", "headlines"]
    assert tasks[0] is TASKS["RTE"]
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(tasks[1]))
    assert again == tasks[1]
    assert again.definition == tmp_path / "mine" / "topics.yaml"
    assert len(read_split(tmp_path, again, "train")) == 3


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [write_topics(tmp_path / folder) for folder in ("a", "b")]
    with pytest.raises(UserError, match=r"a.topics\.yaml and .*b.topics\.yaml both define 'headlines'"):
        parse_task_names([str(path) for path in paths])


def test_the_metrics_are_those_that_there_are() -> None:
    assert {*CLASS_METRICS, *SCORE_METRICS} == set(METRICS)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("label: topic\n", "", r"topics\.yaml:1: no 'label': add a line `label"),
        ("name: headlines", "name: RTE", r"topics\.yaml:1: 'RTE' is a task of GLUE's: choose another name"),
        ("name: headlines", "name: a/b", r"topics\.yaml:1: name 'a/b' cannot be used: use at most 64"),
        ("name: headlines", "name: [a]", r"topics\.yaml:1: 'name' takes one value"),
        ("label: topic", "lable: topic", r"topics\.yaml:5: unknown key 'lable' \(did you mean 'label'\?\): possible"),
        ("label: topic", "text: topic", r"topics\.yaml:5: 'text' stands here for the second time"),
        ("train: train.tsv", "train: trian.tsv", r":2: no file .*trian\.tsv \(did you mean 'train\.tsv'\?\): paths"),
        ("train: train.tsv", "train: topics.yaml", r"topics\.yaml:2: 'topics\.yaml' is neither \.tsv nor \.jsonl"),
        ("[title, summary]", "[title, sumary]", r":4: .*train\.tsv:1 has no column 'sumary' \(did you mean 'summary'"),
        ("[title, summary]", "[title, summary, id]", r"topics\.yaml:4: 3 columns of text: name one or two"),
        ("[title, summary]", "[title, title]", r"topics\.yaml:4: 'title' stands twice in 'text'"),
        ("[title, summary]", "{a: b}", r"topics\.yaml:4: 'text' takes a list"),
        ("label: topic", "label: title", r"topics\.yaml:5: 'title' is a column of text too"),
        ("label: topic", "label: subject", r"topics\.yaml:5: .*train\.tsv:1 has no column 'subject'.*it has id, topic"),
        ("labels: [no, 1.0, sports]\n", "", r"neither of 'labels' and 'score_range': give `labels"),
        ("[accuracy, matthews]", "[accuracy]\nscore_range: [0, 1]", r"both of 'labels' and 'score_range'"),
        ("[no, 1.0, sports]", "[no]", r"topics\.yaml:6: one label only"),
        ("[accuracy, matthews]", "[acuracy]", r":7: 'acuracy' is no metric of a task with labels \(did you mean 'acc"),
        ("[accuracy, matthews]", "pearson", r"topics\.yaml:7: 'pearson' is no metric.*use accuracy, f1, matthews"),
        ("[accuracy, matthews]", "f1", r"topics\.yaml:7: f1 is that of the second of two labels, this task has 3"),
        ("metrics: [accuracy, matthews]", "max_length: 3", r"topics\.yaml:7: max_length '3' is out of range"),
        ("label: topic", "label: [topic", r"topics\.yaml:\d: not a YAML file"),
        (TOPICS, "- a\n- b\n", r"topics\.yaml:1: no `key: value` lines"),
    ],
)
def test_a_mistake_in_a_definition_is_named_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in TOPICS
    path = write_topics(tmp_path, TOPICS.replace(old, new))
    with pytest.raises(UserError, match=expected):
        read_task_file(path)


@pytest.mark.parametrize("value", ["[1, 0]", "[0, high]", "5", "[0, .inf]"])
def test_a_score_range_is_two_numbers_in_order(tmp_path: Path, value: str) -> None:
    path = write_grades(tmp_path, GRADES.replace("[-1, 1]", value))
    with pytest.raises(UserError, match=r"grades\.yml:7: 'score_range' takes two numbers, the lower first"):
        read_task_file(path)


def test_a_missing_definition_names_the_nearest(tmp_path: Path) -> None:
    write_topics(tmp_path)
    with pytest.raises(UserError, match=r"no file .*topic\.yaml \(did you mean 'topics\.yaml'\?\)"):
        parse_task_names(str(tmp_path / "topic.yaml"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"answer": "good", "grade": 7}', r"train\.jsonl:3: score 7 is outside grades's range: use -1 to 1"),
        ('{"answer": "good", "grade": null}', r"train\.jsonl:3: member 'grade' is null, not text"),
        ('{"answer": 5, "grade": 1}', r"train\.jsonl:3: member 'answer' is 5, not text"),
        ('{"anwser": "good", "grade": 1}', r"train\.jsonl:3: has no member 'answer' \(did you mean 'anwser'\?\)"),
        ('{"answer": "good"', r"train\.jsonl:3: not JSON \("),
        ('["good", 1]', r"train\.jsonl:3: a JSON list instead of an object"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str, expected: str) -> None:
    task = read_task_file(write_grades(tmp_path))
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=expected):
        read_split(tmp_path, task, "train")


def test_a_bad_row_of_ones_own_table_is_named(tmp_path: Path) -> None:
    task = read_task_file(write_topics(tmp_path))
    with open(tmp_path / "train.tsv", "a") as file:
        file.write("d\tsport\tFour\tW\n")
    with pytest.raises(UserError, match=r"train\.tsv:5: label 'sport' is not one of headlines's \(did you mean"):
        read_split(tmp_path, task, "train")
    (tmp_path / "train.tsv").write_text("id\ttopic\tsummary\ttitle\n")
    with pytest.raises(UserError, match=r"train\.tsv:1: the header is not headlines's.*in another order"):
        read_split(tmp_path, task, "train")
