"""AX scored by category: equal to scikit-learn on the rows that a category names, and every refusal with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from glue_eval.diagnostics import FULL, GROUPS, PLAIN, ax_scores, read_diagnostics
from glue_eval.tasks import THREE_WAY
from nlp_adan.errors import UserError

REAL_AX = Path(__file__).resolve().parents[3] / "shared" / "data" / "glue" / "AX"
PHENOMENA = (("Redundancy", "Quantifiers"), ("Datives", "Core args"), ("Negation", "Temporal"), ("World knowledge",))


class Example:
    """One row of both files: per group a cell as in the file, such as `Negation;Temporal`."""

    def __init__(self, number: int, cells: tuple[str, ...], label: str) -> None:
        self.number, self.cells, self.label = number, cells, label
        self.texts = (f"Premise {number}.", f"Hypothesis {number}.")

    def full(self, end: str = "") -> str:
        return "\t".join([*self.cells, "News", self.texts[0], self.texts[1] + end, self.label])

    def plain(self) -> str:
        return "\t".join([str(self.number), *self.texts])


def drawn(count: int, seed: int = 0) -> list[Example]:
    numbers = np.random.default_rng(seed)

    def cell(names: tuple[str, ...]) -> str:
        return ";".join(numbers.permutation([name for name in names if numbers.random() < 0.4]))

    return [
        Example(number, tuple(cell(names) for names in PHENOMENA), str(numbers.choice(THREE_WAY)))
        for number in range(count)
    ]


def write(folder: Path, full: list[str], plain: list[str], end: str = "\n") -> Path:
    path = folder / "diagnostic-full.tsv"
    path.write_bytes("".join(line + end for line in ["\t".join(FULL.columns), *full]).encode())
    text = "".join(f"{line}\n" for line in ["\t".join(PLAIN.columns), *plain])
    (folder / "diagnostic.tsv").write_text(text, encoding="utf-8")
    return path


def write_examples(folder: Path, examples: list[Example], end: str = "\n") -> Path:
    return write(folder, [one.full() for one in examples], [one.plain() for one in examples], end)


def oracle(rows: list[tuple[tuple[str, ...], str]], predictions: list[str], category: str) -> float:
    """scikit-learn on the label strings of the rows of one category."""
    group, _, phenomenon = category.partition("/")
    chosen = []
    for place, (cells, label) in enumerate(rows):
        names = [] if category == "all" else cells[GROUPS.index(group)].split(";")
        if category == "all" or (phenomenon in names if phenomenon else names != [""]):
            chosen.append((label, predictions[place]))
    return float(matthews_corrcoef([label for label, _ in chosen], [prediction for _, prediction in chosen]))


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn_on_random_predictions(tmp_path: Path, seed: int) -> None:
    examples = drawn(120, seed)
    path = write_examples(tmp_path, examples)
    numbers = np.random.default_rng(100 + seed)
    predictions = [one.label if numbers.random() < 0.5 else str(numbers.choice(THREE_WAY)) for one in examples]
    scores = ax_scores(predictions, path)
    assert list(scores) == ["all", *(
        name
        for group, inside in zip(GROUPS, PHENOMENA, strict=True)
        for name in (group, *(f"{group}/{phenomenon}" for phenomenon in sorted(inside)))
    )]  # fmt: skip
    rows = [(one.cells, one.label) for one in examples]
    assert scores == {name: pytest.approx(oracle(rows, predictions, name), abs=1e-12) for name in scores}
    assert 0.2 < scores["all"] < 0.8


def test_perfect_reversed_and_constant_predictions(tmp_path: Path) -> None:
    examples = drawn(60)
    path = write_examples(tmp_path, examples)
    assert set(ax_scores([one.label for one in examples], path).values()) == {1.0}
    assert set(ax_scores(["neutral"] * 60, path).values()) == {0.0}


def test_line_ends_and_blanks_at_the_end_of_a_text_change_nothing(tmp_path: Path) -> None:
    examples = drawn(20)
    labels = [one.label for one in examples]
    before = ax_scores(labels[::-1], write_examples(tmp_path, examples))
    full = [one.full(end=" " if one.number == 3 else "") for one in examples]
    path = write(tmp_path, full, [one.plain() for one in examples], end="\r\n")
    assert ax_scores(labels[::-1], path) == before


def test_a_row_counts_in_each_phenomenon_that_it_names(tmp_path: Path) -> None:
    cells = [("", "", "Negation;Temporal", ""), ("", "", "Temporal", "Common sense"), ("", "", "", "")]
    path = write_examples(tmp_path, [Example(place, row, "neutral") for place, row in enumerate(cells)])
    assert read_diagnostics(path).categories == {
        "all": (0, 1, 2),
        "Logic": (0, 1),
        "Logic/Negation": (0,),
        "Logic/Temporal": (0, 1),
        "Knowledge": (1,),
        "Knowledge/Common sense": (1,),
    }


def test_refusals_name_file_line_and_remedy(tmp_path: Path) -> None:
    examples = drawn(6)
    full, plain = [one.full() for one in examples], [one.plain() for one in examples]
    labels = [one.label for one in examples]

    def refused(match: str, predictions: list[str] | None = None) -> None:
        with pytest.raises(UserError, match=match):
            ax_scores(labels if predictions is None else predictions, tmp_path / "diagnostic-full.tsv")

    refused(r"no file .*diagnostic-full.tsv: AX is scored with diagnostic.tsv and")
    write(tmp_path, full, plain)
    refused(r"diagnostic-full.tsv:7: 5 predictions for 6 examples: predict the whole of diagnostic.tsv", labels[:5])
    refused(r"diagnostic-full.tsv:8: 7 predictions for 6 examples", [*labels, "neutral"])
    write(tmp_path, [*full[:4], full[4].replace(examples[4].label, "Neutral"), full[5]], plain)
    refused(r"diagnostic-full.tsv:6: label 'Neutral' is not one of AX's \(did you mean 'neutral'\?\): use entailment,")
    write(tmp_path, [full[1], full[0], *full[2:]], plain)
    refused(r"full.tsv:2: Premise 'Premise 1.' is not that of diagnostic.tsv:2, 'Premise 0.': take both files from")
    write(tmp_path, [line.replace("Hypothesis 2.", "Hypothesis  2.") for line in full], plain)
    refused(r"full.tsv:4: Hypothesis 'Hypothesis  2.' is not that of diagnostic.tsv:4")
    write(tmp_path, full[:5], plain)
    refused(r"diagnostic-full.tsv:6: the file ends after 5 examples, diagnostic.tsv has 6: take both files whole")
    write(tmp_path, full, plain[:5])
    refused(r"diagnostic.tsv:6: the file ends after 5 examples, diagnostic-full.tsv has 6")
    write(tmp_path, [*full[:2], full[2] + "\tmore", *full[3:]], plain)
    refused(r"diagnostic-full.tsv:4: 9 columns instead of 8")
    write(tmp_path, full, plain).write_text("Logic\tLabel\n", encoding="utf-8")
    refused(r"diagnostic-full.tsv:1: the header is not AX's")
    (tmp_path / "diagnostic.tsv").unlink()
    refused(r"no file .*diagnostic.tsv: ")


def test_a_prediction_outside_the_label_set(tmp_path: Path) -> None:
    path = write_examples(tmp_path, drawn(3))
    with pytest.raises(ValueError, match="prediction 1: 'not_entailment' is not one of entailment, neutral"):
        ax_scores(["neutral", "not_entailment", "neutral"], path)


@pytest.mark.skipif(not REAL_AX.is_dir(), reason="needs the published GLUE files")
def test_the_published_file() -> None:
    path = REAL_AX / "diagnostic-full.tsv"
    found = read_diagnostics(path)
    assert [found.labels.count(number) for number in range(3)] == [460, 386, 258]
    assert len(found.labels) == PLAIN.num_examples == 1104
    sizes = {name: len(places) for name, places in found.categories.items()}
    assert [sizes[group] for group in GROUPS] == [368, 424, 364, 284]
    assert (sizes["Logic/Negation"], sizes["Lexical Semantics/Symmetry/Collectivity"], len(sizes)) == (82, 28, 38)
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        cells = line.split("\t")
        rows.append((tuple(cells[:4]), cells[7]))
    predictions = [str(label) for label in np.random.default_rng(0).choice(THREE_WAY, len(rows))]
    scores = ax_scores(predictions, path)
    assert scores == {name: pytest.approx(oracle(rows, predictions, name), abs=1e-12) for name in scores}
