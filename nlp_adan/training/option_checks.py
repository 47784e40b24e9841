"""What of a run's options could not act, told while they are read: before data are prepared or a folder is claimed.

Every function raises UserError naming the option of the command line. What a library decides is asked of it
(`library_checks`, `deepspeed_checks`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.fsdp import StateDictType
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import ParallelMode

from nlp_adan.errors import UserError, nearest
from nlp_adan.training.deepspeed_checks import check_deepspeed_config, check_deepspeed_matches
from nlp_adan.training.library_checks import (
    check_compiler,
    check_hub,
    check_optimizer,
    check_reporters,
    check_schedule,
)
from nlp_adan.training.recipe import check_range

LARGEST_SEED = 2**32 - 1  # NumPy's
MOST_EPOCHS = 1_000_000  # more are a slip, and beyond what can be planned

# Options of the Trainer's that are refused where they differ from their default, and why; a dot leads into one.
REFUSED = {
    "eval_do_concat_batches": "would hand batches to the metrics one by one, which want all at once; leave it out",
    "label_smoothing_factor": "would change nothing, for the loss here is not the Trainer's; leave it out",
    "prediction_loss_only": "would leave an evaluation without its metrics; leave it out",
}
REFUSED_IN_PRETRAINING = {
    **REFUSED,
    "accelerator_config.dispatch_batches": "would not act: each rank reads its own samples; leave it out",
    "accelerator_config.split_batches": "would not act: `--global_batch_size` counts the sequences of all ranks",
    "auto_find_batch_size": "would change the batches of a run under way; find one with `--dry_run`, and give it as "
    "`--per_device_train_batch_size` with `--global_batch_size`",
    "batch_eval_metrics": "would hand batches to the metrics one by one, which want all at once; leave it out",
    "dataloader_drop_last": "would not act: epochs follow each other without a last batch; leave it out",
    "dataloader_in_order": "would make the order of the batches a matter of chance; leave it out",
    "do_predict": "would not act: what is measured at the end follows from the data; leave it out",
    "enable_jit_checkpoint": "would not act: a signal always ends a run with a checkpoint; leave it out",
    "label_names": "would leave the evaluation without its labels; leave it out",
    "remove_unused_columns": "would take from the batches what they are made of; leave it out",
    "restore_callback_states_from_checkpoint": "would not act: `--resume` restores what a run needs; leave it out",
    "resume_from_checkpoint": "would not act; say it with `--resume`",
    "save_on_each_node": "would have ranks write over each other: all of them share a run's folder; leave it out",
    "save_only_model": "would leave checkpoints that cannot be resumed; `--save_total_limit 1` spares disk",
    "train_sampling_strategy": "would not act: the order of the samples is the run's own; leave it out",
    "use_liger_kernel": "would not act: Liger has no kernels for these models; leave it out",
}
_NO_PREDICTIONS = "would not act: the evaluation of a stream sums losses and keeps no predictions; leave it out"
_ITS_PRECISION = (
    "would not act: a stream is evaluated in the precision of its training; `--bf16` and `--fp16` choose it"
)
REFUSED_ON_STREAMS = {
    **REFUSED_IN_PRETRAINING,
    **dict.fromkeys(
        (
            "batch_eval_metrics", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object",
            "include_for_metrics", "label_names", "prediction_loss_only",
        ),
        _NO_PREDICTIONS,
    ),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), _ITS_PRECISION),
    "dataloader_drop_last": "would not act: the last segment of a pass is read like any other; leave it out",
}  # fmt: skip


def check_given(options: Any) -> None:
    """Before the Trainer's own checks: ranges, JSON and files.

    `options`: an `EngineOptions`. Its `deepspeed` becomes a mapping where the command line gave JSON.
    """
    _check_ranges(options)
    _check_workers(options)
    if options.fp16 and options.bf16:
        raise UserError("--fp16 True beside `--bf16 True`: choose one")
    configs = {name: _read_json(name, getattr(options, name)) for name in TrainingArguments._VALID_DICT_FIELDS}
    if (accelerator := configs["accelerator_config"]) is not None:
        try:
            AcceleratorConfig(**accelerator)
        except TypeError as error:
            known = ", ".join(field.name for field in dataclasses.fields(AcceleratorConfig))
            raise UserError(f"--accelerator_config: {error}; known are {known}") from error
    if (deepspeed := configs["deepspeed"]) is not None:
        check_deepspeed_config(deepspeed, _origin(options.deepspeed))
        if "zero_optimization" not in deepspeed:  # which accelerate asks for, of no file and with no remedy
            raise UserError(
                f'--deepspeed: {_origin(options.deepspeed)}: it has no "zero_optimization"; give it one, such as '
                '`"zero_optimization": {"stage": 2}`, or start from one of ds_configs/'
            )
        if isinstance(options.deepspeed, str) and options.deepspeed.startswith("{"):
            options.deepspeed = deepspeed
    if options.torch_compile_backend is not None or options.torch_compile_mode is not None:
        check_compiler(options.torch_compile_backend, options.torch_compile_mode)


def check_made(options: Any) -> None:
    """After the Trainer's own checks, when values are enumerations and the ranks are known."""
    refuse_changed(options, options.refused)
    if options.deepspeed:
        check_deepspeed_matches(options.hf_deepspeed_config, _origin(options.deepspeed))
    _check_fsdp(options)
    check_optimizer(options)
    check_schedule(options)
    check_reporters(options.report_to)
    if options.push_to_hub:
        check_hub(options.hub_token)


