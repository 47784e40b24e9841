"""table.tex read as TeX reads it: every command known, all braces and environments closed, every row as the columns."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glue_eval import compare
from glue_eval.latex import latex_table
from glue_eval.recorded import read_recorded
from glue_eval.report import Report, make_latex
from glue_eval.summary import averages, summarize
from glue_eval.tasks import TASKS
from tests.unit.glue_runs import protocol_of, write_sweep

SYMBOLS = {r"\textbackslash": "\\", r"\textasciitilde": "~", r"\textasciicircum": "^", r"\pm": "±"}
SYMBOLS |= {f"\\{character}": character for character in "&%$#_{}"}
RULES = (r"\toprule", r"\midrule", r"\bottomrule")
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)


def read_table(source: str) -> tuple[str, list[list[str]], int]:
    """The column specification of a file with one tabular, its rows as plain text, and the number of rules.

    An AssertionError where TeX would stop, or print something else than what was meant.
    """
    assert source.endswith("\n") and "\t" not in source
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    begin = re.fullmatch(r"\\begin\{tabular\}\{([lcr]+)\}", lines[0])
    assert begin and lines[-1] == r"\end{tabular}"
    rows, num_rules = [], 0
    for line in lines[1:-1]:
        if line in RULES:
            num_rules += 1
            continue
        assert line.endswith(r" \\"), line
        assert not line.startswith(("[", "*")), "an argument of the line end before"
        rows.append(cells_of(line.removesuffix(r"\\")))
    assert [line for line in lines if line in RULES][:: max(1, num_rules - 1)] == [RULES[0], RULES[2]]
    return begin[1], rows, num_rules


def cells_of(line: str) -> list[str]:
    """A row's cells as plain text."""
    cells, depth, in_mathematics = [""], 0, False
    for token in TOKEN.findall(line):
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            assert depth >= 0, line
        elif token == "$":
            in_mathematics = not in_mathematics
        elif token == "&":
            assert depth == 0 and not in_mathematics, line
            cells.append("")
        elif token in SYMBOLS:
            assert in_mathematics == (token == r"\pm"), line
            cells[-1] += SYMBOLS[token]
        else:
            assert token not in "%#_^~" and not token.startswith("\\"), f"{token!r} in {line!r}"
            cells[-1] += token
    assert depth == 0 and not in_mathematics, line
    return [" ".join(cell.split()) for cell in cells]


@pytest.mark.parametrize(
    "row",
    [r"a_b & c \\", r"50% & c \\", r"{a & c \\", r"a} & c \\", r"$a & c \\", r"\foo & c \\", r"a^b & c \\", "a & b"],
)
def test_the_reader_stops_where_tex_does(row: str) -> None:
    lines = [r"\begin{tabular}{lr}", r"\toprule", "%s", r"\bottomrule", r"\end{tabular}", ""]
    assert read_table("\n".join(lines) % r"a\_b & c \\") == ("lr", [["a_b", "c"]], 2)
    with pytest.raises(AssertionError):
        read_table("\n".join(lines).replace("%s", row))


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("±é\n")), min_size=2, max_size=2
    )
)
def test_any_text_comes_through(texts: Sequence[str]) -> None:
    spec, rows, _ = read_table(latex_table(("Head", "x"), [[("a", ""), ("b", texts[0])]], texts[1]))
    assert spec == "lr" and rows == [["Head", "x"], ["a", ""], ["b", " ".join(texts[0].split())]]


def test_the_tables_of_a_report_and_of_a_comparison(tmp_path: Path) -> None:
    """With a task of one's own and models that are named with what TeX takes for commands."""
    own = dataclasses.replace(TASKS["RTE"], name="my_own_task", labels=("yes", "no"), definition=Path("mine.yaml"))
    folders = [tmp_path / "50%_&_#1", tmp_path / "b"]
    for folder in folders:
        protocol = protocol_of([TASKS["MRPC"], own], model=f"runs/{folder.name}", seeds=(1, 2))
        write_sweep(folder, protocol)
    recorded = [read_recorded(folder) for folder in folders]
    summaries = summarize(recorded[0].results, recorded[0].protocol, folder=folders[0])
    report = Report(recorded[0].protocol, tuple(summaries), tuple(averages(summaries)), (), {})
    spec, rows, num_rules = read_table(make_latex(report))
    assert {len(row) for row in rows} == {len(spec)} and num_rules == 4
    assert rows[0][:4] == ["Task", "Metric", "Median", "Mean ± SD"]
    assert [row[0] for row in rows[1:]] == ["MRPC", "MRPC", "my_own_task", "mean over the 2 tasks run"]
    assert all(re.fullmatch(r"\d+\.\d ± \d+\.\d", row[3]) for row in rows[1:4])
    spec, rows, _ = read_table(compare.make_latex(compare.compare(recorded)))
    assert {len(row) for row in rows} == {len(spec)}
    assert "50%_&_#1" in " ".join(rows[0]) and "my_own_task" in [row[0] for row in rows]
