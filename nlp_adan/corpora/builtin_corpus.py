"""The built-in corpus: real English from the documentation that every installation of the toolkit carries.

The docstrings of Python's standard library, of its manual pages (pydoc's topics) and of the packages that the toolkit
depends on, made once for each set of package versions and kept in the cache folder. Nothing is downloaded, and no
package is imported: `nlp_adan.corpora.docstrings` parses their files, in worker processes that start it as a script.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.storage import cache_folder, new_folder, sha256_json, write_json

from . import docstrings

# Counted up when the same packages would give another text.
GENERATOR_VERSION = 2
# "stdlib" stands for Python itself; the others are import names, the toolkit's dependencies and theirs.
PACKAGES = (
    "accelerate",
    "aiohttp",
    "datasets",
    "deepspeed",
    "evaluate",
    "fsspec",
    "huggingface_hub",
    "jinja2",
    "joblib",
    "matplotlib",
    "networkx",
    "numpy",
    "pandas",
    "pydantic",
    "rich",
    "scipy",
    "setuptools",
    "sklearn",
    "stdlib",
    "sympy",
    "torch",
    "transformers",
)
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where it differs from the import name
# A document is one module's text; a longer one is cut here, between paragraphs.
DOCUMENT_CHARS = 10_000
# Source text that one worker process reads: a progress bar's step.
BATCH_BYTES = 1 << 22
# Tests, other packages, and transformers/models: 40 MB of near-copies whose few new sentences cost a third of the time.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "site-packages", "lib2to3", "_vendor", "__pycache__", "models"}
)
_LOWER_CASE_WORD = re.compile(r"\b[a-z]+\b")


@dataclass(frozen=True)
class Package:
    """An installed package: its import name, its version, the folder of its sources."""

    name: str
    version: str
    folder: Path


def builtin_corpus_file(packages: Sequence[str] = PACKAGES) -> Path:
    """The corpus as a file of JSON lines, one document with a "text" each; made now if it is not in the cache.

    packages: import names and "stdlib"; those that are not installed are left out.

    Raises: UserError where none of them carries any text.
    """
    found = find_packages(packages)
    folder = cache_folder() / f"builtin_corpus-{cache_key(found)[:16]}"
    file = folder / "documents.jsonl"
    if not file.is_file():
        with new_folder(folder) as temporary:
            _write(found, temporary)
    return file


def cache_key(packages: Sequence[Package]) -> str:
    """What the text depends on, hashed: the packages' versions, Python's, and this generator's."""
    return sha256_json(
        {
            "packages": sorted((package.name, package.version) for package in packages),
            "python": sys.version.split()[0],
            "generator": GENERATOR_VERSION,
        }
    )


def find_packages(names: Sequence[str]) -> list[Package]:
    """The installed ones among these packages, sorted by name, found without importing any."""
    found = []
    for name in sorted(set(names)):
        if name == "stdlib":
            found.append(Package(name, sys.version.split()[0], Path(sysconfig.get_paths()["stdlib"])))
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        try:
            version = importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(Package(name, version, Path(next(iter(spec.submodule_search_locations)))))
    return found


def module_files(package: Package) -> list[Path]:
    """The source files of a package, sorted by their path within it; its tests left out."""
    files = []
    for root, folders, names in os.walk(package.folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        files += [Path(root, name) for name in names if name.endswith(".py")]
    return sorted(files, key=lambda path: path.relative_to(package.folder).as_posix())


def _write(packages: Sequence[Package], folder: Path) -> None:
    files = [path for package in packages for path in module_files(package)]
    num_documents = num_chars = 0
    with open(folder / "documents.jsonl", "w", encoding="utf-8", newline="\n") as output:
        for document in documents(_paragraphs_of(files)):
            output.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            num_documents += 1
            num_chars += len(document)
    if not num_documents:
        raise UserError("no package of this installation carries documentation: name your own text with `--data PATH`")
    write_json(
        folder / "manifest.json",
        {
            "packages": [{**asdict(package), "folder": package.folder.name} for package in packages],
            "python": sys.version.split()[0],
            "generator": GENERATOR_VERSION,
            "num_documents": num_documents,
            "num_chars": num_chars,
        },
    )


def _paragraphs_of(files: Sequence[Path]) -> Iterator[list[str]]:
    """The paragraphs of each file, in the order of the files; several processes read them."""
    batches: list[list[Path]] = []
    sizes: list[int] = []
    for path in files:
        size = path.stat().st_size
        if not batches or sizes[-1] + size > BATCH_BYTES:
            batches.append([])
            sizes.append(0)
        batches[-1].append(path)
        sizes[-1] += size
    bar = progress(description="Built-in corpus from installed documentation", unit="byte", total=sum(sizes))
    with bar, ThreadPoolExecutor(max_workers=_num_workers()) as executor:
        for size, modules in zip(sizes, executor.map(_read_batch, batches), strict=True):
            yield from modules
            bar.update(size)


def _read_batch(files: Sequence[Path]) -> list[list[str]]:
    command = [sys.executable, "-I", docstrings.__file__]
    listed = json.dumps([str(path) for path in files])
    result = subprocess.run(command, input=listed, capture_output=True, text=True, encoding="utf-8", check=True)
    modules: list[list[str]] = json.loads(result.stdout)
    return modules


def _num_workers() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, available))


def documents(modules: Iterator[list[str]]) -> Iterator[str]:
    """Documents from the paragraphs of each module, in order; a paragraph that came before is left out.

    Two paragraphs count as the same when their lower-case words are: templates that differ in a class' name, a number
    or the punctuation occur hundreds of times.
    """
    seen: set[bytes] = set()
    for module in modules:
        kept: list[str] = []
        num_chars = 0
        for paragraph in module:
            key = blake2b(" ".join(_LOWER_CASE_WORD.findall(paragraph)).encode(), digest_size=8).digest()
            if key in seen:
                continue
            seen.add(key)
            if kept and num_chars + len(paragraph) > DOCUMENT_CHARS:
                yield "\n".join(kept)
                kept, num_chars = [], 0
            kept.append(paragraph)
            num_chars += len(paragraph) + 1
        if kept:
            yield "\n".join(kept)
