"""Trains, saves, and goes on in new processes, in every way to shard an optimizer: for test_checkpoint_state.py.

    [launcher] python -m tests.distributed.checkpoint_worker PHASE FOLDER

`first` trains all cases to the end and saves them half-way; `second`, in other processes, goes on from there. Both also
load what another case saved and write it again. `alone` does so on one rank.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nlp_adan import Adan
from nlp_adan.errors import UserError, ranks_leave_at_once
from nlp_adan.param_groups import decay_groups
from nlp_adan.storage import write_json
from nlp_adan.training.checkpoint.fragments import Layout, fragments_of
from nlp_adan.training.checkpoint.optimizer_state import load_optimizer_state, master_weights, optimizer_files
from nlp_adan.training.checkpoint.tensor_files import write_tensor_file

HALF, END = 3, 6  # steps
ACCUMULATION = 2
FLOAT, BFLOAT, HALF_FLOAT = torch.float32, torch.bfloat16, torch.float16
Make = Callable[[Any], torch.optim.Optimizer]


def adan(groups: Any) -> Adan:
    return Adan(groups, lr=1e-2, betas=(0.9, 0.8, 0.95))


def narrow_adan(groups: Any) -> Adan:
    return Adan(groups, lr=1e-2, betas=(0.9, 0.8, 0.95), state_dtype="bfloat16")


def adamw(groups: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9))


@dataclasses.dataclass(frozen=True)
class Case:
    """stage: of DeepSpeed, None for plain torch and DDP; zero: more of "zero_optimization"; config: beside it."""

    stage: int | None = None
    dtype: torch.dtype = FLOAT
    make: Make = adan
    zero: tuple[tuple[str, Any], ...] = ()
    config: tuple[tuple[str, Any], ...] = ()
    fused: bool = False


OFFLOAD = (("offload_optimizer", {"device": "cpu"}),)
OFFLOAD_ALL = (*OFFLOAD, ("offload_param", {"device": "cpu"}))
LAID_OUT = (("round_robin_gradients", True), ("parameter_alignment", True))
CASES = {
    "DDP": Case(),
    "DDP, AdamW": Case(make=adamw),
    "ZeRO 0": Case(0),
    "ZeRO 0, bfloat16": Case(0, BFLOAT),
    "ZeRO 0, bfloat16, AdamW": Case(0, BFLOAT, adamw),
    "ZeRO 0, bfloat16, AdamW, flat": Case(0, BFLOAT, adamw, fused=True),
    "ZeRO 1": Case(1),
    "ZeRO 1, bfloat16, float32 gradients": Case(1, BFLOAT, config=(("data_types", {"grad_accum_dtype": "fp32"}),)),
    "ZeRO 2": Case(2),
    "ZeRO 2, AdamW": Case(2, make=adamw),
    "ZeRO 2, bfloat16 states": Case(2, make=narrow_adan),
    "ZeRO 2, bfloat16": Case(2, BFLOAT),
    "ZeRO 2, float16": Case(2, HALF_FLOAT),
    "ZeRO 2, offload": Case(2, zero=OFFLOAD),
    "ZeRO 2, laid out otherwise": Case(2, zero=LAID_OUT),
    "ZeRO 3": Case(3),
    "ZeRO 3, AdamW": Case(3, make=adamw),
    "ZeRO 3, bfloat16": Case(3, BFLOAT),
    "ZeRO 3, offload": Case(3, zero=OFFLOAD_ALL),
    "ZeRO 3, bfloat16, offload": Case(3, BFLOAT, zero=OFFLOAD_ALL),
}
# What is loaded by another case than the one that saved it, by phase: (folder that it is read from, case, folder).
ACROSS = {
    "first": [("ZeRO 2/half", "ZeRO 3", "2 to 3"), ("ZeRO 3, offload/half", "ZeRO 2", "3 offload to 2")],
    "alone": [
        ("DDP/half", "plain", "DDP to plain"),
        ("ZeRO 2/half", "ZeRO 2", "2 ranks to 1"),
        ("2 to 3", "ZeRO 1", "3 to 1, 1 rank"),
    ],
    "second": [
        ("2 ranks to 1", "ZeRO 2", "1 rank to 2"),
        ("2 to 3", "ZeRO 1", "3 to 1"),
        ("DDP to plain", "ZeRO 2", "plain to 2"),
        ("plain to 2", "DDP", "2 to plain"),
        ("ZeRO 2, bfloat16/half", "ZeRO 3, bfloat16", "bfloat16 masters, 2 to 3"),
        ("ZeRO 2, bfloat16/half", "ZeRO 2", "bfloat16 to float32"),
        ("ZeRO 3/half", "ZeRO 3, bfloat16", "float32 to bfloat16"),
    ],
}


class Network(nn.Module):
    """Sizes that no number of ranks divides, a frozen parameter, and one that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(11, 5)
        self.middle = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.last = nn.Linear(7, 1)
        self.frozen = nn.Parameter(torch.full((7,), 0.5), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3, 3))

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.middle(self.words(words)))) + self.frozen
        return self.last(hidden).float().square().mean()


