"""The built-in corpus: prose out of docstrings, without code and markup; made once, the same every time."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from nlp_adan.corpora import builtin_corpus, docstrings
from nlp_adan.corpora.builtin_corpus import Package, builtin_corpus_file, cache_key, documents, find_packages
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.errors import UserError

NUMPY_STYLE = """
Return the mean of the numbers in a list, or of those along an axis.

Parameters
----------
values : array_like, shape (n,)
    The numbers of which the mean is wanted. If they are not
    floating point numbers, they are converted to that first.
axis : int, optional
    x

Returns
-------
mean : float

Examples
--------
>>> mean([1, 2])
1.5 is printed here as the result of the call above.

The mean of an empty list is not a number [1]_, see :func:`~package.nan`::

    this is an indented block of code and it is not the text of a page.

.. code-block:: python

    so is this one here, that looks as if it were a sentence of the text.

.. note:: Ignored
   This note is kept because it is a sentence like the others of the page.

| a | table with some words in it which is not a sentence of the text. |
"""

GOOGLE_STYLE = """
Args:
    hidden_size (`int`, *optional*, defaults to 768):
        Dimension of the layers and of the pooler in the encoder of the model.
    name: The **name** of the model that is to be loaded from the `cache`.
        It goes on in a second line, which belongs to the first one.

Returns:
    A list with the names of all the models that are in the cache.

```python
model = the code in a fence is not kept even if it ends like a sentence.
```
- The first item of a list is a sentence that is kept without its dash.
"""


def test_prose_of_numpy_style() -> None:
    assert list(docstrings.paragraphs(NUMPY_STYLE)) == [
        "Return the mean of the numbers in a list, or of those along an axis.",
        "The numbers of which the mean is wanted. If they are not floating point numbers, they are converted to that "
        "first.",
        "This note is kept because it is a sentence like the others of the page.",
    ]


def test_prose_of_google_style() -> None:
    assert list(docstrings.paragraphs(GOOGLE_STYLE)) == [
        "Dimension of the layers and of the pooler in the encoder of the model.",
        "The name of the model that is to be loaded from the cache. It goes on in a second line, which belongs to the "
        "first one.",
        "A list with the names of all the models that are in the cache.",
        "The first item of a list is a sentence that is kept without its dash.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is a sentence of plain words that ends as one should.", True),
        ("This is not a sentence since it does not end as one should", False),
        ("Too short to keep.", False),
        ("The value of x_1 + y_2 == f(z) is what __init__ returns for it.", False),
        ("Numpy Scipy Pandas Torch Sklearn Matplotlib Sympy Networkx.", False),
        ("See https://example.org for the rest of what there is to say.", False),
    ],
)
def test_is_prose(text: str, expected: bool) -> None:
    assert docstrings.is_prose(text) is expected


def test_documentation_strings_are_those_of_definitions_and_of_documenting_calls() -> None:
    long = "A text that is given to a function which attaches it to something else. " * 2
    source = f'''
"""Of the module."""
class A:
    """Of a class."""
    def f(self):
        """Of a method."""
        x = """not a docstring"""
        def inner(): """nor this"""
add_docstr(A, """{long}""".format(x=1))
register(A, """{long}""")
topics = {{"page": """{long}"""}}
'''
    found = list(docstrings.documentation_strings(source))
    assert found == ["Of the module.", "Of a class.", "Of a method.", long, long]


def test_source_that_does_not_parse_or_decode_has_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""A docstring of a file that is not Python at all."""\ndef (')
    (tmp_path / "b.py").write_bytes(b'"""\xff\xfe"""')
    assert docstrings.read_paragraphs(str(tmp_path / "a.py")) == []
    assert docstrings.read_paragraphs(str(tmp_path / "b.py")) == []
    assert docstrings.read_paragraphs(str(tmp_path / "none.py")) == []


def test_near_duplicates_are_left_out_and_long_modules_cut() -> None:
    modules = [
        ["The Bert model of size 12 is loaded from disk.", "Another text."],
        ["The GPT model of size 24 is loaded from disk."],
        [f"The {'very ' * i}long text." for i in range(2000, 2005)],
    ]
    found = list(documents(iter(modules)))
    assert found[0] == "The Bert model of size 12 is loaded from disk.\nAnother text."
    assert len(found) == 1 + 5  # each of the long ones is longer than half of a document


def test_key_heeds_packages_and_versions_only() -> None:
    one, two = Package("a", "1", Path("x")), Package("b", "1", Path("x"))
    assert cache_key([one, two]) == cache_key([two, Package("a", "1", Path("elsewhere"))])
    assert cache_key([one]) != cache_key([one, two])
    assert cache_key([one]) != cache_key([Package("a", "2", Path("x"))])


def test_packages_are_found_without_importing_them() -> None:
    before = set(sys.modules)
    found = {package.name: package for package in find_packages(["sklearn", "stdlib", "no_such_package", "sympy"])}
    assert set(found) == {"sklearn", "stdlib", "sympy"}
    assert found["sklearn"].version[0].isdigit() and (found["sklearn"].folder / "__init__.py").is_file()
    assert not any(name in ("sklearn", "sympy") for name in set(sys.modules) - before)


def test_made_once_and_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_corpus, "BATCH_BYTES", 1 << 19)
    names = ["jinja2", "rich"]
    contents = []
    for folder in ("one", "two"):
        monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / folder))
        file = builtin_corpus_file(names)
        contents.append(file.read_bytes())
    assert contents[0] == contents[1] and len(contents[0]) > 30_000
    manifest = json.loads((file.parent / "manifest.json").read_text())
    assert [package["name"] for package in manifest["packages"]] == sorted(names)
    assert str(tmp_path) not in json.dumps(manifest)

    monkeypatch.setattr(builtin_corpus, "_write", None)  # a second start only reads
    started = time.perf_counter()
    assert builtin_corpus_file(names) == file
    assert time.perf_counter() - started < 0.5  # measured: 0.01 s
    found = list(open_corpus(str(file)).documents())
    assert len(found) == manifest["num_documents"]


def test_no_corpus_means_the_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text('{"text": "words\\n\\nand words"}\n')
    monkeypatch.setattr(builtin_corpus, "builtin_corpus_file", lambda: file)
    corpus = open_corpus(None, encoding="latin-1", text_column="other")
    corpus.check()
    assert list(corpus.documents()) == ["words\n\nand words"]
    assert "built-in" in corpus.name


def test_an_installation_without_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="--data"):
        builtin_corpus_file(["no_such_package"])
    assert list(tmp_path.iterdir()) == []


def test_pydoc_topics_are_read() -> None:
    (stdlib,) = find_packages(["stdlib"])
    found = docstrings.read_paragraphs(str(stdlib.folder / "pydoc_data" / "topics.py"))
    assert len(found) > 200
    assert all(docstrings.is_prose(text) for text in found)
