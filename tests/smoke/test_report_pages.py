"""HTML pages of GLUE reports in a browser: no console errors, no overflow, readable wide and narrow, light and dark."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from glue_eval.compare import write_comparison
from glue_eval.protocol import Failure
from glue_eval.report import write_glue_report
from glue_eval.tasks import TASKS
from tests.smoke.browser import CHROMIUM, SCHEMES, assert_readable
from tests.unit.glue_runs import protocol_of, write_sweep


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A report with failed, collapsed and partial runs, long names and all plots; and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    tasks = [TASKS[name] for name in ("CoLA", "MRPC", "MNLI", "RTE")]
    own = dataclasses.replace(
        TASKS["RTE"], name="a_task_of_my_own_with_quite_a_long_name", definition=Path("mine.yaml")
    )
    model = "/data/models/checkpoints/experiments/2024/bert-base-wikipedia-and-books-adan-1000000-steps"
    protocol = protocol_of([*tasks, own], model=model)
    results = write_sweep(folder / "one", protocol, collapsed=[("RTE", 2)], failed={("MRPC", 1): "x"})
    results = [dataclasses.replace(run, ax={"all": 0.3}, partial=["train.SAMPLE9999.rebuilt.tsv"] * (run.seed == 1))
               for run in results]  # fmt: skip
    error = "RuntimeError: " + "/a/path/without/any/place/to/break" * 4
    write_glue_report(folder / "one", results, protocol=protocol, failures=[Failure("MRPC", 1, error)])
    write_sweep(folder / "two", protocol_of(tasks, model="runs/other", group_by_length=True))
    write_comparison(folder / "both", [folder / "one", folder / "two"])
    return {name: (folder / path / "report.html").read_text() for name, path in (("report", "one"), ("both", "both"))}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_are_readable_in_a_browser(pages: dict[str, str], scheme: str, tmp_path: Path) -> None:
    assert_readable(pages, scheme, tmp_path)
