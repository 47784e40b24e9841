"""The wheel holds every file of our packages, and the locks hold what pyproject.toml asks for."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("nlp_adan", "bert", "transformer_xl", "glue_eval", "ds_configs")
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def build(kind: str, source: Path, target: Path) -> Path:
    """What a front end such as `build` or pip runs, without the network: the archive made of a source folder."""
    target.mkdir()
    program = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", program, str(target)], cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (archive,) = target.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution, as `python -m build` makes it; of a copy, since a build leaves files."""
    version = importlib.metadata.version("setuptools")
    if int(version.split(".")[0]) < 77:
        pytest.skip(f"building takes setuptools 77 or newer, found {version}")
    folder = tmp_path_factory.mktemp("build")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(
        PROJECT,
        folder / "copy",  # without the runs that someone trained here
        ignore=lambda where, names: unwanted(where, names) | ({"runs"} if Path(where) == PROJECT else set()),
    )
    with tarfile.open(build("sdist", folder / "copy", folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return build("wheel", source, folder / "wheel")


def files_of_packages() -> Iterator[str]:
    yield from ("run_pretrain.py", "run_race.py")
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                yield path.relative_to(PROJECT).as_posix()


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set(files_of_packages())
    assert packed == expected
    assert {Path(name).suffix for name in expected} >= {".py", ".cpp", ".html", ".yaml", ".json"}


def test_an_installed_copy_finds_its_files_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    zipfile.ZipFile(wheel).extractall(installed)
    program = """
import runpy, sys
from nlp_adan.kernels import cpu
print(cpu.__file__)
sys.argv = ["nlp_adan", "--ds-config", "zero2"]
runpy.run_module("nlp_adan", run_name="__main__")
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kernel, ds_config = run.stdout.split()
    assert kernel == str(installed / "nlp_adan" / "kernels" / "cpu.py") and Path(kernel).with_name("adan.cpp").is_file()
    assert ds_config == str(installed / "ds_configs" / "zero2.json")


def requirements(*extras: str) -> list[Requirement]:
    """The requirements of some extras; an extra that stands for others is spelled out."""
    found = []
    for text in (line for extra in extras for line in METADATA["optional-dependencies"][extra]):
        requirement = Requirement(text)
        own = requirement.name == METADATA["name"]
        found += requirements(*requirement.extras) if own else [requirement]
    return found


def test_the_optimizer_alone_needs_torch_only() -> None:
    assert [Requirement(text).name for text in METADATA["dependencies"]] == ["torch"]
    assert {requirement.name for requirement in requirements("hf")} == {"transformers", "accelerate"}
    assert [requirement.name for requirement in requirements("deepspeed")] == ["deepspeed"]


def test_the_locks_hold_what_is_asked_for() -> None:
    lines = [line for name in ("requirements.lock", "requirements-test.lock") for line in read_lock(PROJECT / name)]
    locked = {canonicalize_name(line.name): next(iter(line.specifier)).version for line in lines}
    base = [Requirement(text) for text in METADATA["dependencies"]]
    for requirement in [*base, *requirements("all", "test")]:
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked to {version}"


def read_lock(path: Path) -> list[Requirement]:
    return [Requirement(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
