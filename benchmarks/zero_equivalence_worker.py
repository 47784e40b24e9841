"""Trains a small transformer in one process, and sharded in every way: the cases of zero_equivalence.py.

    [launcher] python benchmarks/zero_equivalence_worker.py FOLDER --cases CASE ... [--steps N] [--official PATH]

Every case starts from the same weights and sees the same global batch in the same step. Rank 0 writes what a case found
to `result_path(FOLDER, CASE)`. Cases without DeepSpeed come first: a process that has used it once cannot leave it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from optimizer_step import OFFICIAL_MODULE, load_official
from small_transformer import mean_loss, new_model, sequences

from nlp_adan import Adan
from nlp_adan.errors import ranks_leave_at_once
from nlp_adan.integrations.deepspeed import init_communication, single_process_environment
from nlp_adan.param_groups import decay_groups
from nlp_adan.progress import progress
from nlp_adan.state_formats import STATE_NAMES

CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"
STEPS, GLOBAL_BATCH, ACCUMULATION = 30, 8, 2
MAX_NORM = 0.25  # below the norm of every step, so that every step is clipped
WEIGHT_DECAY = 0.02  # of one of the two groups
OPTIONS: dict[str, Any] = {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8}
# In elements. So small that this model has several buckets and sub-groups, and no parameter that stays on every rank.
ZERO_SIZES = {
    "reduce_bucket_size": 8192,
    "allgather_bucket_size": 4096,
    "stage3_prefetch_bucket_size": 4096,
    "sub_group_size": 2048,
    "stage3_param_persistence_threshold": 0,
}
TRAINER_CONFIGS = ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all cases of a call share. `folder` is theirs to write to."""

    folder: Path
    steps: int
    ranks: int


def micro_batches(setting: Setting, accumulation: int) -> Tensor:
    """This rank's part of the sequences, dealt out as the Trainer does: [steps, accumulation, B, LENGTH + 1]."""
    whole_batches = sequences(setting.steps, GLOBAL_BATCH)
    dealt = whole_batches.view(setting.steps, accumulation, setting.ranks, -1, whole_batches.shape[-1])
    return dealt[:, :, dist.get_rank()]


def train(setting: Setting, model: nn.Module, accumulation: int, step: Callable[[Tensor, bool], None]) -> list[float]:
    """Train with a plain loop. `step` takes the loss of a micro-batch and whether that is the last one of its step.

    Returns the losses of the steps, in nats per token over all micro-batches and ranks.
    """
    losses = torch.zeros(setting.steps, dtype=torch.float64)
    for number, micros in enumerate(micro_batches(setting, accumulation)):
        for index, batch in enumerate(micros):
            loss = mean_loss(model, batch)
            losses[number] += loss.item() / (accumulation * setting.ranks)
            step(loss, index == accumulation - 1)
    dist.all_reduce(losses)
    return losses.tolist()


def train_torch(setting: Setting, model: nn.Module, accumulation: int, max_norm: float = MAX_NORM) -> Result:
    """Train with torch alone: its clipping, and Adan on the parameters as they are."""
    optimizer = Adan(decay_groups(model, WEIGHT_DECAY), **OPTIONS)
    norms = []

    def step(loss: Tensor, is_last: bool) -> None:
        (loss / accumulation).backward()
        if is_last:
            norms.append(clip_grad_norm_(model.parameters(), max_norm))
            optimizer.step()
            optimizer.zero_grad()

    losses = train(setting, model, accumulation, step)
    return {"losses": losses, "norms": [float(whole(norm)) for norm in norms], **state_of(model, optimizer)}


def one_process(setting: Setting, max_norm: float = MAX_NORM) -> Result:
    """The whole batch at once. To be called in a process that has no other rank."""
    return train_torch(setting, new_model(), accumulation=1, max_norm=max_norm)


