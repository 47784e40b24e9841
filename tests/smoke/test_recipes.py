"""Every recipe: it parses, the arithmetic in its comments is that of its values, and two steps of it train."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from bert import pretrain
from bert.costs import masked_lm_costs
from bert.model_options import model_config
from bert.options import RECIPES, parse_options
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import Devices, Plan, Workload, make_plan
from nlp_adan.training.hardware import peak_flops
from nlp_adan.training.recipe import recipe_names

NAMES = recipe_names(RECIPES)
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "bert.md"
# The lines of arithmetic, whatever their numbers: a quoted number is compared with what the others give.
STEPS = r"([\d,]+) steps x ([\d,]+) sequences x ([\d,]+) tokens = (\S+) tokens"
TOTAL = r"(\S+) FLOPs a sequence x ([\d,]+) sequences = (\S+) FLOPs"
HOURS = r"(\S+) FLOPs / \((\d+) x (.+?) at (\S+) FLOP/s x (\d+) % MFU\) = (\S+) hours"
BUDGET = r"(\d+) hours x (\d+) x (.+?) at (\S+) FLOP/s x (\d+) % MFU = (\S+) FLOPs"
BOUGHT = r"(\S+) FLOPs / (\S+) a sequence / ([\d,]+) a step = ([\d,]+) steps = (\S+) tokens"
LAYERS = r"(\d+) x \(?4 x (\d+)\^2 \+ (?:\d+ x )?([23]) x (\d+) x (\d+)\)? = (\S+) M"
EMBEDDING = r"([\d,]+) x (\d+) = (\S+) M in the embedding"
ROW = r"\| `([\w-]+)` \| \w+, (\S+) M \| (\S+) x (\d+)(?: tokens)? \| (.+?) \| (.+?) \|"
NATS = r"(\S+) bits = (\S+) nats"
# The devices that the recipes name, as torch names them.
DEVICES = {
    "A100 SXM": "NVIDIA A100-SXM4-80GB",
    "H100 SXM": "NVIDIA H100 80GB HBM3",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
}


class SpecialTokens:
    """What a model's configuration takes from a tokenizer, without one."""

    pad_token_id, bos_token_id, eos_token_id, cls_token_id, sep_token_id = 1, 0, 2, 0, 2

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Its last token stands for all."""
        return {"last": self.vocab_size - 1}


def recipe_text(name: str) -> str:
    """A recipe with its comment lines joined: a line of arithmetic may be broken."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    return re.sub(r"\s*\n#\s+", " ", text)


def number(quoted: str) -> float:
    return float(quoted.replace(",", ""))


def assert_rounds(quoted: str, value: float) -> None:
    """The quoted number is the value, to the last digit that it shows (trailing zeros of a whole number show none)."""
    mantissa, _, exponent = quoted.replace(",", "").partition("e")
    decimals = len(mantissa.partition(".")[2])
    zeros = 0 if decimals else len(mantissa) - len(mantissa.rstrip("0"))
    unit = 10.0 ** (int(exponent or 0) - decimals + zeros)
    assert abs(number(quoted) - value) <= unit, f"quoted {quoted}, computed {value:g}"


def plan_of_a_sequence(name: str) -> Plan:
    """What `--dry_run` prints, for a step of one sequence."""
    options = parse_options(["--recipe", name, "--output_dir", "runs/never"])
    data, tokenizer = options.data, cast(Any, SpecialTokens(options.data.vocab_size))
    config = model_config(options.model, tokenizer, data.block_size)
    costs = masked_lm_costs(config, data.block_size, data.mask_probability)
    return make_plan(costs, Workload(data.block_size, micro_batch_size=1, max_steps=1), Devices(world_size=1))


@pytest.mark.parametrize("name", NAMES)
def test_the_quoted_arithmetic_is_the_recipes(name: str) -> None:
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    batch, block = values["global_batch_size"], values["block_size"]
    text = recipe_text(name)
    for steps, sequences, tokens, total in re.findall(STEPS, text):
        assert [number(steps), number(sequences), number(tokens)] == [values["max_steps"], batch, block]
        assert_rounds(total, values["max_steps"] * batch * block)
    for flops, sequences, total in re.findall(TOTAL, text):
        assert number(sequences) == values["max_steps"] * batch
        assert_rounds(flops, plan_of_a_sequence(name).flops_per_step)
        assert_rounds(total, number(flops) * number(sequences))
    for flops, gpus, device, peak, mfu, hours in re.findall(HOURS, text):
        assert_rounds(peak, peak_flops(DEVICES[device]) or 0.0)
        assert_rounds(hours, number(flops) / (int(gpus) * number(peak) * int(mfu) / 100) / 3600)
    for hours, gpus, device, peak, mfu, flops in re.findall(BUDGET, text):
        assert int(hours) == values["max_hours"]
        assert_rounds(peak, peak_flops(DEVICES[device]) or 0.0)
        assert_rounds(flops, int(hours) * 3600 * int(gpus) * number(peak) * int(mfu) / 100)
    for flops, each, sequences, steps, tokens in re.findall(BOUGHT, text):
        assert number(sequences) == batch
        assert_rounds(each, plan_of_a_sequence(name).flops_per_step)
        assert_rounds(steps, number(flops) / number(each) / batch)
        assert_rounds(tokens, number(flops) / number(each) * block)
    for bits, nats in re.findall(NATS, text):
        assert_rounds(nats, number(bits) * 0.693147)


