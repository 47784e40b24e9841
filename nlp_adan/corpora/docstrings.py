"""English prose out of Python source files: their docstrings, without markup, code and tables.

Standard library only, so that a worker process starts in a few hundredths of a second: `python docstrings.py` reads a
JSON list of paths from standard input and prints a JSON list that holds, for every path, its list of paragraphs.
Files are parsed, never imported.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import re
import sys
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

# Parsing costs time by the file's size and yields text by its docstrings': a file less rich than this is not worth it.
MIN_DOCSTRING_SHARE = 0.35
MIN_STRING_CHARS = 100
MIN_WORDS = 6
# Of a paragraph's words, at least this share must be plain English words (not identifiers, numbers or formulas) ...
MIN_PLAIN_SHARE = 0.85
# ... and at least this share the small words which every English sentence has and a list of terms has not.
MIN_FUNCTION_WORD_SHARE = 0.15

_TRIPLE_QUOTED = re.compile(r'("""|\'\'\')(.*?)\1', re.DOTALL)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# fmt: off
_FUNCTION_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "do", "does", "for", "from", "has", "have",
    "he", "how", "if", "in", "into", "is", "it", "its", "may", "more", "most", "must", "no", "not", "of", "on", "one",
    "only", "or", "other", "over", "same", "should", "so", "some", "such", "than", "that", "the", "their", "them",
    "then", "there", "these", "they", "this", "to", "two", "under", "used", "was", "we", "were", "what", "when",
    "where", "which", "while", "will", "with", "would", "you", "your",
))
# fmt: on

# A line of punctuation: under a heading, or a border of a table.
_RULE = re.compile(r"([=\-~^\"'*+#`.:_])\1{2,}(?: +\1{2,})*")
_RULE_BEGINNINGS = frozenset("=-~^\"'*+#`.:_")
_TABLE_BEGINNINGS = frozenset("|+")
_DIRECTIVE = re.compile(r"\.\. *(?:([\w:-]+)::|[_\[|]|$)")
_PROSE_DIRECTIVES = frozenset(
    ("note", "warning", "versionadded", "versionchanged", "deprecated", "seealso", "tip", "important", "admonition")
)
# What begins a list item, a Sphinx field or a Google-style argument.
_MARKER = re.compile(
    r"(?:[-*•]|\(?\d+[.)])\s+"
    r"|:(?:param|arg|type|returns?|rtype|raises?|keyword|var|ivar)\b[^:]*:\s*"
    r"|[*`]*[\w.]+`?(?: \([^()]*(?:\([^()]*\)[^()]*)*\)\s*:|\s*:)(?:\s+|$)"
)
_NUMPY_ARGUMENT = re.compile(r"\*{0,2}\w+(?:, ?\*{0,2}\w+)* : .*")
_INLINE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\[([^\]\[]*)\]\([^()\s]*\)"), r"\1"),  # [text](address)
    (re.compile(r"`([^`<>]+?)\s*<[^`<>]*>`_{0,2}"), r"\1"),  # `text <target>`_
    (re.compile(r":[\w:+.-]+:`[~!]?([^`]*)`"), r"\1"),  # :class:`~target`
    (re.compile(r"\s*\[[\w#*-]{1,12}\]_"), ""),  # a citation, [1]_
    (re.compile(r"``([^`]*)``"), r"\1"),
    (re.compile(r"`([^`]*)`_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])(\*{1,2})([^\s*](?:[^*]*[^\s*])?)\1(?![\w*])"), r"\2"),
    (re.compile(r"\s+"), " "),
)
_MARKUP = re.compile(r"[`*\[\]]|  ")
_SENTENCE_END = re.compile(r"[.!?][\"')\u201d\u2019`*]*(?: ?\[[\w#*-]{1,12}\]_[.]?)*$")
_PLAIN_WORD = re.compile(
    r"[(\"'\u201c\u2018]*(?:[A-Z]?[a-z]+|[A-Z]+)(?:[-'\u2019/][A-Za-z]?[a-z]*)*[.,;:!?)\"'\u201d\u2019]*"
)
_NOT_PROSE = re.compile(r"[{}\\]|==|>>>|::|https?://|__|\bTODO\b|\bFIXME\b")


@dataclass
class _Chunk:
    """Lines that belong together; a hanging one (a list item, an argument) goes on in deeper lines."""

    indent: int
    hanging: bool
    lines: list[str] = field(default_factory=list)


