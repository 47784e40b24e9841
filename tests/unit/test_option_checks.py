"""Options that a run could not honour are refused while the command line is read, before anything is prepared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from transformers.integrations import deepspeed as hf_deepspeed

from bert.dry_run import plan_of_run
from bert.options import Options, command_parser, parse_options
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan_options import PlanOptions
from nlp_adan.training import library_checks
from nlp_adan.training.engine import EngineOptions
from nlp_adan.training.pretraining import PretrainingOptions

OUTPUT = ["--output_dir", "runs/never"]
EVALUATES = ["--eval_strategy", "steps", "--eval_steps", "10"]


def parse(*words: str) -> Options:
    return parse_options([*words, *OUTPUT])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        # What the Trainer offers and a pretraining run leaves aside or breaks on.
        ("--prediction_loss_only True", r"--prediction_loss_only: True .* leave it out"),
        ("--label_names foo", r"--label_names: \['foo'\]"),
        ("--eval_do_concat_batches False", "--eval_do_concat_batches: False"),
        ("--batch_eval_metrics True", "--batch_eval_metrics: True"),
        ("--label_smoothing_factor 0.1", r"--label_smoothing_factor: 0\.1"),
        ("--remove_unused_columns True", "--remove_unused_columns: True"),
        ("--auto_find_batch_size True", r"--auto_find_batch_size: True .*`--per_device_train_batch_size`"),
        ("--train_sampling_strategy group_by_length", "--train_sampling_strategy: 'group_by_length'"),
        ("--dataloader_drop_last True", "--dataloader_drop_last: True"),
        ("--dataloader_in_order False", "--dataloader_in_order: False"),
        ("--use_liger_kernel True", "--use_liger_kernel: True"),
        ("--save_only_model True", "--save_only_model: True"),
        ("--resume_from_checkpoint runs/x", r"--resume_from_checkpoint: 'runs/x' .*`--resume`"),
        ("--restore_callback_states_from_checkpoint True", "--restore_callback_states_from_checkpoint: True"),
        ("--enable_jit_checkpoint True", "--enable_jit_checkpoint: True"),
        ("--do_predict True", "--do_predict: True"),
        ('--accelerator_config {"split_batches":true}', "--accelerator_config: split_batches .*`--global_batch_size`"),
        ('--accelerator_config {"dispatch_batches":true}', "--accelerator_config: dispatch_batches"),
        # Ranges.
        ("--seed -1", "--seed: -1 is out of range; give between 0 and 4294967295"),
        ("--seed 99999999999", "--seed: 99999999999 is out of range"),
        ("--data_seed -1", "--data_seed: -1 is out of range"),
        ("--num_train_epochs inf", "--num_train_epochs: inf is out of range; give between 0 and 1000000"),
        ("--num_train_epochs nan", "--num_train_epochs: nan is out of range"),
        ("--num_train_epochs 0", "--num_train_epochs: 0 would train nothing; give more than 0"),
        ("--learning_rate inf", "--learning_rate: inf is out of range; give a finite number"),
        ("--ddp_timeout 0", "--ddp_timeout: 0 is out of range"),
        ("--max_grad_norm nan", "--max_grad_norm: nan is out of range"),
        ("--dataloader_num_workers -1", "--dataloader_num_workers: -1 is out of range"),
        ("--dataloader_persistent_workers True", "--dataloader_persistent_workers: .*`--dataloader_num_workers 1`"),
        ("--dataloader_prefetch_factor 2", "--dataloader_prefetch_factor: .*`--dataloader_num_workers 1`"),
        ("--dataloader_num_workers 1 --dataloader_prefetch_factor 0", "--dataloader_prefetch_factor: 0 is out of"),
        # What is not installed, or not there.
        ("--report_to foo", "--report_to: .*'foo'; possible: .*mlflow"),
        ("--report_to wadb", r"--report_to: .*'wadb' \(did you mean 'wandb'\?\)"),
        ("--optim galore_adamw", "--optim galore_adamw: .*pip install"),
        ("--optim lion_8bit", "--optim lion_8bit: .*bitsandbytes"),
        ("--optim adamw --adam_beta1 2", "--optim adamw_torch: .*beta.*--adam_beta1"),
        ("--optim sgd --optim_args momentum", "--optim sgd: .*`--optim_args NAME=VALUE,NAME=VALUE`"),
        ("--fsdp full_shard", "--fsdp: .*accelerators.*leave it out"),
        ("--torch_compile_backend foo", r"--torch_compile_backend: unknown value 'foo'; possible: .*eager"),
        ("--torch_compile_mode foo", r"--torch_compile_backend/--torch_compile_mode: .*foo"),
        ("--fp16 True --bf16 True", "--fp16 True beside `--bf16 True`: choose one"),
        # Schedules.
        ("--lr_scheduler_type cosine_with_min_lr", "--lr_scheduler_type cosine_with_min_lr: .*`--lr_scheduler_kwargs"),
        ("--lr_scheduler_type warmup_stable_decay", "--lr_scheduler_type warmup_stable_decay: .*num_decay_steps"),
        ('--lr_scheduler_type linear --lr_scheduler_kwargs {"foo":1}', "--lr_scheduler_type linear: .*foo"),
        ("--lr_scheduler_type polynomial --learning_rate 0", "--lr_scheduler_type polynomial: .*lr_end"),
        ("--lr_scheduler_type reduce_lr_on_plateau --max_hours 1 " + " ".join(EVALUATES),
         "--lr_scheduler_type: .*reduce_lr_on_plateau does not go by the time"),
        ("--lr_scheduler_type cosine_with_min_lr --max_hours 1", "--lr_scheduler_type cosine_with_min_lr"),
        # The loader's processes.
        ("--dataloader_multiprocessing_context spawn", "there are none; add `--dataloader_num_workers 1`"),
        ("--dataloader_num_workers 1 --dataloader_multiprocessing_context spwan", r"did you mean 'spawn'\?"),
        # JSON, and the file that may take its place.
        ("--lr_scheduler_kwargs {bad", r"--lr_scheduler_kwargs: '\{bad' is not JSON .*'\{\"name\": value\}'"),
        ("--lr_scheduler_kwargs num_cycles=2", r"--lr_scheduler_kwargs: 'num_cycles=2' is not JSON"),
        ("--accelerator_config {bad", "--accelerator_config: '{bad' is not JSON"),
        ("--accelerator_config no/such.json", "--accelerator_config: the file 'no/such.json' does not exist"),
        ("--accelerator_config README.md", "--accelerator_config: README.md:1: not JSON"),
        ('--accelerator_config {"foo":1}', "--accelerator_config: .*foo.*; known are .*even_batches"),
        ("--fsdp_config no/such.json", "--fsdp_config: the file"),
        ("--deepspeed {bad", "--deepspeed: '{bad' is not JSON"),
        # Options that say the same thing.
        ("--max_hours 1 --max_steps 5", "--max_steps beside `--max_hours`.*choose one"),
        ("--max_steps=5 --max-hours=1", "choose one"),
        ("--num_train_epochs 2 --max_hours 1", "--num_train_epochs beside `--max_hours`.*choose one"),
        ("--num_train_epochs 2 --max_steps 5", "--num_train_epochs beside `--max_steps`.*choose one"),
        ("--gradient_accumulation_steps 2 --global_batch_size 8",
         "--gradient_accumulation_steps beside `--global_batch_size`"),
        # The best model by a figure that no evaluation gives.
        ("--metric_for_best_model foo", r"--metric_for_best_model: unknown value 'foo'; possible: .*mlm_loss"),
        ("--metric_for_best_model mlm_los", r"did you mean 'mlm_loss'\?"),
        # The data's options, which `--dry_run` reads too.
        ("--valid_fraction 5", "--valid_fraction: 5 is out of range"),
        ("--valid_fraction 0", "--valid_fraction: 0 is out of range"),
        ("--valid_fraction 5 --dry_run", "--valid_fraction: 5 is out of range"),
        ("--block_size 0", "--block_size: 0 is out of range; give 1 or more"),
        ("--logging_steps 0", "--logging_steps: 0 is out of range; give a number of steps, or a share"),
        ("--eval_steps=nan", "--eval_steps: nan is out of range"),
        ("--torch_empty_cache_steps 0", "--torch_empty_cache_steps: 0 is out of range"),
        # Messages of the libraries' own: our option's name, and no Python enumeration.
        ("--lr_scheduler_type greedy", "--lr_scheduler_type greedy requires an eval strategy"),
        ("--load_best_model_at_end True --eval_strategy epoch --save_strategy steps",
         "Evaluation strategy: epoch - Save strategy: steps"),
    ],
)  # fmt: skip
def test_a_pretraining_option_that_cannot_act_is_refused(words: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        parse(*words.split(" "))
    assert len(str(caught.value)) < 600 and str(caught.value).count("\n") <= 1


@pytest.mark.parametrize(
    "words",
    [
        '--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs {"min_lr_rate":0.1}',
        '--lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs {"num_decay_steps":10}',
        "--lr_scheduler_type reduce_lr_on_plateau " + " ".join(EVALUATES),
        "--lr_scheduler_type cosine --max_hours 1",
        "--lr_scheduler_type constant_with_warmup --max_hours 1",
        "--dataloader_num_workers 2 --dataloader_persistent_workers True --dataloader_prefetch_factor 4",
        "--dataloader_num_workers 1 --dataloader_multiprocessing_context spawn",
        "--metric_for_best_model eval_mlm_loss --load_best_model_at_end True --save_steps 10 " + " ".join(EVALUATES),
        "--metric_for_best_model top5_accuracy",
        "--num_train_epochs 2 --max_steps -1",
        "--report_to all",
        "--torch_compile_backend eager",
        '--accelerator_config {"even_batches":false}',
        "--seed 4294967295 --data_seed 0",
        "--optim sgd --optim_args momentum=0.9",
        "--optim adamw_torch_fused",
        "--max_grad_norm inf",
    ],
)
def test_what_can_act_is_taken(words: str) -> None:
    assert parse(*words.split(" ")).engine.output_dir == "runs/never"


def test_the_figures_a_best_model_may_go_by_are_those_of_an_evaluation() -> None:
    for name in ("loss", "eval_loss", "mlm_loss", "unigram_cross_entropy", "masked_tokens"):
        assert parse("--metric_for_best_model", name).engine.metric_for_best_model == name


def deepspeed_file(folder: Path, **changes: Any) -> str:
    path = folder / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, **changes}))
    return str(path)


@pytest.fixture(autouse=True)
def no_deepspeed_left() -> Iterator[None]:
    yield
    hf_deepspeed.unset_hf_deepspeed_config()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1.0}}}, '"optimizer" block.*`--optim`'),
        ({"scheduler": {"type": "WarmupLR"}}, '"scheduler" block.*`--lr_scheduler_type`'),
        ({"zero_optimization": {"stage": 3}}, r'`"stage3_gather_16bit_weights_on_model_save": true`'),
        ({"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}}, "stage3_gather"),
        ({"zero_optimization": {"stage": 7}}, r"zero_optimization\.stage: .*7"),
        ({"zero_optimization": {"stage": 2, "overlap_com": True}}, r"zero_optimization\.overlap_com"),
        ({"zero_optimization": [2]}, '"zero_optimization" takes'),
        ({"train_micro_batch_size_per_gpu": 7}, r"train_micro_batch_size_per_gpu.* 7 .* 32.*\"auto\""),
        ({"gradient_clipping": 3.0}, r"gradient_clipping.* 3\.0 .*--max_grad_norm.* 1\.0"),
        ({"fp16": {"enabled": True}}, r"fp16\.enabled"),
    ],
)
def test_a_deepspeed_file_that_contradicts_the_command_line_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = deepspeed_file(tmp_path, **changes)
    with pytest.raises(UserError, match=told) as caught:
        parse("--deepspeed", path)
    assert path in str(caught.value) and str(caught.value).count("\n") <= 1


def test_a_deepspeed_configuration_in_the_command_line(tmp_path: Path) -> None:
    """As JSON it is read as a file is, and its mistakes are told alike."""
    config = {"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": "auto"}
    assert parse("--deepspeed", json.dumps(config)).engine.deepspeed == config
    assert plan_of_run(parse("--deepspeed", json.dumps(config)), PlanOptions(dry_run=True)).workload.deepspeed == "JSON"
    with pytest.raises(UserError, match='"scheduler" block'):
        parse("--deepspeed", json.dumps({**config, "scheduler": {"type": "WarmupLR"}}))


@pytest.mark.parametrize(("offline", "token", "told"), [(True, "t", "offline"), (False, None, "hf auth login")])
def test_pushing_to_the_hub_without_one(
    offline: bool, token: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    with pytest.raises(UserError, match=rf"--push_to_hub: .*{told}"):
        parse("--push_to_hub", "True")


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Any, token: str | None = None) -> None:
        raise ConnectionError("no route")

    library_checks.hub_user.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", unreachable)
    with pytest.raises(UserError, match=r"--push_to_hub: .*no route"):
        parse("--push_to_hub", "True", "--hub_token", "t")


def test_a_reporter_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match=r"--report_to: 'wandb' .*pip install wandb"):
        parse("--report_to", "wandb")


def test_the_pretraining_checks_do_not_act_on_fine_tuning() -> None:
    for option in ("auto_find_batch_size", "dataloader_drop_last", "save_only_model"):
        options: dict[str, Any] = {option: True}
        assert getattr(EngineOptions(output_dir="runs/never", **options), option)
    assert EngineOptions(output_dir="runs/never", train_sampling_strategy="group_by_length").label_names is None
    with pytest.raises(UserError, match="--optim lion_8bit"):
        EngineOptions(output_dir="runs/never", optim="lion_8bit")


def test_every_refused_option_is_one_of_the_parser() -> None:
    known = {option for action in command_parser()._actions for option in action.option_strings}
    for name in {**EngineOptions.refused, **PretrainingOptions.refused}:
        assert f"--{name.partition('.')[0]}" in known


def test_a_recipe_may_hold_what_a_command_line_may_not(tmp_path: Path) -> None:
    """A run's resolved.yaml holds every option, those that follow from others too."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_hours: 1\nnum_train_epochs: 3\nglobal_batch_size: 8\ngradient_accumulation_steps: 2\n")
    options = parse("--recipe", str(recipe), "--optim", "adamw")
    assert options.budget.max_hours == 1 and options.engine.num_sequences_per_step == 8
