"""mkdocs hook: reports and design notes are in the navigation as soon as their file is there."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

# By section of `nav` in mkdocs.yml: the pages that are added to those named there.
SECTIONS = {"Results": "results/*/report.md", "Design decisions": "design/[0-9]*.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to `nav`, in the order of their names; a page's title is its heading."""
    docs = Path(config.docs_dir)
    sections = {title: pages for section in config.nav or [] for title, pages in section.items()}
    for title, pattern in SECTIONS.items():
        sections[title] += sorted(path.relative_to(docs).as_posix() for path in docs.glob(pattern))
    return config
