"""Checkpoints of the research code, by the command: what they become, and mistakes in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from nlp_adan.errors import UserError
from tests.parity.transformer_xl_original import OPTIONS, Original
from transformer_xl.convert import COMPUTED, main
from transformer_xl.vocabulary import EOS, rules_of

CONFIG = {name: value for name, value in OPTIONS.items() if name not in ("dropout", "dropatt")}
CLUSTERS = {**CONFIG, "cutoffs": [12, 30], "tie_projs": [False, True, True], "d_embed": 6}


class Case:
    """Files of a model, and the command on them."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.model = Original(**options).randomize().eval()
        self.state: Any = self.model.state_dict()
        self.config: Any = dict(options)
        self.output = folder / "new"

    def convert(self, *words: str) -> None:
        torch.save(self.state, self.folder / "state.pt")
        (self.folder / "config.json").write_text(json.dumps(self.config))
        main([str(self.folder / "state.pt"), "--config", str(self.folder / "config.json"), *words,
              "--output_dir", str(self.output)])  # fmt: skip

    def refused(self, *words: str) -> str:
        """The message; nothing is written."""
        before = {path.name for path in self.folder.iterdir()} | {"state.pt", "config.json"}
        with pytest.raises(UserError) as error:
            self.convert(*words)
        assert {path.name for path in self.folder.iterdir()} <= before
        return str(error.value)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, CLUSTERS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_command_makes_a_model_of_transformers(prefix: str, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """In float32, also from half precision; with the losses of the original."""
    case.state = {prefix + name: tensor.half() for name, tensor in case.state.items()}
    case.config |= {"attn_type": 0, "ext_len": 0, "dropout": 0.2, "mem_len": 6}
    case.convert()
    found = AutoModelForCausalLM.from_pretrained(case.output)
    assert f"{found.num_parameters():,} parameters, no vocabulary" in capsys.readouterr().out
    assert found.dtype == torch.float32 and found.config.dropout == 0.2 and found.config.mem_len == 6
    tokens = torch.arange(40).view(8, 5)
    with torch.no_grad():
        losses, memories = case.model.half().float()(tokens, tokens + 1)
        output = found(tokens.t(), labels=tokens.t() + 1)
    torch.testing.assert_close(output.losses, losses.t(), rtol=0, atol=1e-5)
    torch.testing.assert_close(output.mems[1], memories[1].transpose(0, 1), rtol=0, atol=1e-5)
    longer = AutoModelForCausalLM.from_pretrained(case.output, mem_len=20, clamp_len=4, same_length=True).config
    assert (longer.mem_len, longer.clamp_len, longer.same_length) == (20, 4, True)


def test_the_vocabulary_goes_with_it(case: Case) -> None:
    words = ["the", EOS, "Of", *(f"w{i}" for i in range(47))]
    (case.folder / "vocab.txt").write_text("\n".join(words) + "\n")
    case.convert("--vocab", str(case.folder / "vocab.txt"), "--lower_case")
    tokenizer = AutoTokenizer.from_pretrained(case.output)
    assert tokenizer("THE w3\n")["input_ids"] == [0, 6, 1]
    assert rules_of(tokenizer).unit == "word" and rules_of(tokenizer).lower_case
    assert AutoModelForCausalLM.from_pretrained(case.output).config.eos_token_id == 1


def test_words_that_are_not_the_models(case: Case) -> None:
    vocab = case.folder / "vocab.txt"
    assert f"no file '{vocab}'" in case.refused("--vocab", str(vocab))
    assert "--lower_case: " in case.refused("--lower_case")
    vocab.write_text(f"{EOS}\nthe\n")
    message = case.refused("--vocab", str(vocab))
    assert "has 2 words, the configuration's n_token is 50" in message


# What is done to a state, and what is said.
STATES: dict[str, tuple[Callable[[Case], Any], str]] = {
    "missing": (lambda case: case.state.pop("layers.1.pos_ff.CoreNet.3.bias"), "has no layers.1.pos_ff.CoreNet.3.bias"),
    "several missing": (
        lambda case: [case.state.pop(name) for name in list(case.state) if ".dec_attn." in name],
        "has no layers.0.dec_attn.qkv_net.weight, layers.0.dec_attn.r_net.weight, layers.0.dec_attn.o_net.weight, "
        "layers.0.dec_attn.layer_norm.weight, layers.0.dec_attn.layer_norm.bias and 5 more;",
    ),
    "extra": (
        lambda case: case.state.update({"layers.2.dec_attn.o_net.weight": torch.zeros(1)}),
        "has more than the configuration's model: layers.2.dec_attn.o_net.weight;",
    ),
    "shape": (
        lambda case: case.state.update({"r_w_bias": torch.zeros(8)}),
        "r_w_bias is torch.float32 (8,) where the configuration makes it torch.float32 (2, 4)",
    ),
    "whole numbers": (
        lambda case: case.state.update({"crit.cluster_bias": torch.zeros(2, dtype=torch.int64)}),
        "crit.cluster_bias is torch.int64 (2,)",
    ),
    "tables differ": (
        lambda case: case.state.update({"crit.out_layers.0.weight": torch.zeros(50, 6)}),
        "crit.out_layers.0.weight and word_emb.emb_layers.0.weight differ, where tie_weight of",
    ),
    "projections differ": (
        lambda case: case.state.update({"crit.out_projs.2": torch.zeros(8, 6)}),
        "crit.out_projs.2 and word_emb.emb_projs.0 differ, where tie_projs of",
    ),
    "not tensors": (lambda case: case.state.update({"epoch": 3}), "'epoch' is a int, not a parameter; save"),
    "a list": (lambda case: setattr(case, "state", [torch.zeros(1)]), "holds a list, not parameters by name; save"),
    "nothing": (lambda case: setattr(case, "state", {}), "holds a dict, not parameters by name"),
    "a module": (lambda case: setattr(case, "state", nn.Linear(1, 1)), "code of its own; save `model.state_dict()`"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_is_not_the_configurations(kind: str, case: Case) -> None:
    change, message = STATES[kind]
    change(case)
    assert message in case.refused()


# What is done to a configuration, and what is said.
CONFIGS: dict[str, tuple[Callable[[Case], Any], str]] = {
    "missing": (lambda case: [case.config.pop("mem_len"), case.config.pop("cutoffs")], "nothing of cutoffs, mem_len"),
    "unknown": (lambda case: case.config.update(clamp=3), "unknown option 'clamp' (did you mean 'clamp_len'?)"),
    "attn_type": (lambda case: case.config.update(attn_type=2), "attn_type is 2; only models with `attn_type` 0 can"),
    "ext_len": (lambda case: case.config.update(ext_len=64), "ext_len is 64; only models with `ext_len` 0 can"),
    "text": (lambda case: case.config.update(n_head="2"), "n_head is '2'; give a whole number"),
    "number for a flag": (lambda case: case.config.update(same_length=1), "same_length is 1; give true or false"),
    "flag for a list": (lambda case: case.config.update(tie_projs=True), "tie_projs is True; give a list of true and"),
    "number for a list": (lambda case: case.config.update(cutoffs=9), "cutoffs is 9; give a list of numbers of tokens"),
    "text for a share": (lambda case: case.config.update(dropout="0"), "dropout is '0'; give a number"),
    "cutoffs": (lambda case: case.config.update(cutoffs=[30, 12]), "cutoffs: 12 comes after 30"),
    "cutoffs too large": (lambda case: case.config.update(cutoffs=[12, 50]), "cutoffs: 50 leaves no token"),
    "a list": (lambda case: setattr(case, "config", []), "holds a list; give an object of options"),
    "attn_type as a flag": (lambda case: case.config.update(attn_type=False), "attn_type is False; only models with"),
    "huge": (lambda case: case.config.update(n_token=10**19), "n_token is 10000000000000000000; give a whole number"),
    "huge in JSON": (lambda case: case.config.update(n_token=1e19), "n_token is 1e+19; give a whole number from 1 to"),
    "longer than a line": (lambda case: case.config.update(mem_len=10**4000), "00...; give a whole number from 0 to"),
    "huge share": (lambda case: case.config.update(dropout=10**400), "00...; give a number, 0 or more"),
    "negative": (lambda case: case.config.update(d_embed=-2), "d_embed is -2; give a whole number from 1 to"),
    "flag for a number": (lambda case: case.config.update(d_inner=True), "d_inner is True; give a whole number"),
    "flag for a share": (lambda case: case.config.update(init_std=True), "init_std is True; give a number"),
    "no number": (lambda case: case.config.update(dropatt=float("nan")), "dropatt is nan; give a number"),
    "infinite": (lambda case: case.config.update(init_std=float("inf")), "init_std is inf; give a number"),
    "nothing": (lambda case: case.config.update(tgt_len=None), "tgt_len is None; give a whole number"),
    "huge cutoffs": (lambda case: case.config.update(cutoffs=[12, 10**19]), "10000000000000000000]; give a list"),
    "more than the state": (lambda case: case.config.update(d_model=2**31), "d_model 2,147,483,648 is more than its"),
    "heads": (lambda case: case.config.update(n_head=2**30, d_head=2**30), "n_head x d_head 1,152,921,504,606"),
    "endless layers": (lambda case: case.config.update(n_layer=10**9), "n_layer 1,000,000,000 is more than its"),
    "other sizes": (lambda case: case.config.update(d_inner=13), "CoreNet.0.weight is torch.float32 (12, 8) where"),
    "other layers": (lambda case: case.config.update(n_layer=1), "has more than the configuration's model: layers.1."),
    "other clusters": (lambda case: case.config.update(cutoffs=[12], tie_projs=[False, True]), "more than the conf"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_configuration_that_cannot_be(kind: str, case: Case) -> None:
    change, message = CONFIGS[kind]
    change(case)
    assert message in case.refused()


def test_files_that_cannot_be_read(case: Case) -> None:
    case.convert()
    case.output.rename(case.folder / "good")
    state, config = case.folder / "state.pt", case.folder / "config.json"
    for words, content, message in (
        ([str(case.folder / "none.pt"), "--config", str(config)], None, f"no file '{case.folder / 'none.pt'}'"),
        ([str(state), "--config", str(case.folder / "none.json")], None, "--config: no file "),
        ([str(state), "--config", str(config)], b"{", "--config: "),
        ([str(state), "--config", str(config)], b"[" * 100_000, "is no JSON"),
        ([str(config), "--config", str(case.folder / "good.json")], None, "running code of its own"),
    ):
        (case.folder / "good.json").write_text(json.dumps(CLUSTERS))
        if content is not None:
            config.write_bytes(content)
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            main([*words, "--output_dir", str(case.output)])
        assert not case.output.exists()


def test_a_folder_that_exists_is_left_alone(case: Case) -> None:
    case.output.mkdir()
    (case.output / "mine").write_text("x")
    assert "exists; name a new folder" in case.refused()
    assert [path.name for path in case.output.iterdir()] == ["mine"]


def test_the_computed_positions_may_be_missing(case: Case) -> None:
    del case.state[COMPUTED]
    case.convert()
    assert (case.output / "model.safetensors").is_file()


def test_the_width_of_the_embedding_may_be_left_to_the_model(tmp_path: Path) -> None:
    """-1, as on the research code's command line."""
    case = Case(tmp_path, CONFIG)
    case.config["d_embed"] = -1
    case.convert()
    assert AutoModelForCausalLM.from_pretrained(case.output).config.d_embed == 8