def ddp(setting: Setting) -> Result:
    """Whole parameters and states on each rank, mean gradients."""
    return train_torch(setting, DistributedDataParallel(new_model()), ACCUMULATION)


def fsdp2(setting: Setting) -> Result:
    """Parameters, gradients and states as DTensors."""
    model = new_model()
    for part in (*model.blocks, model):
        fully_shard(part)
    return train_torch(setting, model, ACCUMULATION)


def zero(
    setting: Setting, stage: int, *, offload: bool = False, adan: Callable[..., torch.optim.Optimizer] | None = None
) -> Result:
    """`deepspeed.initialize` with a configuration. `adan`: another optimizer than its `"type": "Adan"`."""
    import deepspeed

    init_communication()
    on_host = {"device": "cpu"}
    offloads = {"offload_optimizer": on_host, **({"offload_param": on_host} if stage == 3 else {})} if offload else {}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": GLOBAL_BATCH // ACCUMULATION // setting.ranks,
        "gradient_accumulation_steps": ACCUMULATION,
        "gradient_clipping": MAX_NORM,
        "zero_optimization": {"stage": stage, **ZERO_SIZES, **offloads},
        "steps_per_print": 2**31 - 1,
    }
    model = new_model()
    groups = decay_groups(model, WEIGHT_DECAY)
    if adan:
        made: dict[str, Any] = {"optimizer": adan(groups, **OPTIONS)}
        config["zero_allow_untested_optimizer"] = True
    else:
        made = {"model_parameters": groups}
        config["optimizer"] = {"type": "Adan", "params": OPTIONS}
    as_from_a_file = json.loads(json.dumps(config))
    engine, *_ = deepspeed.initialize(model=model, config=as_from_a_file, **made)

    def step(loss: Tensor, _: bool) -> None:
        engine.backward(loss)
        engine.step()

    losses = train(setting, engine, ACCUMULATION, step)
    result = {"losses": losses, **state_of(engine.module, engine.optimizer)}
    engine.destroy()
    return result