def documentation_strings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, and the texts given to add_docstr(...) and the like.

    Source that this Python cannot parse has none.
    """
    quoted = sum(match.end() - match.start() for match in _TRIPLE_QUOTED.finditer(source))
    if quoted < MIN_DOCSTRING_SHARE * len(source):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from _strings_of(module)


def _strings_of(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    docstring = ast.get_docstring(node)
    if docstring:
        yield docstring
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for statement in node.body:
        if isinstance(statement, _DEFINITIONS):
            yield from _strings_of(statement)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield from _strings_of_call(statement.value)
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            # pydoc's topics: a dictionary of pages
            for value in statement.value.values:
                yield from _long_string(value)


def _strings_of_call(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "doc" in name.lower():
        for argument in call.args:
            yield from _long_string(argument)


def _long_string(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # "...".format(...)
        node = node.func.value
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) >= MIN_STRING_CHARS:
        yield inspect.cleandoc(node.value)


def paragraphs(documentation: str) -> Iterator[str]:
    """The English paragraphs of one docstring, each on one line, markup removed, in their order.

    What goes: code and its output, tables, formulas, headings, the names and types of parameters, lists of terms.
    """
    for chunk in _chunks(documentation.splitlines()):
        text = " ".join(chunk.lines)
        if not _SENTENCE_END.search(text) or text.count(" ") < MIN_WORDS - 1:
            continue
        if _MARKUP.search(text):
            for pattern, replacement in _INLINE:
                text = pattern.sub(replacement, text)
        text = text.strip()
        if is_prose(text):
            yield text


def is_prose(text: str) -> bool:
    """Whether one line of text is English sentences: ends like one, of plain words, with function words among them."""
    if not _SENTENCE_END.search(text) or _NOT_PROSE.search(text):
        return False
    words = text.split()
    if len(words) < MIN_WORDS:
        return False
    num_function_words = sum(map(_FUNCTION_WORDS.__contains__, text.lower().split()))
    if num_function_words < MIN_FUNCTION_WORD_SHARE * len(words):
        return False
    return sum(map(bool, map(_PLAIN_WORD.fullmatch, words))) >= MIN_PLAIN_SHARE * len(words)


def _chunks(lines: list[str]) -> Iterator[_Chunk]:
    """Groups of lines by blank lines, indentation and list markers; code, tables and headings left out."""
    chunk: _Chunk | None = None
    for line in _without_code(lines):
        text = line.strip()
        is_rule = text[:1] in _RULE_BEGINNINGS and _RULE.fullmatch(text)
        if is_rule and chunk is not None and len(chunk.lines) == 1:
            chunk = None  # the line before was a heading
            continue
        if not text or is_rule or text[0] in _TABLE_BEGINNINGS or (" : " in text and _NUMPY_ARGUMENT.fullmatch(text)):
            if chunk is not None:
                yield chunk
            chunk = None
            continue
        indent = len(line) - len(line.lstrip())
        marker = _MARKER.match(text)
        if chunk is not None and (marker or (indent <= chunk.indent if chunk.hanging else indent != chunk.indent)):
            yield chunk
            chunk = None
        if marker:
            text = text[marker.end() :]
        if chunk is None:
            chunk = _Chunk(indent, hanging=marker is not None)
        if text:
            chunk.lines.append(text)
    if chunk is not None:
        yield chunk


def _without_code(lines: list[str]) -> Iterator[str]:
    """The lines outside fences, doctests, code-like directives and the blocks that `::` announces."""
    fenced = doctest = False
    block_indent: int | None = None  # lines deeper than this belong to a block that is left out
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith(("```", "~~~")):
            fenced = not fenced
            yield ""
            continue
        if block_indent is not None and text and indent <= block_indent:
            block_indent = None
        doctest = (doctest and bool(text)) or text.startswith((">>>", "In ["))
        if fenced or doctest or block_indent is not None:
            yield ""
            continue
        directive = _DIRECTIVE.match(text) if text.startswith("..") else None
        if directive:
            if directive[1] in _PROSE_DIRECTIVES:
                yield ""
            else:
                block_indent = indent
            continue
        if text.endswith("::"):
            block_indent = indent
            line = line.rstrip()[:-1]
        yield line


def read_paragraphs(path: str) -> list[str]:
    """The English paragraphs of a source file's docstrings; none where the file cannot be decoded or parsed."""
    try:
        with tokenize.open(path) as file:
            source = file.read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return []
    return [text for string in documentation_strings(source) for text in paragraphs(string)]


if __name__ == "__main__":
    gc.disable()  # syntax trees hold no cycles, and collecting among their nodes takes a third of the time
    json.dump([read_paragraphs(path) for path in json.load(sys.stdin)], sys.stdout)
