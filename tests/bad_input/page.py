"""`python -m tests.bad_input.page`: try every case of the catalogue, and write docs/bad_input.md."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.bad_input.case import PROJECT, ground_folder, try_case
from tests.bad_input.catalogue import CATALOGUE, COMMANDS

PAGE = PROJECT / "docs" / "bad_input.md"
HEAD = """# Bad input

What a command answers to a mistake: one message that names the value, the file and the line where there is one, and the
remedy; exit code 2; no traceback; and nothing half-written, for mistakes are looked for before anything is. The tables
are written by `python -m tests.bad_input.page`, which tries every case; a test tries them too, on every change.

"""


def text(passed: Mapping[str, int]) -> str:
    """The page. passed: how many cases of each command."""
    rows: list[tuple[str, ...]] = [("Command", "Cases", "Passed"), ("---", "---:", "---:")]
    rows += [(f"`{command}`", str(len(cases)), str(passed[command])) for command, cases in CATALOGUE.items()]
    rows.append(("all", str(sum(map(len, CATALOGUE.values()))), str(sum(passed.values()))))
    parts = [HEAD, _table(rows)]
    for command, cases in CATALOGUE.items():
        rows = [("Wrong", "The message has"), ("---", "---")]
        rows += [(case.what, " ".join(f"`` {_cell(part)} ``" for part in case.told)) for case in cases]
        parts.append(f"\n## `{command}`\n\n{_table(rows)}")
    return "".join(parts)


def _cell(part: str) -> str:
    return part.replace("|", "\\|").strip()


def _table(rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Try all, write the page where all pass, else say what is wrong; the exit code."""
    passed = dict.fromkeys(CATALOGUE, 0)
    with tempfile.TemporaryDirectory() as folder:
        ground = ground_folder(Path(folder))
        for command, cases in CATALOGUE.items():
            for case in cases:
                wrong = try_case(COMMANDS[command], case, ground)
                passed[command] += not wrong
                if wrong:
                    print(f"{command} {case.words}: {case.what}", *wrong, sep="\n  ")
    if sum(passed.values()) < sum(map(len, CATALOGUE.values())):
        return 1
    PAGE.write_text(text(passed), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
