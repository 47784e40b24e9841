"""What a Transformer-XL can be, and what not: refused by name, by the model as by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from nlp_adan.errors import UserError
from transformer_xl import TransformerXLConfig, TransformerXLForCausalLM
from transformer_xl.configuration import check_config

SIZES: dict[str, Any] = {"vocab_size": 50, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "cutoffs": [20, 40]}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vocab_size": 0}, "vocab_size: 0 is out of range; give a whole number, 1 or more"),
    ({"vocab_size": 10**19}, "vocab_size: 10000000000000000000 is out of range; give a whole number, 1 to 2147483648"),
    ({"mem_len": 2**31 + 1}, "mem_len: 2147483649 is out of range; give a whole number, 0 to 2147483648"),
    ({"n_layer": 0}, "n_layer: 0 "),
    ({"n_head": 0}, "n_head: 0 "),
    ({"d_head": 0}, "d_head: 0 "),
    ({"d_inner": -3}, "d_inner: -3 "),
    ({"d_embed": 0}, "d_embed: 0 "),
    ({"d_model": 7, "d_head": 4}, "d_model: 7 is odd"),
    ({"d_model": 8.0, "d_head": 4}, "d_model: 8.0 "),
    ({"n_head": 3}, "d_head: 3 heads cannot share a width of 8"),
    ({"div_val": 0}, "div_val: 0 "),
    ({"div_val": 3}, "div_val: 3 leaves the last of 3 clusters no width (8 / 3^2)"),
    ({"tgt_len": 0}, "tgt_len: 0 "),
    ({"mem_len": -1}, "mem_len: -1 is out of range; give a whole number, 0 or more"),
    ({"mem_len": "5"}, "mem_len: '5' "),
    ({"clamp_len": -2}, "clamp_len: -2 "),
    ({"same_length": True, "mem_len": 0}, "same_length: with mem_len 0 "),
    ({"dropout": 1.0}, "dropout: 1 is out of range; give 0 or more and less than 1"),
    ({"dropatt": -0.1}, "dropatt: -0.1 "),
    ({"init_std": 0.0}, "init_std: 0 "),
    ({"proj_init_std": -1.0}, "proj_init_std: -1 "),
    ({"init_std": float("inf")}, "init_std: inf is out of range"),
    ({"dropout": float("nan")}, "dropout: nan is out of range"),
    ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon: 0 "),
    ({"cutoffs": [0]}, "cutoffs: 0 comes after 0 in [0]"),
    ({"cutoffs": [40, 20]}, "cutoffs: 20 comes after 40 in [40, 20]; give numbers of tokens that rise"),
    ({"cutoffs": [20, 20]}, "cutoffs: 20 comes after 20 "),
    ({"cutoffs": [20, 50]}, "cutoffs: 50 leaves no token for the last cluster of a vocabulary of 50"),
    ({"cutoffs": [200]}, "cutoffs: 200 leaves no token"),
    ({"tie_projs": [False, True, True, True]}, "tie_projs: 4 values for 3 clusters"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_a_value_that_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        TransformerXLForCausalLM(TransformerXLConfig(**{**SIZES, **options}))
    assert str(error.value).startswith(message)


def test_values_on_the_edge_can_be() -> None:
    edges: list[dict[str, Any]] = [
        {"mem_len": 0},
        {"mem_len": 1, "same_length": True},
        {"clamp_len": 0},
        {"cutoffs": [1, 49]},
        {"cutoffs": []},
        {"div_val": 2, "tie_projs": [True]},
        {"div_val": 8, "cutoffs": [20]},
        {"dropout": 0, "dropatt": 0.99},
        {"n_head": 3, "d_head": 5},
    ]
    for options in edges:
        check_config(TransformerXLConfig(**{**SIZES, **options}))


def test_the_command_lines_names() -> None:
    with pytest.raises(UserError, match=r"^--same_length: .*`--mem_len` 1"):
        check_config(TransformerXLConfig(**SIZES, same_length=True, mem_len=0), "--")


def test_defaults_are_the_papers_base_model() -> None:
    paper = TransformerXLConfig()
    check_config(paper)
    assert (paper.hidden_size, paper.num_hidden_layers, paper.num_attention_heads, paper.d_head) == (410, 16, 10, 41)
    assert (paper.d_inner, paper.d_embed, paper.tgt_len, paper.mem_len) == (2100, 410, 150, 150)
    assert paper.cutoffs == [20000, 40000, 200000] and paper.vocab_size == 267735 and paper.div_val == 1
    assert (paper.dropout, paper.dropatt, paper.init_std, paper.proj_init_std) == (0.1, 0.0, 0.02, 0.01)
    assert paper.tie_word_embeddings and not paper.pre_lnorm and not paper.same_length
    assert [paper.ties_projection(cluster) for cluster in range(4)] == [False, True, True, True]


def test_a_folder_keeps_every_value(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "vocab_size": 90, "d_model": 12, "n_layer": 3, "n_head": 2, "d_head": 5, "d_inner": 7, "d_embed": 10,
        "cutoffs": [30], "div_val": 2, "tie_weight": False, "tie_projs": [True], "pre_lnorm": True, "tgt_len": 9,
        "mem_len": 4, "clamp_len": 3, "same_length": True, "dropout": 0.3, "dropatt": 0.2, "init_std": 0.1,
        "proj_init_std": 0.2, "layer_norm_epsilon": 1e-6, "eos_token_id": 0,
    }  # fmt: skip
    TransformerXLConfig(**given).save_pretrained(tmp_path)
    found = AutoConfig.from_pretrained(tmp_path)
    assert type(found) is TransformerXLConfig
    assert {name: getattr(found, name) for name in given} == given
    assert found.tie_word_embeddings is False and found.ties_projection(0) and not found.ties_projection(1)
    assert AutoConfig.from_pretrained(tmp_path, mem_len=8, same_length=False).mem_len == 8
