"""GLUE from the hub: the data set's layout in a local folder, read by the library that reads the hub's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import constants

from glue_eval import hub_data
from glue_eval.check_command import check_command
from glue_eval.data import read_split
from glue_eval.data_checks import PARTIAL, check_files
from glue_eval.hub_data import HUB_TASKS, hub_folder
from glue_eval.tasks import TASKS, Task
from nlp_adan.corpora import hub_corpus
from nlp_adan.errors import UserError

REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
# As on the hub: names of the labels by number, in the hub's own order.
LABELS: dict[str, list[str]] = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
    "ax": ["entailment", "neutral", "contradiction"],
}


def write_hub(
    folder: Path,
    labels: dict[str, list[str]] = LABELS,
    edit: Callable[[str, dict[str, Any]], None] = lambda *given: None,
    names_of_tasks: Sequence[str] = tuple(TASKS),
) -> None:
    """Six rows a split, as parquet files by configuration under a card; `edit(file, columns)` may change them."""
    configs = []
    for task in (TASKS[name] for name in names_of_tasks):
        hub = HUB_TASKS[task.name]
        names = labels.get(hub.configuration)
        label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
        columns = {name: datasets.Value("string") for name in hub.text_columns}
        features = datasets.Features({**columns, "label": label, "idx": datasets.Value("int32")})
        files = []
        for layout in task.splits:
            split = layout.name.replace("dev", "validation")
            values: dict[str, Any] = {name: [f"{split} {name} {n}" for n in range(6)] for name in hub.text_columns}
            known = [n % len(names) for n in range(6)] if names else [n * 0.76 for n in range(6)]
            values |= {"label": known if layout.label_column else [-1] * 6, "idx": list(range(6))}
            edit(f"{hub.configuration}/{split}", values)
            path = folder / hub.configuration / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(values, features=features).to_parquet(path)
            files.append({"split": split, "path": f"{hub.configuration}/{split}-*"})
        configs.append({"config_name": hub.configuration, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, written once for this file, with what real texts have in them."""

    def edit(file: str, columns: dict[str, Any]) -> None:
        if file == "mrpc/train":
            columns["sentence1"][:2] = ['"An open one\tand a tab', "Two\r\nlines"]
        if file == "rte/test":
            columns["idx"].reverse()
        if file == "mrpc/test":
            columns["label"] = [1] * 6  # the hub has this file's labels

    folder = tmp_path_factory.mktemp("hub") / "glue"
    write_hub(folder, edit=edit)
    return folder


