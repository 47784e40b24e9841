"""What a DeepSpeed configuration says: whether it is one, and leaves to the command line what that says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nlp_adan.errors import UserError

# What DeepSpeed would make in place of the run's own, and the options that say how ours are made.
_BLOCKS = {
    "optimizer": "`--optim`, `--learning_rate` and `--optim_args`",
    "scheduler": "`--lr_scheduler_type` and `--warmup_steps`",
}
_GATHER = "stage3_gather_16bit_weights_on_model_save"
_OWN = "would not act: a run writes and loads checkpoints of its own; take it out"
_ANY_RANKS = "take it out: `--resume` goes on from a run's checkpoint on any number of ranks, with all of them"
_NVME = 'would keep states in files that no checkpoint has; say `"device": "cpu"`'
_ELSEWHERE = "would keep the optimizer's state where no checkpoint reaches it; leave it out"
Refusal = tuple[Callable[[Any], bool], str]


def _on(why: str) -> Refusal:
    return lambda value: value not in (False,), why


def _other_than(*harmless: Any) -> Refusal:
    return lambda value: value not in harmless, _ELSEWHERE


# Settings that are refused: for which values, and why.
_REFUSED: dict[str, Refusal] = {
    "checkpoint.load_universal": _on(
        f"loads universal checkpoints, which lack two of Adan's four states; {_ANY_RANKS}"
    ),
    "checkpoint.parallel_write": _on(_OWN),
    "checkpoint.use_node_local_storage": _on(
        "is for checkpoints that are apart on the nodes; those of a run are in one folder, which all ranks share: take "
        "it out"
    ),
    "checkpoint.writer": _on(_OWN),
    "datastates_ckpt": _on(_OWN),
    "elasticity.enabled": _on(
        "would choose other batches than the command line does; take it out, and give `--global_batch_size`, which "
        "holds on any number of ranks"
    ),
    "expert_parallel.enabled": _on(_ELSEWHERE),
    "tensor_parallel.autotp_size": _other_than(0, 1),
    "zero_optimization.elastic_checkpoint": _on(f"wants a count of steps that Adan's states do not have; {_ANY_RANKS}"),
    "zero_optimization.mics_shard_size": (lambda value: value > 0, _ELSEWHERE),
    "zero_optimization.offload_optimizer.device": (lambda value: value == "nvme", _NVME),
    "zero_optimization.offload_optimizer.ratio": _other_than(1),
    "zero_optimization.offload_optimizer.super_offload": _on(_ELSEWHERE),
    "zero_optimization.offload_param.device": (lambda value: value == "nvme", _NVME),
    "zero_optimization.pipeline_loading_checkpoint": _on(_OWN),
    "zero_optimization.zenflow": _other_than(),
    "zero_optimization.zero_hpz_partition_size": _other_than(0, 1),
    "zero_optimization.zero_quantized_gradients": _on(_ELSEWHERE),
    "zero_optimization.zero_quantized_nontrainable_weights": _on(_ELSEWHERE),
    "zero_optimization.zero_quantized_weights": _on(_ELSEWHERE),
}


def check_deepspeed_config(config: Mapping[str, Any], origin: str) -> None:
    """Raise a UserError for what would fail later, or override the command line without a word.

    origin: the configuration's file, as messages name it.
    """
    for block, instead in _BLOCKS.items():
        if config.get(block) is not None:
            raise UserError(
                f'--deepspeed: {origin}: it has the "{block}" block, which is for deepspeed.initialize; here the '
                f"command line makes the {block}: take the block out and say {instead}"
            )
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UserError(f'--deepspeed: {origin}: "zero_optimization" takes an object, such as {{"stage": 2}}')
    _check_settings(config, origin)
    settings = _zero_settings(zero, origin)
    if settings.stage == 3 and not settings.gather_16bit_weights_on_model_save:
        raise UserError(
            f"--deepspeed: {origin}: under ZeRO-3 the run would end without a model's weights; "
            f'add `"{_GATHER}": true` to "zero_optimization"'
        )


def _check_settings(config: Mapping[str, Any], origin: str) -> None:
    """Raise a UserError for what would lose states, or not act, because checkpoints are the run's own."""
    for name, (is_refused, why) in _REFUSED.items():
        value: Any = config
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value not in (None, "auto") and is_refused(value):
            raise UserError(f"--deepspeed: {origin}: {name}: {json.dumps(value)} {why}")


def _zero_settings(zero: Mapping[str, Any], origin: str) -> Any:
    """DeepSpeed's own reading of the block."""
    try:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
        from pydantic import ValidationError
    except ImportError as error:
        raise UserError(f'--deepspeed: {error}; install it: `pip install ".[deepspeed]"`') from error
    try:
        return DeepSpeedZeroConfig(**{key: value for key, value in zero.items() if value != "auto"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["zero_optimization", *map(str, first["loc"])])
        raise UserError(
            f"--deepspeed: {origin}: {where}: {first['msg']}, found {first['input']!r}; start from one of ds_configs/"
        ) from error


def zero_stage(config: Any) -> int | None:
    """The ZeRO stage of a DeepSpeed configuration, a file's path or a mapping; None where it has none."""
    if isinstance(config, (str, Path)):
        config = json.loads(Path(config).read_text(encoding="utf-8"))
    block = config.get("zero_optimization") if isinstance(config, dict) else None
    return block.get("stage") if isinstance(block, dict) else None


def check_deepspeed_matches(config: Any, origin: str) -> None:
    """Raise a UserError where the file sets what an option sets otherwise.

    config: the Trainer's `HfTrainerDeepSpeedConfig`, which has compared them.
    """
    for mismatch in config.mismatches:
        match = re.fullmatch(r"- ds (\S+)=(.*) vs hf (.*)=(.*)", mismatch)
        if match is None:
            raise UserError(f"--deepspeed: {origin}: {mismatch}")
        key, theirs, option, ours = match.groups()
        named = option if " " in option else " and ".join(f"--{name}" for name in re.split(r"[|+]", option))
        raise UserError(
            f'--deepspeed: {origin}: {key} is {theirs} there, and {named} is {ours} here; write "auto" into the file'
        )
