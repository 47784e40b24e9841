"""The scores as a LaTeX table to \\input: needs the package booktabs and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escaped(text: str) -> str:
    """Text in which nothing is LaTeX; a plus-minus sign becomes its symbol."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def latex_table(
    heads: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], caption: str, num_left: int = 1
) -> str:
    """A tabular of plain text cells.

    Args:
        heads: of the columns, the first `num_left` of which are aligned left, the others right.
        groups: rows of as many cells; a rule stands between groups.
        caption: says above the table, as a comment, what it holds.
    """
    lines = [f"% {' '.join(caption.split())}", "% \\usepackage{booktabs}"]
    lines += [f"\\begin{{tabular}}{{{'l' * num_left}{'r' * (len(heads) - num_left)}}}", "\\toprule", _row(heads)]
    for group in groups:
        lines += ["\\midrule", *map(_row, group)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