def refuse_changed(options: Any, refused: Mapping[str, str]) -> None:
    """Raise a UserError where one of the options in `refused`, which says why, differs from its default."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(options)
    }
    for name, why in refused.items():
        option, _, detail = name.partition(".")
        value, default = getattr(options, option), defaults[option]
        if detail:
            value, default = getattr(value, detail), getattr(AcceleratorConfig(), detail)
        if value != default:
            shown = getattr(value, "value", value)  # of an enumeration
            raise UserError(f"--{option}: {f'{detail} ' if detail else ''}{shown!r} {why}")


def _check_fsdp(options: Any) -> None:
    """Where FSDP would not act, or act otherwise than it says; by option, or by `accelerate launch`."""
    if options.fsdp_config and not options.fsdp:
        raise UserError("--fsdp_config: it is about `--fsdp`, which is not given; add that, or leave it out")
    by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if not options.fsdp and not by_launcher:
        return
    asked = "--fsdp" if options.fsdp else "accelerate's configuration: FSDP"
    if options.deepspeed:
        raise UserError(f"{asked}: beside `--deepspeed`, which shards too; choose one of them")
    _check_state_dicts(options)
    if options.device.type == "cpu":  # accelerate leaves it out without a word
        raise UserError(
            f"{asked}: it shards over accelerators, and here each rank would train the whole model on a CPU; leave it "
            "out, or shard with `--deepspeed ds_configs/zero2.json`"
        )
    if options.parallel_mode != ParallelMode.DISTRIBUTED:
        raise UserError(
            f"{asked}: it shards a model over ranks, and this start has one process; "
            "start with `torchrun --nproc_per_node N`, or leave it out"
        )


def _check_state_dicts(options: Any) -> None:
    """FSDP's states whole: torch reads the list of sharded ones, a file `.metadata`, with a `pickle.load` that runs
    whatever is in it.
    """
    if options.fsdp:
        chosen, where = (options.fsdp_config or {}).get("state_dict_type", "FULL_STATE_DICT"), "--fsdp_config"
    else:
        chosen, where = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT"), "accelerate's configuration"
    if str(chosen).upper() not in ("FULL_STATE_DICT", str(StateDictType.FULL_STATE_DICT.value)):
        raise UserError(
            f"{where}: the state_dict_type {chosen!r} makes checkpoints whose loading can run code that somebody put "
            "into them; say FULL_STATE_DICT"
        )


def _origin(given: Any) -> str:
    """What a message calls a configuration: its file, or the JSON on the command line."""
    return given if isinstance(given, str) and not given.startswith("{") else "the JSON given"


def _check_ranges(options: Any) -> None:
    for option in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        check_range(option, getattr(options, option), 1)
    check_range("ddp_timeout", options.ddp_timeout, 1)
    for option in ("learning_rate", "weight_decay", "warmup_steps", "eval_delay"):
        check_range(option, getattr(options, option), 0)
    for option in ("logging_steps", "eval_steps", "save_steps"):
        steps = getattr(options, option)
        if steps is not None and not 0 < steps < math.inf:
            raise UserError(
                f"--{option}: {steps:g} is out of range; give a number of steps, or a share of all between 0 and 1"
            )
    for option in ("save_total_limit", "eval_accumulation_steps", "torch_empty_cache_steps"):
        if getattr(options, option) is not None:
            check_range(option, getattr(options, option), 1)
    if options.max_grad_norm != math.inf:  # which clips nothing
        check_range("max_grad_norm", options.max_grad_norm, 0)
    check_range("num_train_epochs", options.num_train_epochs, 0, MOST_EPOCHS)
    if options.num_train_epochs == 0:
        raise UserError("--num_train_epochs: 0 would train nothing; give more than 0")
    if options.max_steps != -1:  # the Trainer's word for "as many as the epochs have"
        check_range("max_steps", options.max_steps, 1)
    check_range("seed", options.seed, 0, LARGEST_SEED)
    if options.data_seed is not None:
        check_range("data_seed", options.data_seed, 0, LARGEST_SEED)


def _check_workers(options: Any) -> None:
    check_range("dataloader_num_workers", options.dataloader_num_workers, 0)
    if options.dataloader_prefetch_factor is not None:
        check_range("dataloader_prefetch_factor", options.dataloader_prefetch_factor, 1)
    start = options.dataloader_multiprocessing_context
    known = multiprocessing.get_all_start_methods()
    if start is not None and start not in known:
        raise UserError(
            f"--dataloader_multiprocessing_context: {start!r} is no way to start a process here"
            f"{nearest(str(start), known)}; choose one of {', '.join(known)}"
        )
    for option in (
        "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    ):  # fmt: skip
        if getattr(options, option) and not options.dataloader_num_workers:
            raise UserError(
                f"--{option}: it is about the processes that load data, and there are none; "
                "add `--dataloader_num_workers 1`, or leave it out"
            )


def _read_json(option: str, given: Any) -> dict[str, Any] | None:
    """The mapping of an option that takes JSON, or of the file that it names; None where it was not given."""
    if not isinstance(given, str):
        return given if isinstance(given, dict) else None
    if given.startswith("{") or option.endswith("_kwargs"):
        try:
            return dict(json.loads(given))
        except (ValueError, TypeError) as error:
            raise UserError(f"--{option}: {given!r} is not JSON ({error}); write '{{\"name\": value}}'") from error
    path = Path(given)
    if not path.is_file():
        siblings = sorted(str(other) for other in path.parent.glob("*.json"))
        raise UserError(f"--{option}: the file {given!r} does not exist{nearest(given, siblings)}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"--{option}: {path}:{line}: not JSON ({error}); give a file with one JSON object") from error
    if not isinstance(config, dict):
        raise UserError(f"--{option}: {path}: a configuration is a JSON object, found {type(config).__name__}")
    return config