def trainer(setting: Setting, config_name: str | None = None) -> Result:
    """Our Trainer: with a file of ds_configs/, its sizes those for a small model, or without DeepSpeed."""
    from nlp_adan.training.engine import Engine, EngineOptions, mean_over_items, quiet_libraries

    quiet_libraries()
    config = json.loads((CONFIGS / f"{config_name}.json").read_text()) if config_name else None
    if config:
        config["zero_optimization"].update(ZERO_SIZES)

    def loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        total = functional.cross_entropy(logits, labels.flatten(), reduction="sum")
        return mean_over_items(total, labels.numel(), num_items_in_batch)

    options = EngineOptions(
        output_dir=str(setting.folder / "trainer"),
        deepspeed=config,
        per_device_train_batch_size=GLOBAL_BATCH // ACCUMULATION // setting.ranks,
        gradient_accumulation_steps=ACCUMULATION,
        train_sampling_strategy="sequential",
        max_steps=setting.steps,
        learning_rate=OPTIONS["lr"],
        lr_scheduler_type="constant",
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_NORM,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    samples = [
        {"tokens": sequence[:-1], "labels": sequence[1:]}
        for sequence in sequences(setting.steps, GLOBAL_BATCH).flatten(0, 1)
    ]
    engine = Engine(model=new_model(), args=options, train_dataset=samples, compute_loss_func=loss)
    engine.train()
    losses = [line["loss"] for line in engine.state.log_history if "loss" in line]
    return {"losses": losses, **state_of(engine.accelerator.unwrap_model(engine.model_wrapped), engine.optimizer)}


class OneCounterPerGroup(Adan):
    """Adan that counts the calls of `step` for a group, as the authors' code does, and not the updates of a parameter.

    ZeRO-3 calls `step` once for each of its sub-groups, so that this one counts too fast.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The update that the number of calls leads to."""
        for group in self.param_groups:
            group["calls"] = group.get("calls", 0) + 1
            for param in group["params"]:
                self._state_of(param, group)["step"].fill_(group["calls"] - 1)
        return super().step(closure)


def official(*args: Any, **options: Any) -> torch.optim.Optimizer:
    """The authors' Adan, from the file that --official names."""
    return importlib.import_module(OFFICIAL_MODULE).Adan(*args, **options)


def state_of(model: nn.Module, optimizer: Any) -> Result:
    """What there is after training. To be called on every rank.

    "parameters": whole tensors by name. "state_bytes": of each of the four states, on the rank that has most of it.
    "optimizer": the class that did the steps, below what engines put around it. "sub_groups": ZeRO-3's, else None.
    """
    sub_groups = None
    while hasattr(optimizer, "optimizer"):
        sub_groups = len(optimizer.fp16_groups) if hasattr(optimizer, "fp16_groups") else sub_groups
        optimizer = optimizer.optimizer
    state_bytes = torch.zeros(len(STATE_NAMES), dtype=torch.int64)
    for state in optimizer.state.values():
        mine = (value.to_local() if isinstance(value, DTensor) else value for value in map(state.get, STATE_NAMES))
        state_bytes += torch.tensor([value.nbytes for value in mine])
    dist.all_reduce(state_bytes, dist.ReduceOp.MAX)
    return {
        "parameters": {name.removeprefix("module."): whole(param) for name, param in model.named_parameters()},
        "state_bytes": dict(zip(STATE_NAMES, state_bytes.tolist(), strict=True)),
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "sub_groups": sub_groups,
    }


def whole(tensor: Tensor) -> Tensor:
    """A copy of a tensor that may be sharded. To be called on every rank."""
    if isinstance(tensor, DTensor):
        return tensor.detach().full_tensor().clone()
    if hasattr(tensor, "ds_id"):  # ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach().clone()


REFERENCE, NOT_CLIPPED, YARDSTICK = "one process", "one process, not clipped", "torch DDP"
ONE_COUNTER, OFFICIAL = "ZeRO-3, one counter per group", "ZeRO-3, official Adan"
CASES: dict[str, Callable[[Setting], Result]] = {
    REFERENCE: one_process,
    NOT_CLIPPED: partial(one_process, max_norm=math.inf),
    YARDSTICK: ddp,
    "torch FSDP2 (fully_shard)": fsdp2,
    "Trainer, DDP": trainer,
    **{f"ZeRO-{stage}": partial(zero, stage=stage) for stage in range(4)},
    **{f"ZeRO-{stage}, CPU offload": partial(zero, stage=stage, offload=True) for stage in (2, 3)},
    **{f"Trainer, {name}.json": partial(trainer, config_name=name) for name in TRAINER_CONFIGS},
    ONE_COUNTER: partial(zero, stage=3, adan=OneCounterPerGroup),
    OFFICIAL: partial(zero, stage=3, adan=official),
}


def result_path(folder: Path, case: str) -> Path:
    """Where a case's `Result` is: a file for torch.load."""
    return folder / f"{case}.pt"


def main() -> None:
    """Run the cases of the command line, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", nargs="+", choices=CASES, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--official", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # thousands, DeepSpeed's
    if options.official:
        load_official(options.official)
    single_process_environment()
    dist.init_process_group("gloo")
    setting = Setting(options.folder, options.steps, dist.get_world_size())
    cases = options.cases
    if setting.ranks > 1:  # the single process runs beside them, and one bar is enough
        cases = progress(cases, description=f"training on {setting.ranks} ranks", unit="case")
    for case in cases:
        result = CASES[case](setting)
        if dist.get_rank() == 0:
            torch.save(result, result_path(setting.folder, case))
        gc.freeze()  # every engine has all garbage collected, which takes a second unless the libraries are left out
    dist.barrier()  # a launcher ends the other ranks as soon as one has left


if __name__ == "__main__":
    with ranks_leave_at_once():
        main()
