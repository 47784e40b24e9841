"""What a run's result depends on besides its options: the code that computes and the versions of the libraries."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from nlp_adan.storage import sha256_file, sha256_json
from nlp_adan.training.environment import PROJECT_FOLDER

OURS = ("nlp_adan", "bert", "transformer_xl", "glue_eval")
LIBRARIES = ("torch", "transformers", "tokenizers")


def versions() -> dict[str, str]:
    """Of the libraries that compute."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@functools.cache
def code_sha256(*computes: str) -> str:
    """The hash of the sources that a run executes: these modules and whatever of ours they import, directly or not."""
    modules, waiting = set(computes), list(computes)
    while waiting:
        new = set(_imports(waiting.pop())) - modules
        modules |= new
        waiting += new
    paths = sorted(path for module in modules for path in _files(module))
    return sha256_json({str(path.relative_to(PROJECT_FOLDER)): sha256_file(path) for path in paths})


def _source(module: str) -> Path | None:
    """The file of a module of ours; None for one that is not in the project's folder."""
    path = PROJECT_FOLDER.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _files(module: str) -> Iterator[Path]:
    """A module's source, and the sources in other languages beside it."""
    path = _source(module)
    assert path is not None, module
    yield path
    yield from path.parent.glob("*.cpp")


def _imports(module: str) -> Iterator[str]:
    """The modules of ours that a module imports, anywhere in it, and the packages that they are in."""
    path = _source(module)
    assert path is not None, module
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            packages = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
            yield from (package_name for package_name in packages if _is_ours(package_name))


def _is_ours(module: str) -> bool:
    """Whether it is a module of ours. Installed, the libraries lie beside it."""
    return module.split(".")[0] in OURS and _source(module) is not None
