"""Recipes and command lines: who wins, what fails, and how a mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from bert import options as bert_options
from nlp_adan.errors import UserError, nearest
from nlp_adan.training.recipe import option_words, read_recipe, recipe_names, resolved, word_value
from nlp_adan.training.run_folder import MACHINES_OWN

OUTPUT = ["--output_dir", "runs/never"]


@pytest.mark.parametrize("name", recipe_names(bert_options.RECIPES))
def test_every_recipe_parses_and_its_resolved_options_parse_to_the_same(name: str, tmp_path: Path) -> None:
    options = resolved(*bert_options.parse_options(["--recipe", name, *OUTPUT]))
    assert options["output_dir"] == "runs/never"
    record = tmp_path / "resolved.yaml"
    record.write_text(yaml.safe_dump({key: value for key, value in options.items() if key not in MACHINES_OWN}))
    again = resolved(*bert_options.parse_options(["--recipe", str(record)]))
    assert {**again, "recipe": name} == options


def test_the_command_line_wins() -> None:
    options = bert_options.parse_options(["--recipe", "tiny", "--hidden_size", "32", "--max-steps=7", *OUTPUT])
    assert options.model.hidden_size == 32 and options.engine.max_steps == 7
    assert options.engine.learning_rate == 6e-3  # YAML reads 6e-3 as a string


def test_a_switch_needs_no_value() -> None:
    for words in (["--bf16"], ["--bf16", "True"], ["--bf16", "--max_steps", "3"]):
        assert bert_options.parse_options(["--recipe", "tiny", *words, *OUTPUT]).engine.bf16 is True


def test_epochs_on_the_command_line_put_the_recipes_steps_out_of_force() -> None:
    *_, engine = bert_options.parse_options(["--recipe", "tiny", "--num_train_epochs", "2", *OUTPUT])
    assert engine.max_steps == -1 and engine.num_train_epochs == 2


@pytest.mark.parametrize(
    ("theirs", "words", "hours", "steps"),
    [
        ("max_hours: 2\n", [], 2.0, -1),
        ("max_hours: 2\n", ["--max_steps", "5"], None, 5),
        ("max_hours: 2\n", ["--num_train_epochs", "5"], None, -1),
        ("max_steps: 5\n", ["--max_hours", "0.5"], 0.5, -1),
        ("max_steps: 5\n", ["--max_hours", "0.5", "--max_steps", "-1"], 0.5, -1),
    ],
)
def test_one_length_of_a_run_puts_the_others_out_of_force(
    tmp_path: Path, theirs: str, words: list[str], hours: float | None, steps: int
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(theirs)
    options = bert_options.parse_options(["--recipe", str(recipe), *words, *OUTPUT])
    assert (options.budget.max_hours, options.engine.max_steps) == (hours, steps)


def test_adamw_is_adamw_torch_and_does_not_take_adans_arguments() -> None:
    for words in (["--optim", "adamw"], ["--optim=adamw"]):
        *_, engine = bert_options.parse_options(["--recipe", "tiny", *words, *OUTPUT])
        assert engine.optim == "adamw_torch" and engine.optim_args is None


@pytest.mark.parametrize(
    ("words", "micro", "accumulation"),
    [
        ([], 32, 1),
        (["--global_batch_size", "256"], 32, 8),
        (["--per_device_train_batch_size", "8"], 8, 4),
        (["--global_batch_size", "60", "--per_device_train_batch_size", "16"], 15, 4),
        (["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"], 8, 2),
    ],
)
def test_the_global_batch_is_split(words: list[str], micro: int, accumulation: int) -> None:
    *_, engine = bert_options.parse_options(["--recipe", "tiny", *words, *OUTPUT])
    assert (engine.per_device_train_batch_size, engine.gradient_accumulation_steps) == (micro, accumulation)
    assert engine.num_sequences_per_step == micro * accumulation


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "tinny"], r"unknown recipe 'tinny' \(did you mean 'tiny'\?\)"),
        (["--recipe", "no/such.yaml"], "does not exist"),
        (["--hiden_size", "8"], r"unknown option '--hiden_size' \(did you mean '--hidden_size'\?\)"),
        (["--max_step", "8"], r"unknown option '--max_step' .*--max_steps"),  # no abbreviations
        (["stray"], "unknown argument 'stray'"),
        (["--optim", "adamx"], r"--optim: .*'adamx' \(did you mean"),
        (["--max_steps", "many"], r"--max_steps.*'many'"),
        (["--optim_args", "beta4=0.9"], r"'beta4=0.9' is not an option of adan \(did you mean 'beta\d'\?\)"),
        (["--optim_args", "betas=(0.9,0.9,0.9)"], "write name=value"),
        (["--optim_args", "beta1=much"], "beta1 must be a number, got 'much'"),
        (["--optim_args", "no_prox=perhaps"], "no_prox must be true or false"),
        (["--deepspeed", "ds_configs/zero9.json"], r"zero9.json' does not exist \(did you mean"),
        (["--global_batch_size", "0"], "--global_batch_size: 0"),
        (["--mask_probability", "1.5"], "--mask_probability: 1.5"),
        (["--lr_scheduler_type", "liner"], r"'liner'.*linear"),
        (["--eval_strategy", "step"], "'step'"),
        (["--optim_args", "beta1=2"], r"beta1 must be in \[0, 1\), got 2.0"),
        (["--learning_rate", "-1"], "--learning_rate: -1 is out of range; give 0 or more"),
        (["--max_steps", "0"], "--max_steps: 0 is out of range; give 1 or more"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size: 0"),
        (["--max_valid_blocks", "0"], "--max_valid_blocks: 0"),
        (["--deepspeed", "README.md"], r"README.md:1: not JSON"),
        (
            ["--deepspeed", "ds_configs/initialize_zero2.json"],
            r"\"optimizer\" block, which is for deepspeed.initialize",
        ),
    ],
)
def test_a_mistake_names_the_value_and_the_remedy(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        bert_options.parse_options([*words, *OUTPUT])
    assert len(str(caught.value)) < 600 and str(caught.value).count("\n") <= 1


def test_no_output_dir() -> None:
    with pytest.raises(UserError, match="--output_dir: name the folder"):
        bert_options.parse_options(["--recipe", "tiny"])


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [1", r"bad.yaml:1: not a YAML file"), ("- a", "found list"), ("hiden_size: 1", "unknown key 'hiden_size'")],
)
def test_a_bad_recipe_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        bert_options.parse_options(["--recipe", str(path), *OUTPUT])


def test_no_access_token_is_recorded() -> None:
    assert resolved(*bert_options.parse_options(["--hub_token", "secret", *OUTPUT]))["hub_token"] is None


def test_every_ds_config_is_for_the_trainer_and_runs_adan() -> None:
    for path in sorted((bert_options.RECIPES.parents[1] / "ds_configs").glob("zero*.json")):
        *_, engine = bert_options.parse_options(["--deepspeed", str(path), *OUTPUT])
        config = json.loads(path.read_text())
        assert engine.deepspeed == str(path) and "optimizer" not in config
        # Without "fp16" transformers 4.57 takes the run for one in fp16 and casts floating-point inputs to it.
        assert config["bf16"] == config["fp16"] == {"enabled": "auto"}
        if "offload_optimizer" in config["zero_optimization"]:
            assert config["zero_force_ds_cpu_optimizer"] is False  # or DeepSpeed's Adam takes the optimizer's place
        if config["zero_optimization"]["stage"] == 3:
            assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]


def test_words() -> None:
    assert option_words({"a": None, "b": [], "c": [1, 2], "d": {"x": 1}, "e": True}) == [
        ["--c", "1", "2"], ["--d", '{"x": 1}'], ["--e", "True"]
    ]  # fmt: skip
    assert word_value("--optim", ["--optim", "sgd", "--optim=adan"]) == "adan"
    assert word_value("--max_steps", ["--max-steps", "3"]) == "3"
    assert word_value("--optim", ["--optim"]) is None
    assert nearest("RET", ["RTE", "CoLA"]) == " (did you mean 'RTE'?)" and nearest("xyz", ["CoLA"]) == ""


def test_a_recipe_is_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    with pytest.raises(UserError, match="found nothing"):
        read_recipe(path)
