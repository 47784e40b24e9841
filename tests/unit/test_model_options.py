"""What to pretrain: from options, or from a model to go on from, to a model; and mistakes in either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, XLNetConfig

from bert.model import build_model
from bert.model_options import ModelOptions, load_config, model_config, num_positions
from bert.options import parse_options
from nlp_adan.errors import UserError
from tests.unit.test_bert_model import config


class Tokenizer:
    """What a configuration takes from a tokenizer."""

    pad_token_id, cls_token_id, sep_token_id, mask_token_id = 0, 1, 2, 4

    def __init__(self, num_tokens: int = 50) -> None:
        self.num_tokens = num_tokens

    def get_vocab(self) -> dict[str, int]:
        return {str(token): token for token in range(self.num_tokens)}


def test_goes_on_from_weights(tmp_path: Path) -> None:
    """In float32 whatever the checkpoint is in, with the attention that was asked for."""
    torch.manual_seed(1)
    build_model(config("bert")).bfloat16().save_pretrained(tmp_path)
    found = model_config(ModelOptions(model_name_or_path=str(tmp_path), attn_implementation="eager"), Tokenizer(), 16)
    model = build_model(found, str(tmp_path))
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert model.config._attn_implementation == "eager" and model.sparse_last_layer
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)) and parameter.dtype == torch.float32
    assert not torch.equal(
        model.bert.embeddings.word_embeddings.weight, build_model(found).get_input_embeddings().weight
    )


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert"])
def test_special_tokens_are_the_tokenizer_s(model_type: str) -> None:
    """No identifier of a family's defaults is left that the vocabulary does not have."""
    sizes: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 32)
    sizes |= dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2)
    found = model_config(ModelOptions(model_type=model_type, **sizes), Tokenizer(), 16)
    assert (found.pad_token_id, found.cls_token_id, found.sep_token_id) == (0, 1, 2)
    if model_type == "modernbert":  # as the published ones
        assert (found.bos_token_id, found.eos_token_id) == (1, 2)
    names = [name for name in found.to_dict() if name.endswith("_token_id")]
    assert all(getattr(found, name) is None or getattr(found, name) < 50 for name in names)


def test_goes_on_from_a_model_without_a_head(tmp_path: Path) -> None:
    build_model(config("bert")).bert.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"cls\.predictions.*start fresh"):
        build_model(config("bert"), str(tmp_path))


def test_weights_are_loaded_whole_under_zero3(tmp_path: Path) -> None:
    """As fresh ones are built: the trial needs them, and ZeRO-3 partitions the model afterwards."""
    from transformers.integrations import deepspeed

    build_model(config("bert")).save_pretrained(tmp_path)
    zero3 = deepspeed.HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_batch_size": 1})
    try:
        assert deepspeed.is_deepspeed_zero3_enabled()
        model = build_model(config("bert"), str(tmp_path))
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    assert zero3.is_zero3() and model.sparse_last_layer
    assert all(parameter.numel() for parameter in model.parameters())


def test_mistakes_in_what_to_go_on_from(tmp_path: Path) -> None:
    name = str(tmp_path)
    config("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="--model_name_or_path: no weights"):
        build_model(config("bert"), name)
    with pytest.raises(UserError, match=r"--config_name.*leave one"):
        model_config(ModelOptions(model_name_or_path=name, config_name=name), Tokenizer(), 16)
    with pytest.raises(UserError, match=r"knows 50 tokens, the tokenizer has 51"):
        model_config(ModelOptions(model_name_or_path=name), Tokenizer(51), 16)
    for options in (ModelOptions(model_name_or_path=name), ModelOptions(config_name=name)):
        with pytest.raises(UserError, match=r"--block_size: 33 .* has 32 positions"):
            model_config(options, Tokenizer(), 33)
    with pytest.raises(UserError, match=r"--attn_implementation: bert cannot run with 'nonsense'"):
        build_model(model_config(ModelOptions(config_name=name, attn_implementation="nonsense"), Tokenizer(), 16))
    with pytest.raises(UserError, match=r"--attn_implementation: mpnet cannot run with 'sdpa'"):
        build_model(config("mpnet", attn_implementation="sdpa"))


@pytest.mark.parametrize("model_type", ["roberta", "mpnet", "longformer", "bert", "albert", "distilbert", "esm"])
def test_number_of_positions(model_type: str) -> None:
    """So many tokens run, and one more does not."""
    options = config(model_type, max_position_embeddings=20)
    if model_type == "longformer":
        options.attention_window = 4
    model = build_model(options).eval()
    ids = torch.full((1, num_positions(options)), 7)
    with torch.no_grad():
        assert model(input_ids=ids).logits.shape[1] == num_positions(options)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, num_positions(options) + 1), 7))


def test_models_that_cannot_be_pretrained_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"xlnet.*modernbert"):
        build_model(XLNetConfig())
    with pytest.raises(UserError, match="nowhere"):
        load_config(str(tmp_path / "nowhere"))
    for options, named in (({"hidden_size": 0}, "hidden_size"), ({"num_attention_heads": 0}, "num_attention_heads"),
                           ({"dropout": 2.0}, "dropout"), ({"num_attention_heads": 5}, "multiple")):  # fmt: skip
        with pytest.raises(UserError, match=named):
            model_config(ModelOptions(**options), Tokenizer(), 16)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model_name_or_path", "there", "--hidden_size", "64"], "--hidden_size: .*'there' has a configuration"),
        (["--config_name", "there", "--dropout", "0.1"], "--dropout: .*'there' has a configuration"),
        (["--model_name_or_path", "there", "--vocab_size=600"], "--vocab_size: .*'there' has a tokenizer"),
        (["--tokenizer", "there", "--tokenizer_kind", "bpe"], "--tokenizer_kind: .*'there' has a tokenizer"),
    ],
)
def test_options_that_would_not_act(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{told} of its own; leave it out"):
        parse_options([*words, "--output_dir", str(tmp_path)])
    parse_options([*words[:2], "--output_dir", str(tmp_path)])  # what the recipe says gives way
