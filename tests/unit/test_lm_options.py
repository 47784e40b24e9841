"""What of a language model's options could not act is refused by name, in words that are true of language models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from nlp_adan.errors import UserError
from transformer_xl import pretrain
from transformer_xl.model_options import build_model
from transformer_xl.options import MODELS, Options, StreamEngineOptions, command_parser, parse_options

OUTPUT = ["--output_dir", "runs/never"]


def parse(words: str, family: str = "transformer_xl") -> Options:
    return parse_options(family, [*words.split(), *OUTPUT])


def error_of(words: str, family: str = "transformer_xl") -> str:
    with pytest.raises(UserError) as raised:
        parse(words, family)
    assert str(raised.value).count("\n") <= 1
    return str(raised.value)


def test_the_refusals_are_not_those_of_masked_models() -> None:
    """Every option that is refused is one of both parsers, and its text speaks of no masks and no other model."""
    for family in MODELS:
        known = {option for action in command_parser(family)._actions for option in action.option_strings}
        for name, why in StreamEngineOptions.refused.items():
            assert f"--{name.partition('.')[0]}" in known
            assert not re.search(r"mask|BERT|permutation|epochs follow|no test", why), name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--remove_unused_columns True", "from the batches"),
        ("--do_predict True", "follows from the data"),
        ("--use_liger_kernel True", "these models"),
        ("--train_sampling_strategy group_by_length", "the run's own"),
        # What the Trainer's own evaluation does, and that of a stream does not.
        ("--bf16_full_eval True", "the precision of its training"),
        ("--fp16_full_eval True", "the precision of its training"),
        ("--eval_accumulation_steps 4", "sums losses"),
        ("--include_for_metrics inputs", "sums losses"),
        ("--eval_use_gather_object True", "sums losses"),
        ("--eval_do_concat_batches False", "sums losses"),
        ("--batch_eval_metrics True", "sums losses"),
        ("--prediction_loss_only True", "sums losses"),
        ("--label_names labels", "sums losses"),
        ("--dataloader_drop_last True", "the last segment"),
    ],
)
def test_an_option_that_could_not_act_is_refused(words: str, told: str) -> None:
    for family in MODELS:
        message = error_of(words, family)
        assert message.startswith(words.split(" ")[0] + ":") and told in message


def test_a_share_of_a_budget_is_no_warm_up_on_top() -> None:
    words = "--max_hours 1 --warmup_on_top true --warmup_steps"
    for family in MODELS:
        message = error_of(f"{words} 0.1", family)
        assert message.startswith("--warmup_on_top: ") and "--warmup_steps 0.1" in message
        assert parse(f"{words} 30", family).schedule.warmup_on_top
        assert parse("--max_hours 1 --warmup_steps 0.1", family).engine.warmup_steps == 0.1
        assert parse("--warmup_on_top true --warmup_steps 0.1", family).schedule.warmup_on_top


def test_random_lengths_need_room() -> None:
    """Half of a segment is the least that the rule draws, and none has fewer than five tokens."""
    with pytest.raises(UserError, match=r"--tgt_len: 9 is too short .*10 or more, or `--random_lengths false`"):
        parse("--tgt_len 9", "lstm").model.config(None)
    for words in ("--tgt_len 10", "--tgt_len 9 --random_lengths false"):
        assert parse(words, "lstm").model.config(None).model_type == "awd_lstm"


PROJECTED = "--d_model 16 --n_layer 1 --n_head 2 --d_inner 8 --cutoffs 200 300 --div_val 2"


def test_projections_are_tied_and_drawn_as_asked(tmp_path: Path) -> None:
    """From a command line and from a recipe."""
    words = f"{PROJECTED} --tie_projs true False true --proj_init_std 0.5"
    recipe = tmp_path / "own.yaml"
    recipe.write_text("tie_projs: [true, false, true]\nproj_init_std: 0.5\n")
    for given in (words, f"--recipe {recipe} {PROJECTED}"):
        model: Any = build_model(parse(given).model.config(400))
        tied = [
            model.softmax.get_parameter(f"proj_{i}") is model.embedding.get_parameter(f"proj_{i}") for i in range(3)
        ]
        assert tied == [True, False, True]
        assert float(model.embedding.proj_0.detach().std()) == pytest.approx(0.5, rel=0.2)  # of 256 numbers
    untold: Any = build_model(parse(PROJECTED).model.config(400))
    assert untold.softmax.proj_0 is not untold.embedding.proj_0 and untold.softmax.proj_1 is untold.embedding.proj_1
    assert float(untold.embedding.proj_0.detach().std()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (f"{PROJECTED} --tie_projs true maybe", "--tie_projs: 'maybe' is neither `true` nor `false`"),
        (f"{PROJECTED} --tie_projs true true true true", "--tie_projs: 4 values for 3 clusters"),
        (f"{PROJECTED} --proj_init_std 0", "--proj_init_std: 0 is out of range; give more than 0"),
        ("--tie_projs true", "--tie_projs: embedding and layers have one width"),
        ("--proj_init_std 0.5", "--proj_init_std: embedding and layers have one width"),
    ],
)
def test_projections_that_cannot_be(words: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(words).model.config(None)
    assert str(raised.value).startswith(told)


def test_the_datas_seed_draws_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(Exception):
        """With which seed."""

    def segments(tokens: Any, num_columns: int, length: int, random_seed: int | None) -> None:
        raise Drawn(random_seed)

    monkeypatch.setattr(pretrain, "StreamSegments", segments)
    for words, seed in (("--seed 3", 3), ("--seed 3 --data_seed 7", 7), ("--seed 3 --random_lengths false", None)):
        with pytest.raises(Drawn) as drawn:
            pretrain.StreamPretraining(parse(words, "lstm")).make_trainer(Mock(), Mock(), Mock())
        assert drawn.value.args == (seed,)
    for words, family in (("--data_seed 7", "transformer_xl"), ("--data_seed 7 --random_lengths false", "lstm")):
        assert "--data_seed: it draws segments of random length" in error_of(words, family)
