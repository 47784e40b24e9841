"""No file of ours calls what can run code that somebody put into a file: a walk over the syntax trees.

What the libraries do on our behalf is tested with such files (tests/unit/test_malicious_pickles.py).
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("nlp_adan", "bert", "transformer_xl", "glue_eval", "benchmarks", "examples")

# Calls that are refused whatever their arguments are. A name that ends in a dot stands for all that begins so.
REFUSED = (
    "pickle.load", "pickle.loads", "pickle.Unpickler", "_pickle.", "dill.", "cloudpickle.", "joblib.", "shelve.",
    "marshal.", "pandas.read_pickle", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
    "yaml.full_load_all", "torch.jit.load", "torch.hub.load", "torch.package.", "torch.serialization.load",
    "torch.serialization.add_safe_globals", "torch.distributed.checkpoint.", "evaluate.load", "eval", "exec",
    "compile", "__import__", "os.system", "os.popen",
)  # fmt: skip
# Calls that are taken with this argument only; None: the argument may be left out.
WANTED: dict[str, tuple[str, tuple[object, ...]]] = {
    "torch.load": ("weights_only", (True,)),
    "numpy.load": ("allow_pickle", (False, None)),
    "numpy.lib.format.read_array": ("allow_pickle", (False, None)),
    "shutil.unpack_archive": ("filter", ("data",)),
    **{f"yaml.{name}": ("Loader", ("SafeLoader",)) for name in ("load", "load_all", "compose", "compose_all", "parse")},
}
# Methods, of whatever object, likewise. tarfile and zipfile have them: without a filter tarfile writes anywhere.
WANTED_OF_METHODS: dict[str, tuple[str, tuple[object, ...]]] = {
    "extractall": ("filter", ("data",)),
    "extract": ("filter", ("data",)),
}
# Keywords that are refused in every call.
REFUSED_KEYWORDS = {"weights_only": False, "allow_pickle": True, "trust_remote_code": True, "shell": True}


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((PROJECT / folder).rglob("*.py"))
    yield from sorted(PROJECT.glob("*.py"))


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each name of an import stands for: np -> numpy, loads -> pickle.loads."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what is called; with `?` for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def value_of(node: ast.expr) -> object:
    """A constant, or the last part of a name (`yaml.SafeLoader`)."""
    if isinstance(node, ast.Constant):
        return node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "?")


def wrong_calls(source: str) -> list[str]:
    """`line: call` of every call that is refused."""
    tree = ast.parse(source)
    names, wrong = imported_names(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, names)
        given = {keyword.arg: value_of(keyword.value) for keyword in node.keywords}
        method = called.rpartition(".")[2]
        name, taken = WANTED.get(called) or WANTED_OF_METHODS.get(method) or ("", ())
        # A class that looks into a folder for the code of its model.
        if ".Auto" in f".{called}" and method in ("from_pretrained", "from_config"):
            name, taken = "trust_remote_code", (False,)
        refused = any(called == each or (each.endswith(".") and called.startswith(each)) for each in REFUSED)
        if refused or (name and given.get(name) not in taken):
            wrong.append(f"{node.lineno}: {called}")
        wrong += [f"{node.lineno}: {key}={bad}" for key, bad in REFUSED_KEYWORDS.items() if given.get(key) is bad]
    return wrong


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(PROJECT))) for path in sources()])
def test_a_file_runs_nothing_that_it_loads(path: Path) -> None:
    assert wrong_calls(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "from torch import load as read; read(path)",
        "import pickle; pickle.load(file)",
        "from pickle import loads; loads(text)",
        "import pickle; pickle.Unpickler(file).load()",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "import yaml; yaml.load(text)",
        "import yaml; yaml.load(text, Loader=yaml.UnsafeLoader)",
        "import yaml; yaml.unsafe_load(text)",
        "import joblib; joblib.load(path)",
        "import pandas as pd; pd.read_pickle(path)",
        "import tarfile; tarfile.open(path).extractall(folder)",
        "archive.extract(member, folder)",
        "import shutil; shutil.unpack_archive(path)",
        "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(folder)",
        "from transformers import AutoModel; AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "import transformers; transformers.AutoConfig.from_pretrained(folder)",
        "model_class.from_pretrained(folder, weights_only=False)",
        "import torch.distributed.checkpoint as dcp; dcp.load(state, checkpoint_id=folder)",
        "import evaluate; evaluate.load(folder)",
        "eval(text)",
        "import subprocess; subprocess.run(text, shell=True)",
    ],
)
def test_the_walk_finds(source: str) -> None:
    assert wrong_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, map_location='cpu', weights_only=True)",
        "import pickle; pickle.dumps(value)",
        "import numpy as np; np.load(path, mmap_mode='r')",
        "import yaml; yaml.safe_load(text); yaml.compose(text, Loader=yaml.SafeLoader)",
        "import tarfile; tarfile.open(path).extractall(folder, filter='data')",
        "from transformers import AutoConfig; AutoConfig.from_pretrained(folder, trust_remote_code=False)",
        "import re; re.compile(pattern); model.eval(); json.load(file)",
    ],
)
def test_the_walk_leaves_alone(source: str) -> None:
    assert not wrong_calls(source)


def test_the_oldest_libraries_taken_are_safe_ones() -> None:
    """torch before 2.6 ran code in spite of `weights_only=True` (CVE-2025-32434); datasets before 4.0 ran scripts."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["all"]]
    oldest = {
        name: (int(major), int(minor))
        for name, major, minor in re.findall(r"^(torch|datasets)>=(\d+)\.(\d+)", "\n".join(wanted), re.MULTILINE)
    }
    assert oldest["torch"] >= (2, 6) and oldest["datasets"] >= (4, 0)