class Run:
    """A case's model and optimizer, as trained: new, or with the weights of a checkpoint."""

    def __init__(self, case: Case, checkpoint: Path | None = None) -> None:
        network = Network()
        if checkpoint is not None:
            network.load_state_dict(load_file(checkpoint / "model.safetensors"))
            network.load_state_dict(master_weights(checkpoint), strict=False)
        optimizer = case.make(decay_groups(network, weight_decay=0.1))
        self.case, self.network, self.engine = case, network, None
        self.model: Any = network
        self.optimizer: Any = optimizer
        if case.stage is not None:
            self.model = self.engine = deepspeed_engine(case, network, optimizer)
            self.optimizer = self.engine.optimizer
        elif dist.is_initialized() and dist.get_world_size() > 1:
            self.model = DistributedDataParallel(network, find_unused_parameters=True)

    @property
    def layout(self) -> Layout:
        return fragments_of(self.model, self.optimizer)

    def train(self, steps: range) -> None:
        for step in steps:
            for micro in range(ACCUMULATION):
                generator = torch.Generator().manual_seed(1000 * step + 10 * micro + dist.get_rank())
                loss = self.model(torch.randint(11, (4, 6), generator=generator))
                if self.engine is not None:
                    self.engine.backward(loss)
                    self.engine.step()
                else:
                    (loss / ACCUMULATION).backward()
            for group in self.layout.base.param_groups:
                group["lr"] *= 0.9  # a schedule
            if self.engine is None:
                self.optimizer.step()
                self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        """The model's, whole, on every rank."""
        params = dict(self.network.named_parameters())
        if self.case.stage != 3:
            return {name: param.detach().clone() for name, param in params.items()}
        from deepspeed import zero

        with zero.GatheredParameters(list(params.values())):
            return {name: param.detach().clone() for name, param in params.items()}

    def save(self, checkpoint: Path) -> None:
        weights, rank = self.weights(), dist.get_rank()
        files, description = optimizer_files(self.layout, rank, dist.get_world_size())
        for file in files:
            write_tensor_file(checkpoint, file)
        if rank == 0:
            write_json(checkpoint / "optimizer" / "optimizer.json", description)
            save_file(weights, checkpoint / "model.safetensors")
        dist.barrier()


def deepspeed_engine(case: Case, network: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    import deepspeed
    import deepspeed.runtime.engine

    sizes = {"sub_group_size": 20, "stage3_param_persistence_threshold": 8, "reduce_bucket_size": 64}
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": ACCUMULATION,
        "gradient_clipping": 0.5,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": case.stage, **sizes, **dict(case.zero)},
        "bf16": {"enabled": case.dtype == BFLOAT},
        "fp16": {
            "enabled": case.dtype == HALF_FLOAT,
            "initial_scale_power": 17,
            "loss_scale_window": 2,
            "hysteresis": 1,
        },
        **dict(case.config),
    }
    theirs = deepspeed.runtime.engine.FusedAdam
    if case.fused:  # which has to be compiled; what DeepSpeed makes of it keeps its masters flat
        deepspeed.runtime.engine.FusedAdam = type(optimizer)
    try:
        return deepspeed.initialize(model=network, optimizer=optimizer, config=config)[0]
    finally:
        deepspeed.runtime.engine.FusedAdam = theirs


def check_owners(run: Run, weights: dict[str, Tensor]) -> None:
    """In float32 the optimizer works on the weights that the model was given: nothing has to be restored."""
    for fragment in run.layout.fragments:
        if not run.layout.is_master(fragment):
            expected = weights[fragment.name].reshape(-1)[fragment.begin : fragment.end]
            assert torch.equal(fragment.of(fragment.owner), expected), fragment.name


def go_on(case: Case, checkpoint: Path) -> Run:
    run = Run(case, checkpoint)
    check_owners(run, run.weights())
    load_optimizer_state(checkpoint, run.layout)
    return run


def first(folder: Path) -> Iterator[str]:
    for name, case in CASES.items():
        run = Run(case)
        run.train(range(HALF))
        run.save(folder / name / "half")
        run.train(range(HALF, END))
        run.save(folder / name / "end")
        yield f"{name}: {type(run.optimizer).__name__}"


def second(folder: Path) -> Iterator[str]:
    for name, case in CASES.items():
        run = go_on(case, folder / name / "half")
        run.train(range(HALF, END))
        run.save(folder / name / "resumed")
    try:
        go_on(CASES["ZeRO 2, AdamW"], folder / "ZeRO 2" / "half")
        yield "another optimizer: accepted"
    except UserError as error:
        yield f"another optimizer: {error}"


def across(phase: str, folder: Path) -> None:
    for source, name, target in ACROSS[phase]:
        go_on(CASES.get(name, Case()), folder / source).save(folder / target)
        gc.collect()


def main() -> None:
    phase, folder = sys.argv[1], Path(sys.argv[2])
    from deepspeed.accelerator import get_accelerator

    from nlp_adan.integrations.deepspeed import init_communication, single_process_environment

    single_process_environment()
    dist.init_process_group("gloo")
    init_communication()
    get_accelerator().is_fp16_supported = lambda: True  # slow on a CPU, but as good
    for line in {"first": first, "second": second}[phase](folder) if phase != "alone" else ():
        if dist.get_rank() == 0:
            print(f"CASE {line}", flush=True)
        gc.collect()
    across(phase, folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    with ranks_leave_at_once():
        main()
