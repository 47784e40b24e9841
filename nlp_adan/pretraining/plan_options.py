"""The options of `--dry_run`, and what a plan takes from the engine's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import GIB, Devices, Workload
from nlp_adan.training.hardware import peak_flops
from nlp_adan.training.recipe import check_range

_DETAILS = ("flops_per_second", "plan_ranks", "plan_device", "plan_memory_gib")


@dataclass
class PlanOptions:
    """What a run would take, told before it begins."""

    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the run; prepare and train nothing."})
    flops_per_second: float | None = field(
        default=None,
        metadata={"help": "Of --dry_run: what a device sustains; default: a share of its peak, where that is known."},
    )
    plan_ranks: int | None = field(
        default=None, metadata={"help": "Of --dry_run: the ranks to plan for; default: those of this start."}
    )
    plan_device: str | None = field(
        default=None,
        metadata={"help": "Of --dry_run: the device, as 'NVIDIA A100-SXM4-80GB'; default: this machine's."},
    )
    plan_memory_gib: float | None = field(
        default=None, metadata={"help": "Of --dry_run: a device's memory in GiB; default: that of this machine's."}
    )

    def __post_init__(self) -> None:
        given = [name for name in _DETAILS if getattr(self, name) is not None]
        if given and not self.dry_run:
            raise UserError(f"--{given[0]} is of the plan: add `--dry_run`, or leave it out")
        for name in ("flops_per_second", "plan_ranks", "plan_memory_gib"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 1 if name == "plan_ranks" else 1e-3)

    def devices(self, world_size: int) -> Devices:
        """The devices to plan for; `world_size`: the ranks of this start."""
        name, memory = self.plan_device, None
        if name is None and torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            name, memory = properties.name, float(properties.total_memory)
        if self.plan_memory_gib is not None:
            memory = self.plan_memory_gib * GIB
        return Devices(self.plan_ranks or world_size, name, memory, self.flops_per_second)


def _configuration_name(deepspeed: Any) -> str | None:
    """What the plan calls a DeepSpeed configuration: its file's name, or that it came as JSON."""
    if isinstance(deepspeed, str):
        return Path(deepspeed).stem
    return "JSON" if deepspeed else None


def workload_of_run(
    options: Any, plan: PlanOptions, sequence_length: float, num_train_sequences: int | None, sequences: str
) -> Workload:
    """What a command line's run computes.

    Args:
        options: with `engine` (`EngineOptions`) and `budget` (`BudgetOptions`).
        plan: of the same command line.
        sequence_length: tokens of a sequence, on average.
        num_train_sequences: of an epoch; None where the data are not prepared yet.
        sequences: what the data calls them.
    """
    engine = options.engine
    # A GPU that is planned for, not this machine's, would choose bfloat16 too (nlp_adan.training.precision).
    chooses_bf16 = engine.chose_precision and plan.plan_device is not None and peak_flops(plan.plan_device) is not None
    return Workload(
        sequence_length=sequence_length,
        micro_batch_size=engine.per_device_train_batch_size,
        global_batch_size=engine.global_batch_size,
        accumulation_steps=engine.gradient_accumulation_steps,
        num_train_sequences=num_train_sequences,
        sequences=sequences,
        max_steps=engine.max_steps if engine.max_steps > 0 else None,
        max_hours=options.budget.max_hours,
        num_train_epochs=engine.num_train_epochs,
        optim=str(getattr(engine.optim, "value", engine.optim)),
        optim_args=engine.optim_args,
        bf16=engine.bf16 or engine.fp16 or chooses_bf16,
        activation_checkpointing=engine.activation_checkpointing,
        deepspeed=_configuration_name(engine.deepspeed),
    )
