"""Recipes, one's own file over them, the command line over both: who wins, what acts where, how a mistake is told."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from glue_eval.options import (
    RECIPES,
    GlueOptions,
    TaskSettings,
    check_options,
    command_parser,
    recipe_path,
    task_settings,
)
from glue_eval.tasks import TASKS, parse_task_names
from nlp_adan.errors import UserError
from nlp_adan.integrations.huggingface import adan_options
from nlp_adan.training.positions import steps_of_epochs
from nlp_adan.training.recipe import find_recipe, recipe_names
from tests.tiny_glue import tiny_bert

# The source's runs: learning rate, betas of the code, weight decay, batch, warm-up, updates, clipping, schedule.
PAPER: dict[str, tuple[float, tuple[float, float, float], float, int, int, int, float, str]] = {
    "CoLA": (4e-5, (0.98, 0.99, 0.99), 0.01, 16, 320, 5336, 0, "linear"),
    "SST-2": (4e-5, (0.98, 0.92, 0.99), 0.01, 32, 1256, 20935, 0, "linear"),
    "STS-B": (4e-5, (0.98, 0.99, 0.99), 0.01, 16, 214, 3598, 0.5, "cosine"),
    "QQP": (4e-5, (0.98, 0.99, 0.99), 0.001, 16, 28318, 113272, 0, "linear"),
    "MNLI": (2e-5, (0.98, 0.92, 0.999), 0.01, 16, 7432, 123873, 1.0, "linear"),
    "QNLI": (2e-5, (0.98, 0.99, 0.99), 0.001, 16, 1986, 33112, 0, "cosine"),
    "RTE": (2e-5, (0.98, 0.99, 0.99), 0.01, 16, 122, 2036, 0, "linear"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model"))


def settings_of(model: Path, *words: str, tasks: str = "CoLA,RTE") -> dict[str, TaskSettings]:
    """By task, of a command line; nothing is written into the folder that it names."""
    given = ["--model", str(model), "--output_dir", "runs/never", "--tasks", tasks, *words]
    found = task_settings(command_parser(), given, parse_task_names(tasks))
    assert not Path("runs/never").exists()
    return {each.task.name: each for each in found}


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


# ---- recipes ----


@pytest.mark.parametrize("name", recipe_names(RECIPES))
def test_every_recipe_parses_for_every_task(name: str, model: Path) -> None:
    found = settings_of(model, "--recipe", name, tasks="all")
    assert list(found) == [task.name for task in TASKS.values() if task.is_trainable]
    for each in found.values():
        assert each.engine.optim == ("adan" if "adan" in name else "adamw_torch")
        assert each.glue.dropout == (None if name.startswith("small") else 0.1)
        assert each.engine.learning_rate > 0 and 0 < each.engine.warmup_steps < 1


@pytest.mark.parametrize("name", PAPER)
def test_adans_recipe_is_the_papers(name: str, model: Path) -> None:
    rate, betas, decay, batch, warm_up, updates, clip, schedule = PAPER[name]
    (found,) = settings_of(model, "--recipe", "adan", tasks=name).values()
    engine = found.engine
    assert (engine.learning_rate, engine.weight_decay, engine.max_grad_norm) == (rate, decay, clip)
    assert adan_options(engine.optim_args)["betas"] == betas and engine.adam_epsilon == 1e-8
    assert engine.num_sequences_per_step == batch and engine.lr_scheduler_type == schedule
    assert engine.warmup_steps == pytest.approx(warm_up / updates, rel=0.01)
    steps = steps_of_epochs(TASKS[name].split("train").num_examples, engine.num_train_epochs, batch)
    if name == "RTE":  # its source stops before its updates are done
        assert steps == pytest.approx(1560, rel=0.01) and steps < updates
    else:
        assert steps == pytest.approx(updates, rel=0.012)
    assert f"{steps:,}" in (RECIPES / "adan.yaml").read_text()


def test_the_recipe_goes_by_the_optimizer_and_the_width(model: Path, tmp_path: Path) -> None:
    def chosen(folder: Path, *words: str, config: str | None = None) -> str:
        return recipe_path(["--model", str(folder), *words], config).stem

    wide = tiny_bert(tmp_path / "wide", hidden_size=264)
    assert (chosen(model), chosen(wide)) == ("small-adan", "adan")
    assert (chosen(model, "--optim", "adamw"), chosen(wide, "--optim=lion_32bit")) == ("small-adamw", "adamw")
    assert chosen(wide, config=write(tmp_path, "default: {optim: adamw}")) == "adamw"
    assert chosen(wide, "--recipe", "small-adan", "--optim", "adamw") == "small-adan"
    assert find_recipe("adan", RECIPES).is_file()


def test_later_layers_win(model: Path, tmp_path: Path) -> None:
    recipe = "default: {weight_decay: 0.1, learning_rate: 1e-3, dropout: 0.3}\ntasks: {RTE: {weight_decay: 0.2}}\n"
    config = "default: {learning_rate: 2e-3, max_length: 20}\ntasks: {CoLA: {max_length: 10, warmup_steps: 7}}\n"
    words = ["--recipe", write(tmp_path, recipe, "recipe.yaml"), "--config", write(tmp_path, config)]
    found = settings_of(model, *words, "--warmup_steps", "9")
    assert [each.engine.weight_decay for each in found.values()] == [0.1, 0.2]
    assert [each.engine.learning_rate for each in found.values()] == [2e-3, 2e-3]
    assert [each.engine.warmup_steps for each in found.values()] == [9, 9]
    assert [each.glue.max_length for each in found.values()] == [10, 20]
    assert [each.glue.dropout for each in found.values()] == [0.3, 0.3]
    assert [each.glue.dropout for each in settings_of(model, *words, "--dropout", "0").values()] == [0, 0]


def test_null_takes_a_recipes_value_away(model: Path, tmp_path: Path) -> None:
    recipe = "default: {dropout: 0.3, weight_decay: 0.1}\ntasks: {RTE: {dropout: 0.4}}\n"
    words = ["--recipe", write(tmp_path, recipe, "recipe.yaml"), "--config"]

    def dropouts(config: str, *more: str) -> list[float | None]:
        found = settings_of(model, *words, write(tmp_path, config), *more).values()
        assert [each.engine.weight_decay for each in found] == [0.1, 0.1]
        return [each.glue.dropout for each in found]

    assert dropouts("default: {dropout: null}") == [None, None]
    assert dropouts("tasks: {RTE: {dropout: null}}") == [0.3, None]
    assert dropouts("default: {dropout: 0.2}\ntasks: {RTE: {dropout: null}}") == [0.2, None]
    assert dropouts("default: {dropout: null}", "--dropout", "0") == [0, 0]


def test_the_settings_of_the_guide(model: Path, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "glue_report.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    found = settings_of(model, "--recipe", "adan", "--config", write(tmp_path, config), tasks="QQP,RTE")
    assert [each.engine.learning_rate for each in found.values()] == [4e-5, 1e-4]
    assert [each.engine.num_train_epochs for each in found.values()] == [3, 3]  # the recipe has 5 for QQP
    assert [each.glue.dropout for each in found.values()] == [None, None]
    assert not any(each.glue.group_by_length for each in found.values())


def test_another_optimizer_has_no_use_for_the_recipes_betas(model: Path, tmp_path: Path) -> None:
    config = write(tmp_path, "default: {optim: adamw}\ntasks: {RTE: {optim: adan, optim_args: beta1=0.5}}")
    found = settings_of(model, "--recipe", "adan", "--config", config)
    assert [each.engine.optim_args for each in found.values()] == [None, "beta1=0.5"]
    found = settings_of(model, "--recipe", "adan", "--config", config, "--optim", "adan")
    assert [each.engine.optim_args for each in found.values()][1] == "beta1=0.5"


def test_ones_own_steps_put_ones_own_hours_out_of_force_but_no_mistake(model: Path, tmp_path: Path) -> None:
    config = write(tmp_path, "default: {num_train_epochs: 3}")
    (found,) = settings_of(model, "--config", config, "--max_steps", "5", tasks="CoLA").values()
    assert found.engine.max_steps == 5
    with pytest.raises(UserError, match="--gradient_accumulation_steps beside"):
        settings_of(model, "--gradient_accumulation_steps", "2", "--global_batch_size", "8")


def test_what_a_rank_takes_at_a_time_leaves_the_batch(model: Path, tmp_path: Path) -> None:
    def batch(*words: str) -> tuple[int, int]:
        (found,) = settings_of(model, "--recipe", "adan", *words, tasks="CoLA").values()
        return found.engine.num_sequences_per_step, found.engine.per_device_train_batch_size

    assert batch() == (16, 16) and batch("--per_device_train_batch_size", "5") == (16, 4)
    assert batch("--global_batch_size", "48") == (48, 24)
    assert batch("--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "3") == (6, 3)
    with pytest.raises(UserError, match="64: a step has 16 examples"):
        batch("--config", write(tmp_path, "tasks: {CoLA: {per_device_train_batch_size: 64}}"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("default: [1]", "'default' takes `option: value` pairs, found list"),
        ("tasks: [CoLA]", "'tasks' takes"),
        ("tasks: {COLA: {seed: 1}}", r"unknown task 'COLA' \(did you mean 'CoLA'\?\)"),
        ("tasks: {CoLA: 3}", "'CoLA' takes"),
        ("defaults: {}", "unknown key 'defaults'"),
        ("default: {lerning_rate: 1}", r"unknown key 'lerning_rate' \(did you mean 'learning_rate'\?\)"),
        ("tasks: {MNLI: {lerning_rate: 1}}", "unknown key 'lerning_rate'"),  # a task that is not asked for
        ("default: {seeds: 3}", "'seeds' is no hyperparameter; say it on the command line, with `--seeds`"),
        ("default: {output_dir: x}", "'output_dir' is no hyperparameter"),
        ("tasks: {CoLA: {checkpoint: best}}", "'checkpoint' is the same for all tasks; say it under `default`"),
        ("default: {learning_rate: [1, 2]}", "'learning_rate' takes one value, found a list; write `learning_rate: "),
        ("default: {learning_rate: fast}", "default: --learning_rate: invalid float value: 'fast'; see"),
        ("tasks: {RTE: {learning_rate: -0.1}}", "RTE: --learning_rate: -0.1 is out of range"),
        ("tasks: {RTE: {max_length: 2}}", "RTE: --max_length: 2 is out of range"),
        ("default: {lr_scheduler_kwargs: {a: 2024-01-01}}", "'lr_scheduler_kwargs' cannot be written as JSON .*date"),
        ("default: &it {lr_scheduler_kwargs: *it}", "'lr_scheduler_kwargs' cannot be written as JSON .*Circular"),
        ("default: {optim_args: beta9=1}\ntasks: {RTE: {optim_args: beta8=1}}", "default: .*beta9"),
    ],
)
@pytest.mark.parametrize("option", ["--recipe", "--config"])
def test_a_bad_file_is_named(option: str, text: str, told: str, model: Path, tmp_path: Path) -> None:
    path = write(tmp_path, f"# mine\n{text}", "bad.yaml")
    with pytest.raises(UserError, match=f"^{path}:2: {told}"):
        settings_of(model, option, path)


def test_a_mistake_is_told_with_the_file_that_it_is_in(model: Path, tmp_path: Path) -> None:
    recipe = write(tmp_path, "default:\n  learning_rate: 1e-3\n  weight_decay: -1\n", "recipe.yaml")
    config = write(tmp_path, "tasks:\n  RTE:\n    learning_rate: -1\n")
    words = ["--recipe", recipe, "--config", config]
    with pytest.raises(UserError, match=f"^{recipe}:3: default: --weight_decay: -1 is out of range"):
        settings_of(model, *words)
    with pytest.raises(UserError, match=f"^{config}:3: RTE: --learning_rate: -1 is out of range"):
        settings_of(model, *words, "--weight_decay", "0")
    with pytest.raises(UserError, match=r"^--learning_rate: -2 is out of range"):
        settings_of(model, *words, "--weight_decay", "0", "--learning_rate", "-2")
    twice = "tasks:\n  RTE: {}\n  RTE: {}\n"
    for text, told in ((twice, "yaml:3: 'RTE' stands in line 2 already; leave"), ("", r"yaml: a recipe is .* nothing")):
        with pytest.raises(UserError, match=told):
            settings_of(model, "--config", write(tmp_path, text))


def test_a_recipe_may_name_ones_own_task(model: Path, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path, "text\tlabel\na b\tyes\nc d\tno\n", f"{split}.tsv")
    own = write(
        tmp_path, "name: mine\ntrain: train.tsv\ndev: dev.tsv\ntext: text\nlabel: label\nlabels: [yes, no]", "own.yaml"
    )
    config = write(tmp_path, "tasks: {mine: {learning_rate: 0.5}}")
    found = settings_of(model, "--config", config, tasks=f"CoLA,{own}")
    assert found["mine"].engine.learning_rate == 0.5 != found["CoLA"].engine.learning_rate


# ---- the command line ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "0"], "--seeds: 0 is out of range"),
        (["--seeds", "1001"], "--seeds: 1001 is out of range; give between 1 and 1000"),
        (["--jobs", "0"], "--jobs: 0 is out of range"),
        (["--max_length", "3"], "--max_length: 3 is out of range"),
        (["--max_train_examples", "0"], "--max_train_examples: 0 is out of range"),
        (["--seed", "4"], "--seed: runs have the seeds 1, 2, .*`--seeds`"),
        (["--resume", "checkpoint-3"], "--resume: 'checkpoint-3': finished runs are kept anyway"),
    ],
)
def test_options_that_no_run_could_do_with(words: list[str], told: str) -> None:
    given = ["--model", "m", "--output_dir", "runs/never", *words]
    glue, engine = command_parser().parse(given)
    with pytest.raises(UserError, match=told):
        check_options(glue, engine, given)


def test_a_launchers_ranks_do_one_run_at_a_time() -> None:
    words = ["--model", "m", "--output_dir", "runs/never", "--resume", "auto"]
    glue, engine = command_parser().parse(words)
    check_options(glue, engine, words)

    class Ranks:
        resume, world_size = "no", 4

    with pytest.raises(UserError, match="--jobs 2: here 4 ranks do each run together"):
        check_options(dataclasses.replace(glue, jobs=2), Ranks(), words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--checkpoint", "bets"], r"--checkpoint: unknown value 'bets' \(did you mean 'best'\?\)"),
        (["--dropout", "1.5"], "--dropout: 1.5 is out of range"),
        (["--config", "no.yaml"], "--config: the file 'no.yaml' does not exist"),
        (["--config", "docs"], "--config: 'docs' is a folder; name a .yaml file"),
        (["--recipe", "docs/"], "--recipe: 'docs/' is a folder; name a .yaml file"),
        (["--recipe", "adam"], r"--recipe: unknown recipe 'adam' \(did you mean 'ada(mw|n)'\?\); known are"),
        (["--mnli_model", "m", "--tasks", "CoLA"], "--mnli_model: only RTE, MRPC, STS-B begin with it"),
        (
            ["--per_device_train_batch_size", "64"],
            "64: a step has 32 examples over all ranks.*`--global_batch_size 64`",
        ),
        (["--save_strategy", "epoch"], "--save_strategy: .*would not act: a run begins anew"),
    ],
)
def test_options_that_could_not_act(words: list[str], told: str, model: Path) -> None:
    with pytest.raises(UserError, match=told):
        settings_of(model, *words, tasks=words[words.index("--tasks") + 1] if "--tasks" in words else "CoLA,RTE")


def test_a_runs_words_are_the_engines(model: Path) -> None:
    """What is ours, or the call's, is taken out with its values; the rest is as it was given."""
    values: dict[str, Any] = {"seeds": 2, "jobs": 2, "max_length": 9, "dropout": 0.1, "checkpoint": "best"}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    words += ["--group_by_length", "--predict_test", "False", "--dry_run", "--save-models", "--resume=auto"]
    words += ["--disable_tqdm", "True", "--learning-rate=0.5", "--bf16", "False"]
    (found,) = settings_of(model, "--recipe", "small-adan", *words, tasks="CoLA").values()
    assert found.words[-3:] == ("--learning-rate=0.5", "--bf16", "False")
    ours = {entry.name for entry in dataclasses.fields(GlueOptions)} | {"output_dir", "resume", "disable_tqdm"}
    given = {word.partition("=")[0][2:].replace("-", "_") for word in found.words if word.startswith("--")}
    assert not given & ours and {"optim", "optim_args", "num_train_epochs"} <= given
    assert found.glue.group_by_length and found.engine.learning_rate == 0.5
