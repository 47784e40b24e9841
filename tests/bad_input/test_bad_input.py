"""Every case of the catalogue: exit code 2, the value and the remedy told, no traceback, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input import page
from tests.bad_input.case import Case, ground_folder, try_case
from tests.bad_input.catalogue import CATALOGUE, COMMANDS

CASES = [
    pytest.param(command, case, id=f"{command}-{case.what}") for command, cases in CATALOGUE.items() for case in cases
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is good; a disk that others use takes a tenth of a second and more for each sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield ground_folder(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize(("command", "case"), CASES)
def test_bad_input(command: str, case: Case, ground: Path) -> None:
    wrong = try_case(COMMANDS[command], case, ground)
    assert not wrong, "\n".join(wrong)


def test_the_catalogue_is_over_every_command() -> None:
    assert set(CATALOGUE) == set(COMMANDS)
    assert sum(map(len, CATALOGUE.values())) >= 60
    for command, cases in CATALOGUE.items():
        assert len({case.what for case in cases}) == len(cases) > 0, f"two cases of {command} have one name"
        assert all(case.told for case in cases)


def test_the_page_is_current() -> None:
    """`python -m tests.bad_input.page` writes it."""
    assert page.PAGE.read_text(encoding="utf-8") == page.text({name: len(cases) for name, cases in CATALOGUE.items()})
