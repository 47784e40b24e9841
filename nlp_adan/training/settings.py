"""When two sets of options are those of the same run: they compute the same, however the run is watched and divided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

# Options that say where and how a run is watched, read and kept, not what it computes.
WATCHING = frozenset({
    "output_dir", "resume", "recipe", "run_name", "logging_dir", "disable_tqdm", "report_to", "project", "local_rank",
    "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_steps", "logging_strategy",
    "logging_nan_inf_filter", "include_num_input_tokens_seen", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo",
    "hub_always_push", "hub_revision", "skip_memory_metrics", "debug", "torch_empty_cache_steps",
    "save_total_limit", "save_on_each_node", "enable_jit_checkpoint", "ddp_timeout", "use_cpu", "dry_run",
    "flops_per_second", "plan_ranks", "plan_device", "plan_memory_gib", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataloader_in_order", "per_device_eval_batch_size",
    "eval_accumulation_steps", "glue_probe_every", "glue_probe_tasks", "glue_probe_data", "glue_probe_max_steps",
})  # fmt: skip

# When a run evaluates and saves: the weights depend on it only where evaluations choose them or the learning rate.
CADENCE = frozenset({
    "do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps",
})  # fmt: skip

# How the work is divided: ZeRO's stage and offloading. What its file sets otherwise than an option is refused.
DIVISION = frozenset({"deepspeed"})

# Together they say how many sequences a step has, which is what counts.
BATCH = frozenset({"global_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"})


class Difference(NamedTuple):
    """What makes another run of one: `text`, as "seed: 1 there, 2 here and 3 more", and a remedy where there is one."""

    text: str
    remedy: str | None


def difference(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    ranks: tuple[int, int] = (1, 1),
    ignored: frozenset[str] = frozenset(),
) -> Difference | None:
    """Compare the options of a recorded run with those of a new start.

    Args:
        theirs, ours: options by name, as `recipe.resolved` gives them.
        ranks: theirs and ours.
        ignored: options that are compared in another way.
    """
    skipped = WATCHING | DIVISION | ignored
    if not any(_evaluations_count(options) for options in (theirs, ours)):
        skipped |= CADENCE
    batches = [sequences_per_step(options, number) for options, number in zip((theirs, ours), ranks, strict=True)]
    if None not in batches:
        skipped |= BATCH
    # Compared as JSON: what YAML brings back of a tuple or an enumeration is a list or a string.
    found = [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in sorted({*theirs, *ours} - skipped)
        if json.dumps(theirs.get(name), sort_keys=True) != json.dumps(ours.get(name), sort_keys=True)
    ]
    remedy = None
    if batches[0] != batches[1] and None not in batches:
        remedy = None if found else f"`--global_batch_size {batches[0]}` keeps its batches on any number of ranks"
        found.append(f"sequences a step: {batches[0]} there, {batches[1]} here")
    if not found:
        return None
    return Difference(found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else ""), remedy)


def sequences_per_step(options: Mapping[str, Any], num_ranks: int) -> int | None:
    """Of one optimizer step, over all ranks and micro-batches; None where the options do not say."""
    if options.get("global_batch_size"):
        return int(options["global_batch_size"])
    if options.get("per_device_train_batch_size") is None:
        return None
    return int(options["per_device_train_batch_size"] * (options.get("gradient_accumulation_steps") or 1) * num_ranks)


def _evaluations_count(options: Mapping[str, Any]) -> bool:
    """Whether what is trained depends on when it is evaluated."""
    return bool(options.get("load_best_model_at_end")) or options.get("lr_scheduler_type") == "reduce_lr_on_plateau"
