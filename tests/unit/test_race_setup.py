"""What a command line makes of a race before anything runs: the words of its runs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bert.run_kind import MASKED_LM
from nlp_adan.errors import UserError
from nlp_adan.race.conduct import Setup
from nlp_adan.race.options import parse_race
from nlp_adan.race.results import Settings
from nlp_adan.race.setup import _published, prepare_race
from nlp_adan.training.recipe import word_value

LSTM = "transformer_xl.pretrain:lstm_pretraining"
SMALL = [
    "--embedding_size",
    "8",
    "--hidden_size",
    "8",
    "--tgt_len",
    "8",
    "--max_vocab",
    "100",
    "--random_lengths",
    "false",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("race")
    for part, lines in (("train", 200), ("valid", 20), ("test", 20)):
        (folder / f"{part}.txt").write_text("the race is long and the words are few\n" * lines)
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(folder / "cache"))


def prepared(folder: Path, *words: str) -> Setup:
    given = [*SMALL, "--data", str(folder), "--output_dir", str(folder / "out"), *words]
    return prepare_race("lstm", LSTM, *parse_race(given))


def words_of(setup: Setup, place: int, **more: Any) -> list[str]:
    """Of a final run of an entrant."""
    entrant = setup.entrants[place]
    settings = Settings(entrant.presets[0].name, entrant.first_rate, entrant.weight_decay)
    words: list[str] = setup.track.run(entrant, settings, 1, **more).arguments["words"]
    return words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "steps:400", "--batch_sizes", "8,16", "--gradient_accumulation_steps", "2"],
         "--gradient_accumulation_steps beside `--batch_sizes`: .* `--global_batch_size`"),
        (["--budget", "hours:1", "--warmup_on_top", "true"], "--warmup_on_top: .* `--warmup_on_top false`"),
        (["--budget", "hours:1", "--warmup_steps", "50"], "--warmup_steps: 50 steps are no known share of hours:1"),
        (["--budget", "steps:400", "--warmup_steps", "400"], "--warmup_steps: 400 of the 400 steps"),
        (["--budget", "steps:400", "--lr", "auto", "1e-3"], "--lr: auto beside 1e-3"),
        (["--budget", "steps:400", "--optim", "adamw,nosuch"], "--optim: unknown value 'nosuch'"),
        (["--budget", "steps:400", "--optim", "adan"], "--optim: adan alone is no race"),
        (["--budget", "steps:40"], "--budget: steps:40 is too small: --short_share 0.25 of it are 10 steps"),
        (["--budget", "hours:1e-3", "--lr", "1e-3"], "--budget: hours:1e-3 is too small: it is 3.6 seconds"),
        (["--budget", "steps:400", "--lr_scheduler_type", "reduce_lr_on_plateau"], "--lr_scheduler_type: .* one"),
    ],
)  # fmt: skip
def test_what_cannot_race_is_named_before_anything_runs(folder: Path, words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        prepared(folder, *words)
    assert not (folder / "out").exists()


def test_no_validation_text(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text((folder / f"{part}.txt").read_text() if part != "valid" else "")
    with pytest.raises(UserError, match="valid"):
        prepared(tmp_path, "--budget", "steps:400")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "share"),
    [
        ([], "0.1"),  # the recipe's 60 of 600
        (["--warmup_steps", "100"], "0.25"),  # of the 400 that the command line says too
        (["--warmup_steps", "0.03"], "0.03"),
        (["--warmup_steps", "0"], "0"),
    ],
)
def test_short_runs_warm_up_for_as_large_a_share(folder: Path, words: list[str], share: str) -> None:
    setup = prepared(folder, "--budget", "steps:400", "--lr", "1e-3", *words)
    lengths: list[dict[str, Any]] = [{}, {"share": 0.25}, {"batch_size": 32}]
    assert {word_value("--warmup_steps", words_of(setup, 0, **length)) for length in lengths} == {share}


def test_a_recipes_betas_and_epsilon_are_its_own_optimizers(folder: Path) -> None:
    recipe = folder / "own.yaml"
    recipe.write_text("optim: adamw\nlearning_rate: 1e-3\nadam_beta2: 0.5\nadam_epsilon: 1e-6\nmax_steps: 400\n")
    setup = prepared(folder, "--recipe", str(recipe), "--optim", "adamw,adan,sgd", "--lr", "1e-3")
    own, *others = (words_of(setup, place) for place in range(3))
    assert word_value("--adam_epsilon", own) is None and word_value("--adam_beta2", own) == "0.999"  # its preset's
    assert [word_value("--adam_epsilon", words) for words in others] == ["1e-08"] * 2
    assert [word_value("--adam_beta2", words) for words in others] == ["0.999"] * 2
    said = prepared(folder, "--recipe", str(recipe), "--optim", "adamw,adan", "--lr", "1e-3", "--adam_epsilon", "1e-7")
    assert {word_value("--adam_epsilon", words_of(said, place)) for place in (0, 1)} == {"1e-7"}


def test_rates_that_are_written_alike_are_one(folder: Path) -> None:
    setup = prepared(folder, "--budget", "steps:400", "--lr", "1e-3,1.00000001e-3")
    assert {entrant.rates for entrant in setup.entrants} == {(1e-3,)}


@pytest.mark.parametrize("recipe", ["base", "base-adam"])
def test_both_published_curves_stand_beside_either_recipe(recipe: str) -> None:
    found = _published(SimpleNamespace(kind=MASKED_LM), {"recipe": recipe})  # type: ignore[arg-type]
    assert len(found) == 2 and all(points for points in found.values())
