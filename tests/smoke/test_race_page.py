"""The HTML page of a race's report in a browser: readable wide and narrow, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from nlp_adan.race.report import write_race_report
from tests.smoke.browser import CHROMIUM, SCHEMES, assert_readable
from tests.unit.race_runs import full_race, race_of


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A race with everything in it, and a plain one."""
    folder = tmp_path_factory.mktemp("pages")
    races = {"full": full_race(), "plain": race_of({"adamw": [6.12, 6.10, 6.09], "adan": [6.07, 6.06, 6.06]})}
    for name, race in races.items():
        write_race_report(folder / name, race)
    return {name: (folder / name / "report.html").read_text() for name in races}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_is_readable_in_a_browser(pages: dict[str, str], scheme: str, tmp_path: Path) -> None:
    assert_readable(pages, scheme, tmp_path)
