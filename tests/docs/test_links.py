"""Links between Markdown files hold where they are read: in the repository, and for docs/ on the site too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
PAGES = [
    *sorted(DOCS.rglob("*.md")), *sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "ds_configs").glob("*.md"))
]  # fmt: skip
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks and spans of code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "`", text)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as the hosts of repositories make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links() -> list[tuple[str, str]]:
    """(page, target) of every link that is not to another host."""
    found = [(page, target) for page in PAGES for target in LINK.findall(prose(page))]
    return [(str(page.relative_to(PROJECT)), target) for page, target in found if "://" not in target]


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_holds(page: str, target: str) -> None:
    name, _, anchor = target.partition("#")
    source = PROJECT / page
    path = (source.parent / name).resolve() if name else source
    assert path.is_file(), "no such file; a folder has its README.md"
    if DOCS in source.parents:
        assert DOCS in path.parents, "the site does not have it: name files outside of docs/ as `code`"
    assert not anchor or anchor in anchors(path)


def test_there_are_links_to_check() -> None:
    assert len(links()) > 40
    assert {target for page, target in links() if page == "docs/index.md"} >= {"bert.md", "results/README.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS in page.parents], ids=lambda page: page.name)
def test_a_page_of_the_docs_is_named_by_a_link(page: Path) -> None:
    """A reader of the site cannot click on `docs/bert.md`."""
    named = re.findall(r"`docs/[\w/-]+\.md`|(?<![\w/(])docs/[\w/-]+\.md", page.read_text(encoding="utf-8"))
    assert page.name in ("reliability.md", "README.md") or not named


def test_the_index_of_the_design_notes_has_them_all() -> None:
    index = (DOCS / "design" / "README.md").read_text(encoding="utf-8")
    notes = sorted(path.name for path in (DOCS / "design").glob("[0-9]*.md"))
    assert [name for _, name in re.findall(r"^\| \[(\d{4})\]\(([\w-]+\.md)\)", index, flags=re.MULTILINE)] == notes
    for name in notes:
        title = (DOCS / "design" / name).read_text(encoding="utf-8").partition("\n")[0]
        assert re.fullmatch(rf"# {name[:4]}: [A-Z].*", title)
