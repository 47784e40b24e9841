"""Every recipe of a language model: what it says of itself is so, and two steps of it, made small, run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.corpora import make_documents
from transformer_xl import pretrain
from transformer_xl.options import MODELS, family_recipes, parse_options
from transformer_xl.parameters import num_parameters, num_parameters_outside_embedding

PROJECT = Path(__file__).resolve().parents[2]
RECIPES = [(family, path) for family in MODELS for path in sorted(family_recipes(family).glob("*.yaml"))]
NAMES = [f"{family}-{path.stem}" for family, path in RECIPES]
PTB_PARAMETERS = {1: 5_293_200, 2: 13_632_400, 3: 24_221_600}
SMALL = {
    "transformer_xl": ["--d_model", "16", "--n_layer", "2", "--n_head", "2", "--d_head", "8", "--d_inner", "16",
                       "--cutoffs", "20", "40", "--mem_len", "8"],
    "lstm": ["--embedding_size", "16", "--hidden_size", "16"],
}  # fmt: skip


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize(("family", "path"), RECIPES, ids=NAMES)
def test_the_comments_are_true(family: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    options = parse_options(family, ["--recipe", path.stem, "--output_dir", "unused"])
    assert path.stem == "tiny" or f"run_pretrain.py {family} --recipe {path.stem} --data" in text
    engine, model = options.engine, options.model
    streams, length = engine.global_batch_size or 0, model.tgt_len
    comments = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    for total, each in re.findall(r"([\d,]+|\d+e6) training (?:tokens|bytes) in \d+ streams = ([\d,]+)", comments):
        num_tokens = int(float(total)) if "e" in total else number(total)
        assert (num_tokens - 1) // streams == number(each)
    for steps, tokens in re.findall(rf"([\d,]+) steps x {streams} x {length} = ([\d.]+)e9", comments):
        assert number(steps) == engine.max_steps and float(tokens) == pytest.approx(
            engine.max_steps * streams * length / 1e9, rel=0.01
        )
    if path.stem.startswith("wt103"):
        config = model.config(267_735)
        assert num_parameters(config) == 151_107_538 and num_parameters_outside_embedding(config) == 41_066_400
        assert "151,107,538" in comments and "41,066,400" in comments
    if path.stem.startswith("ptb"):
        layers = int(path.stem[4])
        assert num_parameters(model.config(10_000)) == PTB_PARAMETERS[layers]
        assert f"{PTB_PARAMETERS[layers]:,} parameters" in comments


def test_the_guide_lists_them() -> None:
    guide = (PROJECT / "docs" / "language_models.md").read_text(encoding="utf-8")
    for family, path in RECIPES:
        name = re.sub(r"-(adam|sgd)$", "", path.stem) if family == "lstm" else path.stem
        assert f"{name}`" in guide, path.stem


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for seed, (name, count) in enumerate([("train", 60), ("valid", 8), ("test", 8)]):
        (folder / f"{name}.txt").write_text("\n".join(make_documents(count, seed)), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("family", "path"), RECIPES, ids=NAMES)
def test_two_steps(
    family: str, path: Path, text: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path_factory.getbasetemp() / "recipes_cache"))
    run = tmp_path / "run"
    getattr(pretrain, family)([
        "--recipe", path.stem, "--data", str(text), "--min_count", "2" if path.stem != "enwik8-base" else "1",
        *SMALL[family], "--tgt_len", "10", "--global_batch_size", "4", "--max_steps", "2", "--logging_steps", "1",
        "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1",
        "--disable_tqdm", "True", "--use_cpu", "True", "--output_dir", str(run),
    ])  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["step"] in (1, 2) and metrics["test_loss"] > 0
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