@pytest.mark.parametrize("name", NAMES)
def test_it_quotes_tokens_operations_and_parameters(name: str) -> None:
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    text = recipe_text(name)
    if "max_hours" in values:
        assert len(re.findall(BUDGET, text)) == len(re.findall(BOUGHT, text)) >= 1
    else:
        assert len(re.findall(STEPS, text)) == 1
    if name not in ("tiny", "base-adam"):  # one runs on CPUs, the other's model is base's
        hidden, intermediate = values["hidden_size"], values["intermediate_size"]
        matrices = 3 if values["model_type"] == "modernbert" else 2
        sizes = [values["num_hidden_layers"], hidden, matrices, hidden, intermediate]
        (*found, millions) = re.findall(LAYERS, text)[0]
        assert [int(size) for size in found] == sizes
        assert_rounds(millions, sizes[0] * (4 * hidden**2 + matrices * hidden * intermediate) / 1e6)
        ((vocabulary, width, millions),) = re.findall(EMBEDDING, text)
        assert [number(vocabulary), int(width)] == [values["vocab_size"], hidden]
        assert_rounds(millions, values["vocab_size"] * hidden / 1e6)
    if name != "tiny":
        assert "calculated and not measured" in text
        assert "max_hours" in values or re.search(HOURS, text)


def test_the_guides_table_is_the_recipes() -> None:
    rows = re.findall(ROW, GUIDE.read_text(encoding="utf-8"))
    assert sorted(name for name, *_ in rows) == NAMES
    for name, millions, batch, block, length, tokens in rows:
        values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        assert_rounds(millions, plan_of_a_sequence(name).num_parameters / 1e6)
        assert [number(batch), number(block)] == [values["global_batch_size"], values["block_size"]]
        if "max_hours" in values:
            assert length == f"{values['max_hours']} hours"
            assert f"= {tokens.removesuffix(' on 8 A100')} tokens" in recipe_text(name)
        else:
            assert length == f"{values['max_steps']:,} steps"
            assert_rounds(tokens, values["max_steps"] * values["global_batch_size"] * values["block_size"])


def test_the_baseline_differs_from_the_papers_recipe_in_the_optimizer_only() -> None:
    adan, adam = (yaml.safe_load((RECIPES / f"{name}.yaml").read_text()) for name in ("base", "base-adam"))
    optimizers = {"optim", "optim_args", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay",
                  "max_grad_norm"}  # fmt: skip
    assert {name for name in {*adan, *adam} if adan.get(name) != adam.get(name)} == optimizers


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_key_fails(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text((RECIPES / f"{name}.yaml").read_text() + "hiden_size: 8\n")
    with pytest.raises(UserError, match=r"mine\.yaml:\d+: unknown key 'hiden_size' \(did you mean 'hidden_size'\?\)"):
        parse_options(["--recipe", str(recipe), "--output_dir", "runs/never"])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of little documents."""
    folder = tmp_path_factory.mktemp("text")
    for name in sorted(pydoc_data.topics.topics)[:24]:
        (folder / f"{name}.txt").write_text(pydoc_data.topics.topics[name][:3000], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_it(name: str, text: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of the recipe but the sizes, and the hours."""
    monkeypatch.setenv("NLP_ADAN_CACHE", str(cache))
    run = tmp_path / "run"
    pretrain.main([
        "--recipe", name, "--data", str(text), "--vocab_size", "500", "--block_size", "32", "--hidden_size", "32",
        "--num_hidden_layers", "2", "--num_attention_heads", "2", "--intermediate_size", "32", "--max_valid_blocks",
        "16", "--valid_fraction", "0.2", "--global_batch_size", "8", "--per_device_train_batch_size", "4",
        "--max_steps", "2", "--logging_steps", "1", "--output_dir", str(run),
    ])  # fmt: skip
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    acted = yaml.safe_load((run / "resolved.yaml").read_text())
    assert acted["recipe"] == name and acted["gradient_accumulation_steps"] == 2
    for option in ("mask_probability", "model_type", "tokenizer_kind", "lr_scheduler_type", "optim_args"):
        assert acted[option] == recipe.get(option), option
    for option in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps"):
        assert acted[option] == float(recipe[option]), option
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2] and all(5 < line["loss"] < 8 for line in log)
    assert json.loads((run / "metrics.json").read_text())["step"] == 2
    assert json.loads((run / "config.json").read_text())["model_type"] == recipe["model_type"]
