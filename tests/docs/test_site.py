"""The site of docs/: it builds without a warning, every page is in the navigation, nothing comes from elsewhere."""

from __future__ import annotations

import html.parser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.smoke.browser import CANARY, CHROMIUM, WIDTHS, browse

pytest.importorskip("material", reason="mkdocs-material is not installed")
pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
# Attributes that make a browser fetch something without being asked to.
FETCHING = {"src", "srcset", "poster", "data"}

# Frames of both widths; what reaches beyond them, and does not scroll in a box of its own, is found.
DRIVER = """<!DOCTYPE html><meta charset="utf-8"><body><script>
const found = {}, pages = PAGES;
console.error("CANARY");
let waiting = 0;
for (const name of pages) for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = "0"; waiting += 1;
  frame.onload = () => {
    const page = frame.contentDocument, body = page.querySelector("article");
    const boxes = [...body.querySelectorAll("h1, h2, p, li, img, pre, .md-typeset__scrollwrap, .formulas")];
    found[name + " " + width] = {
      content: page.documentElement.scrollWidth,
      wide: boxes.filter(each => each.getBoundingClientRect().right > width + 1).map(each => each.outerHTML),
      missing: [...page.images].filter(each => !each.naturalWidth).map(each => each.src),
      formulas: [...page.querySelectorAll("svg.formula")].map(each => each.getBoundingClientRect().height),
    };
    if (--waiting === 0) document.body.innerHTML = "<pre id=found></pre>",
      document.getElementById("found").textContent = "FOUND" + JSON.stringify(found) + "END";
  };
  frame.src = name;
  document.body.append(frame);
}
</script>"""


class Page(html.parser.HTMLParser):
    """What a page of the site names: links, what it fetches, its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.append(value)
            elif value and (name in FETCHING or (name == "href" and tag == "link")):
                self.fetched.append(value)


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = build(PROJECT, folder)
    assert run.returncode == 0, run.stderr
    return folder


def page_of(source: Path) -> str:
    """Where a Markdown file of docs/ is found on the site."""
    name = source.relative_to(DOCS).with_suffix(".html")
    return name.with_name("index.html").as_posix() if source.name == "README.md" else name.as_posix()


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_on_the_site_and_in_its_navigation(site: Path) -> None:
    home = Page(site / "index.html")
    pages = [page_of(source) for source in DOCS.rglob("*.md")]
    assert len(pages) > 25
    assert [name for name in pages if not (site / name).is_file()] == []
    assert sorted(set(pages) - {"index.html"} - set(home.links)) == []
    # A report's page is that of its Markdown, not the file report.html beside it.
    assert 'class="md-main"' in (site / "results" / "bert_novels" / "report.html").read_text(encoding="utf-8")
    assert not list(site.rglob("*.py"))


def test_every_link_and_anchor_holds_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    num_links = 0
    for path, page in pages.items():
        for target in page.links + page.fetched:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                assert target in page.links and parts.scheme == "https", f"{path}: {target} is fetched from elsewhere"
                continue
            num_links += 1
            aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert aim.is_file(), f"{path}: {target}"
            if parts.fragment and aim in pages:
                assert unquote(parts.fragment) in pages[aim].anchors | {"__skip"}, f"{path}: {target}"
    assert num_links > 500
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_what_is_wrong_breaks_the_build(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(PROJECT / "mkdocs.yml", tmp_path)
    (tmp_path / "docs" / "orphan.md").write_text("# Orphan\n\n[nowhere](bert.md#nowhere), [none](../README.md)\n")
    run = build(tmp_path, tmp_path / "site")
    assert run.returncode == 1
    for complaint in ("- orphan.md", "'bert.md#nowhere'", "'../README.md'", "3 warnings"):
        assert complaint in run.stderr + run.stdout


def test_formulas_are_drawn(site: Path) -> None:
    page = (site / "adan.html").read_text(encoding="utf-8")
    assert page.count('<svg class="formula"') >= 20 and 'aria-label="g_k"' in page
    assert "arithmatex" not in page
    formulas = hook("formulas")
    shown = formulas.display(r"\begin{aligned} a_k &= \frac{b}{2} \\ c &= d && \texttt{its\_name} \end{aligned}")
    assert shown.count("<span>") == 8 and shown.count("<svg") == 5 and "repeat(4, auto)" in shown


def test_a_formula_that_cannot_be_drawn_is_named() -> None:
    from mkdocs.exceptions import PluginError

    class File:
        src_path = "some.md"

    class OfFile:
        file = File

    with pytest.raises(PluginError, match=r"some\.md: the formula .*unheard.* cannot be drawn"):
        hook("formulas").on_page_content(r'<span class="arithmatex">\(\unheard{x}\)</span>', page=OfFile)


def test_names_of_options_stay_whole() -> None:
    shown = hook("option_names").on_page_content('<p>a --b</p><code class="x--y">run --lr 1 in-put --plot-x</code>')
    assert shown == (
        '<p>a --b</p><code class="x--y">run <span class="option">--lr</span> 1 in-put '
        '<span class="option">--plot-x</span></code>'
    )


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_pages_are_readable_in_a_browser(site: Path) -> None:
    pages = ["index.html", "adan.html", "results/index.html", "design/0001-the-house.html"]
    driver = DRIVER.replace("PAGES", json.dumps(pages)).replace("WIDTHS", str(list(WIDTHS))).replace("CANARY", CANARY)
    (site / "driver.html").write_text(driver)
    shown, console = browse(site, "--window-size=1400,900", "--allow-file-access-from-files")
    assert [line for line in console if CANARY not in line] == [] and len(console) == 1
    (text,) = re.findall("FOUND(.*)END</pre>", shown)
    found: dict[str, dict[str, Any]] = json.loads(text)
    assert set(found) == {f"{page} {width}" for page in pages for width in WIDTHS}
    for name, values in found.items():
        assert values["content"] <= int(name.split()[1]), f"{name} is wider than the page"
        assert values["wide"] == [] and values["missing"] == [], name
    assert len(found["adan.html 400"]["formulas"]) >= 20 and min(found["adan.html 400"]["formulas"]) > 5


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_search_finds_without_a_server(site: Path) -> None:
    (site / "driver.html").write_text('<script>location.replace("index.html?q=checkpoint")</script>')
    shown, console = browse(site)
    assert console == []
    (number,) = re.findall(r'md-search-result__meta">(\d+) matching documents', shown)
    assert int(number) > 5