@pytest.fixture
def online(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hub can be reached and is `hub`; the revisions that it is asked for come into the list."""
    loaded: list[str] = []
    load = datasets.load_dataset

    def load_dataset(path: str, configuration: str, **options: Any) -> Any:
        assert options.pop("revision") == REVISION  # a folder has none
        loaded.append(f"{configuration}/{options['split']}")
        return load(path, configuration, **options)

    datasets.disable_progress_bars()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_data, "HUB_NAME", str(hub))
    monkeypatch.setattr(hub_corpus, "_find_revision", lambda *given: REVISION)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    yield loaded
    datasets.enable_progress_bars()


def all_tasks() -> list[Task]:
    return list(TASKS.values())


def test_all_tasks_are_read_like_the_original_files(online: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub_folder(all_tasks())
    assert folder.name == f"hub_glue-v1-{REVISION[:12]}"
    for task in TASKS.values():
        for layout in task.splits:
            split = read_split(folder, task, layout.name)
            assert split.ids == [str(number) for number in range(6)]
            if layout.label_column is None:
                assert split.labels is None
            elif task.is_regression:
                assert split.labels == pytest.approx([0.0, 0.76, 1.52, 2.28, 3.04, 3.8])
            else:
                # The hub's order of labels is the task's where both are the same numbers.
                assert split.labels == [number % len(task.labels or ()) for number in range(6)]
    checks = check_files(folder, all_tasks(), allow_partial=True)
    assert {check.state for check in checks} == {PARTIAL}
    assert [str(problem) for check in checks for problem in check.problems if problem.is_error] == []
    assert len(online) == len(set(online)) == sum(len(task.splits) for task in TASKS.values())
    assert "6 examples of AX in " in capsys.readouterr().err


def test_texts_and_test_files(online: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub_folder([TASKS["MRPC"], TASKS["RTE"]])
    texts = read_split(folder, TASKS["MRPC"], "train").texts
    assert [first for first, _ in texts[:2]] == ['"An open one and a tab', "Two  lines"]
    assert "18 examples of MRPC in" in (told := capsys.readouterr().err)
    assert "MRPC, blanks for the tabs and line ends of 2 texts" in told.replace(f" in {folder}/MRPC", "")
    source = json.loads((folder / "MRPC" / "source.json").read_text())
    assert (source["configuration"], source["revision"]) == ("mrpc", REVISION)
    assert source["files"]["train.tsv"] == {"examples": 6, "texts_with_blanks_for_tabs_and_line_ends": 2}
    assert "Quality" not in (folder / "MRPC" / "test.tsv").read_text()
    # Numbered backwards in the data set: the file is in the order of its numbers.
    assert read_split(folder, TASKS["RTE"], "test").texts[0][0] == "test sentence1 5"


def test_a_task_is_loaded_once_and_ax_comes_with_mnli(online: list[str]) -> None:
    folder = hub_folder([TASKS["RTE"]])
    assert sorted(path.name for path in folder.iterdir()) == ["RTE"]
    assert online == ["rte/train", "rte/validation", "rte/test"]
    assert hub_folder([TASKS["RTE"], TASKS["MNLI"]]) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["AX", "MNLI", "RTE"]
    assert online[3:] == [
        "mnli/train", "mnli/validation_matched", "mnli/validation_mismatched", "mnli/test_matched",
        "mnli/test_mismatched", "ax/test",
    ]  # fmt: skip


def test_labels_are_matched_by_name(tmp_path: Path, online: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    turned = {**LABELS, "mnli": ["contradiction", "entailment", "neutral"], "wnli": ["entailment", "not_entailment"]}
    write_hub(tmp_path / "turned", turned, names_of_tasks=("MNLI", "AX", "WNLI"))
    monkeypatch.setattr(hub_data, "HUB_NAME", str(tmp_path / "turned"))
    folder = hub_folder([TASKS["MNLI"], TASKS["WNLI"]])
    assert read_split(folder, TASKS["MNLI"], "train").labels == [2, 0, 1, 2, 0, 1]
    assert read_split(folder, TASKS["WNLI"], "dev").labels == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "edit", "expected"),
    [
        ({"rte": ["yes", "no"]}, None, r"rte, train: its labels are yes, no, not entailment, not_entailment"),
        ({"rte": []}, None, r"rte, train: its labels are without names"),
        ({}, lambda columns: columns.update(label=[0, 1, -1, 0, 1, 0]), r"rte, validation, row 2: no label \(-1\)"),
    ],
)
def test_another_data_set_is_refused(
    tmp_path: Path, online: list[str], monkeypatch: pytest.MonkeyPatch, labels: dict[str, list[str]],
    edit: Callable[[dict[str, Any]], None] | None, expected: str,
) -> None:  # fmt: skip
    def change(file: str, columns: dict[str, Any]) -> None:
        if edit and file == "rte/validation":
            edit(columns)

    write_hub(tmp_path / "other", {**LABELS, **labels}, change, names_of_tasks=("RTE",))
    monkeypatch.setattr(hub_data, "HUB_NAME", str(tmp_path / "other"))
    with pytest.raises(UserError, match=expected):
        hub_folder([TASKS["RTE"]])
    assert not list((tmp_path / "cache").glob("hub_glue*/RTE"))


def test_without_the_hub_what_was_written_is_taken(
    online: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub_folder([TASKS["RTE"]])
    asked = len(online)

    def unreachable(*given: Any) -> None:
        raise UserError("the hub cannot be reached")

    monkeypatch.setattr(hub_corpus, "_find_revision", unreachable)
    capsys.readouterr()
    assert hub_folder([TASKS["RTE"]]) == folder
    assert f"taking {folder}, whether it is the newest is not known (the hub cannot" in capsys.readouterr().err
    with pytest.raises(UserError, match="the hub cannot be reached"):
        hub_folder([TASKS["CoLA"]])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_folder([TASKS["RTE"]]) == folder
    assert len(online) == asked


def test_a_hub_that_is_switched_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    with pytest.raises(
        UserError, match=r"--data hub: GLUE \(nyu-mll/glue\) is not in the cache folder yet, and .*HF_HUB_OFF"
    ):
        check_command(["--data", "hub", "--tasks", "RTE"])
    assert not (tmp_path / "cache").exists()
