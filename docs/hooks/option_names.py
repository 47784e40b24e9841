"""mkdocs hook: `--learning_rate` stays on one line, where a browser would break it after its hyphens."""

from __future__ import annotations

import re

CODE = re.compile(r"<code[^>]*>.*?</code>", re.DOTALL)
TAG_OR_OPTION = re.compile(r"<[^>]*>|(?<![\w-])--[A-Za-z][\w-]*")


def on_page_content(content: str, **_: object) -> str:
    """The page's HTML; the style of `.option` is in docs/assets/site.css."""

    def kept(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith("<") else f'<span class="option">{found[0]}</span>'

    return CODE.sub(lambda code: TAG_OR_OPTION.sub(kept, code[0]), content)
