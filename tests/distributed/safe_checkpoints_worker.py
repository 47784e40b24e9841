"""Checkpoints of `deepspeed.initialize` and `use_safe_checkpoints`, on two ranks: cases of test_safe_checkpoints.py."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.checkpoint import ds_to_universal
from deepspeed.utils import safe_get_full_fp32_param

from nlp_adan.errors import UserError, ranks_leave_at_once
from nlp_adan.integrations.safe_checkpoints import use_safe_checkpoints
from tests.distributed.deepspeed_worker import groups
from tests.distributed.sharding_worker import network
from tests.unit.malicious_files import torch_file

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# stage, precision, optimizer
KINDS = [
    (0, "fp32", "Adan"), (1, "fp32", "Adan"), (2, "fp32", "Adan"), (3, "fp32", "Adan"), (0, "bf16", "Adan"),
    (3, "bf16", "Adan"), (2, "fp16", "Adan"), (2, "fp32", "AdamW"),
]  # fmt: skip


def engine_of(
    stage: int, precision: str = "fp32", optimizer: str = "Adan", safe: bool = True, universal: bool = False
) -> Any:
    """A small model's engine; the weights are the same each time."""
    options: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1}
    if optimizer == "AdamW":
        options["torch_adam"] = True
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage, "sub_group_size": 40},
        "optimizer": {"type": optimizer, "params": options},
        "checkpoint": {"load_universal": universal},
    }
    if precision != "fp32":
        config[precision] = {"enabled": True}
    model = network()
    engine = deepspeed.initialize(model=model, model_parameters=groups(model), config=config)[0]
    if safe:
        use_safe_checkpoints(engine)
    return engine


def train(engine: Any, precision: str = "fp32", seed: int = 1) -> list[torch.Tensor]:
    """Three steps; the whole fp32 parameters after them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        inputs = torch.randn(8, 7, generator=generator)[dist.get_rank() * 4 :][:4].to(DTYPES[precision])
        engine.backward(engine(inputs).float().square().mean())
        engine.step()
    return weights(engine)


def weights(engine: Any) -> list[torch.Tensor]:
    """The whole parameters, the fp32 masters where there are some."""
    if not engine.zero_optimization():
        return [param.detach().float().clone() for param in engine.module.parameters()]
    return [safe_get_full_fp32_param(param).clone() for param in engine.module.parameters()]


def resumed(folder: Path, stage: int, precision: str, optimizer: str) -> str:
    """Largest difference of a parameter between a run and one that was resumed in its middle."""
    folder = folder / f"{stage}{precision}{optimizer}"
    whole = engine_of(stage, precision, optimizer)
    train(whole, precision)
    assert whole.save_checkpoint(str(folder), client_state={"position": 7})
    expected = train(whole, precision, seed=2)
    again = engine_of(stage, precision, optimizer)
    path, client = again.load_checkpoint(str(folder))
    assert path is not None and client["position"] == 7 and again.global_steps == 3
    if precision == "fp16":
        assert type(again.optimizer.loss_scaler).__name__ == "DynamicLossScaler"
        assert again.optimizer.loss_scaler.cur_iter == 3
    assert not list(folder.rglob("*.partial"))
    found = train(again, precision, seed=2)
    return str(max((a - b).abs().max().item() for a, b in zip(expected, found, strict=True)))


def weights_alone(folder: Path) -> str:
    """ZeRO-3 without the optimizer's states, which DeepSpeed loads past its checkpoint engine."""
    saved = engine_of(3)
    expected = train(saved)
    saved.save_checkpoint(str(folder / "alone"))
    again = engine_of(3)
    again.load_checkpoint(str(folder / "alone"), load_optimizer_states=False)
    return str(max((a - b).abs().max().item() for a, b in zip(expected, weights(again), strict=True)))


def universal(folder: Path, stage: int, optimizer: str) -> str:
    """What comes of a checkpoint that DeepSpeed's converter made."""
    folder = folder / f"universal{stage}{optimizer}"
    saved = engine_of(stage, optimizer=optimizer)
    expected = train(saved)
    saved.save_checkpoint(str(folder))
    if dist.get_rank() == 0:
        words = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
        given, made = str(folder / "global_step3"), str(folder / "universal")
        ds_to_universal.main(
            argparse.Namespace(input_folder=given, output_folder=made, inject_missing_state=True, **words)
        )
    dist.barrier()
    again = engine_of(stage, optimizer=optimizer, universal=True)
    try:
        again.load_checkpoint(str(folder), tag="universal")
    except ValueError as error:
        return f"refused: {error}"
    return str(max((a - b).abs().max().item() for a, b in zip(expected, weights(again), strict=True)))


def planted(folder: Path, stage: int, pattern: str, safe: bool, **options: Any) -> str:
    """What comes of a checkpoint of which one kind of file would run code, and whether it did."""
    folder = folder / f"planted{stage}{pattern[0]}{safe}{len(options)}"
    saved = engine_of(stage)
    train(saved)
    saved.save_checkpoint(str(folder))
    marker = folder / "marker"
    found = list(folder.rglob(f"*{pattern}"))
    assert found
    dist.barrier()
    if dist.get_rank() == 0:
        for file in found:
            file.write_bytes(torch_file(marker))
    dist.barrier()
    outcome = "loaded"
    try:
        engine_of(stage, safe=safe).load_checkpoint(str(folder), **options)
    except UserError as error:
        outcome = f"refused: {error}".replace("\n", " ")
    except Exception as error:  # whatever becomes of a state that has no such keys
        outcome = f"failed: {type(error).__name__}"
    dist.barrier()
    return f"{'the code ran' if marker.exists() else 'nothing ran'}; {outcome}"


def main() -> None:
    # fp16 is for GPUs; here it is only to make DeepSpeed write the states that it has with it.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    deepspeed.init_distributed("gloo")
    shared = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(shared)
    folder = Path(shared[0])
    cases: dict[str, Callable[[], str]] = {
        " ".join(map(str, kind)): lambda kind=kind: resumed(folder, *kind)  # type: ignore[misc]
        for kind in KINDS
    }
    cases["weights alone"] = lambda: weights_alone(folder)
    cases["its own engine"] = lambda: planted(folder, 2, "optim_states.pt", safe=False)
    cases["optimizer's file"] = lambda: planted(folder, 2, "optim_states.pt", safe=True)
    cases["model's file"] = lambda: planted(folder, 3, "model_states.pt", safe=True)
    cases["past the engine"] = lambda: planted(folder, 3, "optim_states.pt", safe=True, load_optimizer_states=False)
    cases["universal, AdamW"] = lambda: universal(folder, 2, "AdamW")
    for stage in (2, 3):
        cases[f"universal, stage {stage}"] = lambda stage=stage: universal(folder, stage, "Adan")  # type: ignore[misc]
    for name, case in cases.items():
        result = case()
        if dist.get_rank() == 0:
            print(f"CASE {name}: {result}", flush=True)
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)


if __name__ == "__main__":
    with ranks_leave_at_once():
        main()
