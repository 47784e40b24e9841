"""What a sweep left in its folder, changed by hand or damaged: told with file and remedy, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glue_eval import __main__ as door
from glue_eval.tasks import TASKS
from nlp_adan.errors import UserError
from tests.unit.glue_runs import protocol_of, write_sweep
from tests.unit.glue_sweep import SweepFolder

RUN = "RTE/seed-1-5f40771d"

RESULTS: list[tuple[dict[str, Any], str]] = [
    ({"task": "CoLA"}, "it is that of CoLA seed 1, not of RTE seed 1"),
    ({"seed": 2}, "it is that of RTE seed 2, not of RTE seed 1"),
    ({"seed": "one"}, "seed is 'one'"),
    ({"scores": []}, r"scores is \[\]"),
    ({"scores": {"accuracy": "high"}}, "'high'"),
    ({"scores": {"f1": 0.5}}, "no score 'accuracy'"),
    ({"baseline": None}, "baseline is None"),
    ({"baseline": {"accuracy": "x"}}, "baseline is .*'x'"),
    ({"curve": 5}, "curve is 5"),
    ({"curve": [{"step": "x", "epoch": 1.0, "scores": {}}]}, "curve is .*'x'"),
    ({"timing": None}, "timing is None"),
    ({"timing": {"seconds": "x"}}, "timing is .*'x'"),
    ({"settings": []}, r"settings is \[\]"),
    ({"ax": {"all": "x"}}, "ax is .*'x'"),
    ({"num_train": "many"}, "num_train is 'many'"),
    ({"learning_rate": True}, "learning_rate is True"),
    ({"collapsed": "no"}, "collapsed is 'no'"),
    ({"steps": None}, "steps is None"),
    ({"tokens": 1.5}, "tokens is 1.5"),
    ({"partial": "x"}, "partial is 'x'"),
    ({"speed": 9}, "unknown members of a run result: speed"),
]


def protocol(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plan: plan["protocol"].update(changes)


def first_run(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plan: plan["runs"][0].update(changes)


PLANS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (protocol(tasks=[]), "RTE is not one of its tasks"),
    (protocol(tasks=["Foo"]), "Foo"),
    (protocol(seeds="x"), "seeds is "),
    (protocol(model=None), "model is None"),
    (protocol(data=5), "data is 5"),
    (protocol(environment=[]), r"environment is \[\]"),
    (protocol(checkpoint="worst"), "checkpoint is 'worst'"),
    (first_run(task="CoLA"), "CoLA is not one of its tasks"),
    (first_run(folder=None), "folder None"),
    (first_run(folder="/etc"), "folder '/etc'"),
    (first_run(folder="../elsewhere"), "folder '../elsewhere'"),
    (first_run(seed="one"), "seed 'one'"),
    (lambda plan: plan["runs"].append(plan["runs"][0]), "RTE seed 1 twice"),
    (lambda plan: plan.update(runs=[]), "no runs"),
    (lambda plan: plan.update(runs={}), "no runs"),
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "sweep"
    write_sweep(folder, protocol_of([TASKS["RTE"]], seeds=(1, 2)), num_dev=20)
    assert (folder / RUN / "result.json").is_file()
    return folder


def change(path: Path, function: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    function(values)
    path.write_text(json.dumps(values))


def refused(folder: Path, *words: str) -> str:
    before = {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError) as caught:
        door.main(words)
    assert {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return str(caught.value)


@pytest.mark.parametrize(("changes", "told"), RESULTS)
def test_a_changed_result_is_named(changes: dict[str, Any], told: str, sweep: Path, tmp_path: Path) -> None:
    out = shutil.copytree(sweep, tmp_path / "out")
    change(out / RUN / "result.json", lambda values: values.update(changes))
    with pytest.raises(UserError, match=f"{RUN}/result.json: not the result of a run .*{told}.*: remove it and call"):
        door.main(["report", str(out)])
    before = refused(out, "report", str(out))
    assert refused(out, "report", str(sweep), str(out), "--output_dir", str(tmp_path / "both")) == before
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(("changed", "told"), PLANS)
def test_a_changed_plan_is_named(
    changed: Callable[[dict[str, Any]], Any], told: str, tmp_path: Path, sweep: Path
) -> None:
    out = shutil.copytree(sweep, tmp_path / "out")
    change(out / "plan.json", changed)
    with pytest.raises(UserError, match=f"plan.json: not a plan .*{told}.*: run the command that made the folder"):
        door.main(["report", str(out)])
    assert "plan.json: not a plan" in refused(out, "submit", str(out))


def test_a_submission_takes_the_results_of_its_runs_only(tmp_path: Path) -> None:
    made = SweepFolder(tmp_path / "sweep")
    folder = made.add("WNLI", 1)
    change(folder / "result.json", lambda values: values.update(seed=2))
    assert "it is that of WNLI seed 2, not of WNLI seed 1" in refused(made.folder, "submit", str(made.folder))
