"""What a run would take, before anything is prepared or trained: `run_pretrain.py FAMILY ... --dry_run`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nlp_adan.errors import UserError
from nlp_adan.pretraining.costs import ModelCosts
from nlp_adan.pretraining.memory import StateMemory, optimizer_state_bytes, state_memory
from nlp_adan.pretraining.quantities import count, duration, with_unit
from nlp_adan.training.hardware import peak_flops

# Of a device's memory, for buffers of communication, workspaces and fragmentation.
RESERVED_SHARE = 0.2
GIB = 1 << 30


@dataclass(frozen=True)
class Devices:
    """What a run is planned for. None: not known.

    Args:
        world_size: ranks, a device each.
        name: as the driver gives it.
        memory_bytes: of one device.
        flops_per_second: that one device sustains.
    """

    world_size: int
    name: str | None = None
    memory_bytes: float | None = None
    flops_per_second: float | None = None


@dataclass(frozen=True)
class Workload:
    """What a run computes; the options of the command line, as they act.

    Args:
        sequence_length: tokens of a sequence, on average.
        global_batch_size: sequences of one optimizer step; None: `micro_batch_size` x `accumulation_steps` x ranks.
        micro_batch_size: the most that a rank takes at a time.
        num_train_sequences: of an epoch; None where the data are not prepared yet.
        sequences: what the data calls them.
        max_steps, max_hours, num_train_epochs: the first that is not None says how long the run is.
        optim, optim_args: as on the command line.
        bf16: --bf16 or --fp16.
        deepspeed: the name of the file in ds_configs/ that was chosen, without its ending, or None.
    """

    sequence_length: float
    micro_batch_size: int
    global_batch_size: int | None = None
    accumulation_steps: int = 1
    num_train_sequences: int | None = None
    sequences: str = "blocks"
    max_steps: int | None = None
    max_hours: float | None = None
    num_train_epochs: float | None = None
    optim: str = "adan"
    optim_args: str | None = None
    bf16: bool = False
    activation_checkpointing: bool = False
    deepspeed: str | None = None


@dataclass(frozen=True)
class Plan:
    """A run's plan. None: not known.

    `state_bytes` has an entry for each of `memory.DS_CONFIGS`, least sharded first; none where the optimizer's states
    are not known. `flops_per_second` is that of one device.
    """

    costs: ModelCosts
    workload: Workload
    devices: Devices
    global_batch_size: int
    micro_batch_size: int
    num_steps: int | None
    flops_per_step: float
    flops_per_second: float | None
    rate_source: str
    state_bytes: dict[str, StateMemory]

    @property
    def num_parameters(self) -> int:
        """Each shared one once."""
        return self.costs.num_parameters

    @property
    def tokens_per_step(self) -> int:
        """Over all ranks."""
        return round(self.global_batch_size * self.workload.sequence_length)

    @property
    def hours(self) -> float | None:
        """Trained hours: the budget, or steps x FLOPs / (ranks x rate)."""
        if self.workload.max_steps is None and self.workload.max_hours is not None:
            return self.workload.max_hours
        if self.num_steps is None or self.flops_per_second is None:
            return None
        return self.num_steps * self.flops_per_step / (self.devices.world_size * self.flops_per_second) / 3600

    def most_sequences(self, name: str) -> int | None:
        """Sequences that a rank can take at a time under a file of ds_configs/; None where the memory is not known."""
        if self.devices.memory_bytes is None:
            return None
        room = (1 - RESERVED_SHARE) * self.devices.memory_bytes - self.state_bytes[name].device_bytes
        return max(0, int(room // self.costs.activation_bytes_per_sequence))

    @property
    def recommended(self) -> str | None:
        """The least sharded of `state_bytes` that the micro-batch fits beside; None: none does, or it is not known."""
        return next(
            (name for name in self.state_bytes if (self.most_sequences(name) or 0) >= self.micro_batch_size), None
        )


def make_plan(costs: ModelCosts, workload: Workload, devices: Devices) -> Plan:
    """The plan of training a model that costs so much; touches no file.

    Raises: UserError where the ranks cannot share the batch equally.
    """
    global_batch, micro_batch = batch_sizes(workload, devices.world_size)
    rate, rate_source = _rate(costs, workload, devices)
    flops_per_step = costs.training_flops_per_sequence * global_batch
    states = optimizer_state_bytes(workload.optim, workload.optim_args)
    return Plan(
        costs=costs,
        workload=workload,
        devices=devices,
        global_batch_size=global_batch,
        micro_batch_size=micro_batch,
        num_steps=_num_steps(workload, global_batch, flops_per_step, rate, devices.world_size),
        flops_per_step=flops_per_step,
        flops_per_second=rate,
        rate_source=rate_source,
        state_bytes={}
        if states is None
        else state_memory(costs.num_parameters, states, devices.world_size, workload.bf16),
    )


def batch_sizes(workload: Workload, world_size: int) -> tuple[int, int]:
    """Sequences of a step over all ranks, and those that a rank takes at a time; the engine's rule.

    Raises: UserError where the ranks cannot share the batch equally.
    """
    if workload.global_batch_size is None:
        return workload.micro_batch_size * workload.accumulation_steps * world_size, workload.micro_batch_size
    if workload.global_batch_size % world_size:
        raise UserError(
            f"--global_batch_size: {workload.global_batch_size} sequences cannot be shared equally by {world_size} "
            f"ranks; choose a multiple of {world_size}"
        )
    per_rank = workload.global_batch_size // world_size
    largest = min(workload.micro_batch_size, per_rank)
    return workload.global_batch_size, next(size for size in range(largest, 0, -1) if per_rank % size == 0)


def _rate(costs: ModelCosts, workload: Workload, devices: Devices) -> tuple[float | None, str]:
    """FLOP/s that one device sustains, and where the figure is from."""
    if devices.flops_per_second is not None:
        return devices.flops_per_second, "as given"
    peak = None if devices.name is None else peak_flops(devices.name)
    if peak is None:
        return None, f"no peak FLOP/s known of {devices.name or 'this device'}: give --flops_per_second"
    if not workload.bf16:
        return None, "no rate is assumed for float32: give --flops_per_second, or --bf16 true"
    if costs.assumed_mfu is None:
        return None, f"no rate is assumed for {costs.model_type}: give --flops_per_second"
    of_peak = f"{100 * costs.assumed_mfu:.0f} % of the peak of {devices.name}, {with_unit(peak, 'FLOP/s')}"
    return costs.assumed_mfu * peak, f"{of_peak}: assumed, not measured"


def _num_steps(
    workload: Workload, global_batch: int, flops_per_step: float, rate: float | None, world_size: int
) -> int | None:
    if workload.max_steps is not None:
        return workload.max_steps
    if workload.max_hours is not None:
        return None if rate is None else max(1, int(workload.max_hours * 3600 * rate * world_size / flops_per_step))
    if workload.num_train_sequences is None or workload.num_train_epochs is None:
        return None
    return max(1, math.ceil(workload.num_train_sequences * workload.num_train_epochs / global_batch))


def format_plan(plan: Plan) -> str:
    """The plan as text for a terminal, several lines without a line break at the end."""
    work, ranks = plan.workload, plan.devices.world_size
    accumulation = plan.global_batch_size // (plan.micro_batch_size * ranks)
    device = plan.devices.name or "device not known"
    if plan.devices.memory_bytes is not None:
        device += f", {plan.devices.memory_bytes / GIB:.1f} GiB"
    split = f"{ranks} rank{'s' * (ranks > 1)} x {plan.micro_batch_size} at a time x {accumulation}"
    facts = [
        ("model", f"{plan.costs.model_type}, {_format_parameters(plan.costs)}, {work.optim}"),
        *([("tokens", plan.costs.vocabulary)] if plan.costs.vocabulary else []),
        ("ranks", f"{ranks} x {device}, {'bf16' if work.bf16 else 'float32'}"),
        ("batch", f"{plan.global_batch_size:,} sequences a step = {split}; x {work.sequence_length:,g} = "
                  f"{plan.tokens_per_step:,} tokens"),
        ("length", _format_length(plan)),
        ("work", _format_work(plan)),
        ("time", _format_time(plan)),
    ]  # fmt: skip
    return "\n".join([*(f"{name:8}{text}" for name, text in facts), *_format_memory(plan)])


def _format_parameters(costs: ModelCosts) -> str:
    """In full where the count outside of embedding and softmax is told, which is what papers compare."""
    if costs.num_outside_embedding is None:
        return f"{costs.num_parameters / 1e6:,.1f} M parameters"
    return f"{costs.num_parameters:,} parameters ({costs.num_outside_embedding:,} outside of embedding and softmax)"


def _format_length(plan: Plan) -> str:
    if plan.num_steps is None:
        sequences = plan.workload.sequences
        why = "the FLOP/s are" if plan.workload.max_hours is not None else f"the number of {sequences} is"
        return f"not known before {why}"
    text = f"{plan.num_steps:,} steps" if plan.workload.max_hours is None else f"about {plan.num_steps:,} steps"
    text += f" = {count(plan.num_steps * plan.tokens_per_step)} tokens"
    if plan.workload.num_train_sequences is None:
        return f"{text}; the data are not prepared: epochs not known"
    epochs = plan.num_steps * plan.global_batch_size / plan.workload.num_train_sequences
    return f"{text} = {epochs:,.3g} epochs of {plan.workload.num_train_sequences:,} {plan.workload.sequences}"


def _format_work(plan: Plan) -> str:
    text = f"{with_unit(plan.flops_per_step, 'FLOP')} a step ({plan.costs.flops_note})"
    total = None if plan.num_steps is None else plan.num_steps * plan.flops_per_step
    return text if total is None else f"{text}, {with_unit(total, 'FLOP')} in all"


def _format_time(plan: Plan) -> str:
    rate = "" if plan.flops_per_second is None else f"{with_unit(plan.flops_per_second, 'FLOP/s')} a device, "
    if plan.hours is None:
        return f"not known: {rate}{plan.rate_source}"
    kind = "given as the budget" if plan.hours == plan.workload.max_hours else "without evaluation and saving"
    return f"{duration(3600 * plan.hours)} ({kind}); {rate}{plan.rate_source}"


def _format_memory(plan: Plan) -> list[str]:
    activations = plan.micro_batch_size * plan.costs.activation_bytes_per_sequence / GIB
    lines = [
        f"memory  activations, {plan.micro_batch_size} sequences at a time: {activations:,.2f} GiB a rank "
        f"(an estimate; {plan.costs.activations_note})"
    ]
    indent = " " * 8
    if not plan.state_bytes:
        return [*lines, f"{indent}states of --optim {plan.workload.optim}: not known here"]
    known = plan.devices.memory_bytes is not None
    heads = ("on the device", "on the host", *(("most at a time",) if known else ()))
    lines.append(
        f"{indent}{'parameters, gradients, states in GiB a rank':44}{''.join(head.rjust(16) for head in heads)}"
    )
    for name, state in plan.state_bytes.items():
        label = "without DeepSpeed" if name == "none" else f"ds_configs/{name}.json"
        label += " (chosen)" if (plan.workload.deepspeed or "none") == name else ""
        cells = [f"{state.device_bytes / GIB:,.2f}", f"{state.host_bytes / GIB:,.2f}"]
        cells += [f"{plan.most_sequences(name):,}"] if known else []
        lines.append(f"{indent}{label:44}{''.join(cell.rjust(16) for cell in cells)}")
    return [*lines, f"{indent}{_advice(plan)}"]


def _advice(plan: Plan) -> str:
    if plan.devices.memory_bytes is None:
        return "what fits is not known before the device's memory is: give --plan_memory_gib"
    reserve = f"{100 * RESERVED_SHARE:.0f} % of the memory is left free"
    if plan.recommended is not None:
        where = (
            "without DeepSpeed"
            if plan.recommended == "none"
            else f"with `--deepspeed ds_configs/{plan.recommended}.json`"
        )
        return f"{plan.micro_batch_size} at a time fit {where} ({reserve})"
    for name in plan.state_bytes:
        if most := plan.most_sequences(name):
            remedy = f"--per_device_train_batch_size {most}"
            remedy += "" if name == "none" else f" --deepspeed ds_configs/{name}.json"
            return f"{plan.micro_batch_size} at a time do not fit: give `{remedy}` ({reserve})"
    return f"not one sequence fits: give {plan.costs.smaller} ({reserve})"
