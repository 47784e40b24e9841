"""For every test: the environment is afterwards what it was before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Options with a DeepSpeed configuration set the variables of a single rank; no later test may inherit them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
