"""docs/reproduce.md: published figures are those of our tables, hours those of the plans, settings the recipes'."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import bert.dry_run
import bert.published
import transformer_xl.dry_run
import transformer_xl.published
from bert.options import parse_options
from glue_eval.averages import ADAN_ONCE, ADAN_TWICE
from glue_eval.published import ADAN_BERT_BASE
from glue_eval.tasks import TASKS
from nlp_adan.pretraining.plan import format_plan
from nlp_adan.pretraining.published import read_table
from transformer_xl import options as language_models

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "reproduce.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
PLANNED = [line for line in COMMANDS if "--dry_run" in line]


def rows(first_cell: str) -> list[list[str]]:
    """Of the page's tables: the cells of the rows that begin with a cell of this pattern."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [row for row in cells if re.fullmatch(first_cell, row[0])]


def recipe_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--recipe") + 1]


@pytest.mark.parametrize("command", PLANNED, ids=recipe_of)
def test_hours_are_those_of_the_plan(command: str) -> None:
    family, *words = shlex.split(command)[2:]
    if family == "bert":
        bert_options = parse_options(words)
        plan = format_plan(bert.dry_run.plan_of_run(bert_options, bert_options.plan))
    else:
        options = language_models.parse_options(family, words)
        plan = format_plan(transformer_xl.dry_run.plan_of_run(options, options.plan))
    time, unit = re.findall(r"^time +([\d.]+) (h|min) ", plan, flags=re.MULTILINE)[0]
    hours = f"{float(time) / (60 if unit == 'min' else 1):.1f}"
    (row,) = [row for row in rows(".*") if len(row) == 5 and row[2] == f"`{recipe_of(command)}`"]
    assert re.match(r"([\d.]+) on ", row[3])[1] == hours  # type: ignore[index]


def test_every_recipe_of_the_paper_has_its_commands() -> None:
    assert {recipe_of(command) for command in PLANNED} == {
        "base", "base-adam", "wt103-base", "wt103-base-50k", "wt103-base-100k", "wt103-base-adam"
    }  # fmt: skip
    trained = {recipe_of(line) for line in COMMANDS if " run_pretrain.py " in line and "--resume auto" in line}
    lstm = {f"ptb-{layers}layer{optimizer}" for layers in (1, 2, 3) for optimizer in ("", "-adam", "-sgd")}
    assert trained == {recipe_of(command) for command in PLANNED} | lstm


def test_published_masked_lm_losses() -> None:
    last = list(read_table(Path(bert.published.__file__).parent / bert.published.ADAN_PAPER))[-1]
    for optimizer, recipe in (("Adan", "base"), ("Adam", "base-adam")):
        bits = float(last[f"{optimizer.lower()}_valid_bits"])
        ((_, published, *_),) = rows(f"BERT-base, {optimizer}")
        assert re.findall(r"\d\.\d+", published) == [f"{bits:.3f}", f"{bits * 0.6931472:.3f}"]
        settings = yaml.safe_load((PROJECT / "bert" / "recipes" / f"{recipe}.yaml").read_text())
        (row,) = [row for row in rows(optimizer) if len(row) == 7]
        clipping = "none" if settings["max_grad_norm"] == 0 else str(settings["max_grad_norm"])
        assert row[1] == settings["learning_rate"] and row[3] == settings["adam_epsilon"]
        assert row[4:] == [str(settings["weight_decay"]), clipping, f"{bits:.3f}"]


def test_where_adan_passes_adam() -> None:
    table = list(read_table(Path(bert.published.__file__).parent / bert.published.ADAN_PAPER))
    adan = [(int(row["step"]), float(row["adan_valid_bits"])) for row in table if row["adan_valid_bits"]]
    adam = {int(row["step"]): float(row["adam_valid_bits"]) for row in table if row["adam_valid_bits"]}
    final = adam[max(adam)]
    after = next(place for place, (_, loss) in enumerate(adan) if loss <= final)
    (first, high), (last, low) = adan[after - 1], adan[after]
    reached = first + (last - first) * (high - final) / (high - low)
    assert f"about {round(reached, -3):,.0f} of its" in PAGE
    behind = [step for step, loss in adan if loss > adam[step]]
    assert f"from {min(behind):,} to {max(behind):,}" in PAGE.replace("\n", " ")


def test_published_glue_scores() -> None:
    ((*cells,),) = rows("Adan, published")
    names = ("MNLI", "QNLI", "QQP", "RTE", "SST-2", "CoLA", "STS-B")
    shown = [" / ".join(f"{value:.1f}" for value in ADAN_BERT_BASE.scores[name].values()) for name in names]
    averages = dict(ADAN_BERT_BASE.averages)
    assert cells[1:] == [*shown, str(averages[ADAN_TWICE]), str(averages[ADAN_ONCE])]
    assert ADAN_BERT_BASE.split == "dev" and set(names) <= set(TASKS)


def test_published_perplexities() -> None:
    table = list(read_table(transformer_xl.published.FOLDER / transformer_xl.published.TEST_PERPLEXITY))
    wikitext = {(row["optimizer"], int(row["steps"])): row for row in table if row["corpus"] == "wikitext-103"}
    shown = [row for row in rows("Adan, betas.*|Adan, the same|Adam") if len(row) == 6]
    assert len(shown) == 4
    for name, steps, rate, warmup, _, perplexity in shown:
        published = wikitext.pop((name[:4], int(steps.replace(",", ""))))
        assert f"{float(published['test_perplexity']):.2f}" == perplexity
        assert (published["learning_rate"], published["warmup_steps"]) == (rate, warmup.replace(",", ""))
        assert [perplexity] == [row[1].split()[-1] for row in rows(f"Transformer-XL, {name[:4]}, {steps} steps")]
    assert not wikitext
    for optimizer, pattern in (("SGD", "SGD, rate 30"), ("Adam", "Adam, rate 1e-3"), ("AdaBelief", "AdaBelief")):
        ((_, *perplexities),) = rows(pattern)
        models = [f"lstm-{layers}layer" for layers in (1, 2, 3)]
        values = {row["model"]: row["test_perplexity"] for row in table if row["optimizer"] == optimizer}
        assert perplexities == [values[model] for model in models]


def test_lstm_hours_follow_from_the_operations() -> None:
    work = [float(number) for number in re.findall(r"operations, ([\d.]+), ([\d.]+) and ([\d.]+) GFLOP", PAGE)[0]]
    minutes, steps = 27, 2043  # docs/results/README.md
    results = (PROJECT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
    assert "3 passes, 2,043\nsteps" in results or "2,043 steps" in results
    hours = [minutes / steps * 136_200 / 60 * flops / work[0] for flops in work]
    ((_, _, _, shown, _),) = rows("LSTM of 1, 2, 3 layers, Adan")
    assert shown.startswith(", ".join(f"{value:.0f}" for value in hours))
    for layers, flops in zip((1, 2, 3), work, strict=True):
        options = language_models.parse_options("lstm", ["--recipe", f"ptb-{layers}layer", "--output_dir", "runs/x"])
        plan = format_plan(transformer_xl.dry_run.plan_of_run(options, options.plan))
        assert f"work    {flops:g} GFLOP a step" in plan
