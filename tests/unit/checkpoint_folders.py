"""Small checkpoints, as a run of several ranks leaves them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nlp_adan.training.checkpoint.fragments import Layout, fragments_of
from nlp_adan.training.checkpoint.manifest import FileEntry, Manifest
from nlp_adan.training.checkpoint.optimizer_state import optimizer_files
from nlp_adan.training.checkpoint.run_checkpoints import partial_folder, publish
from nlp_adan.training.checkpoint.tensor_files import TensorFile, write_pieces, write_tensor_file


class Small(nn.Module):
    """Matrices and vectors, a scalar, and a parameter that never has a gradient; 71 in all."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 7, dtype=dtype)
        self.second = nn.Linear(7, 3, dtype=dtype)
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.unused = nn.Parameter(torch.ones(4, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * self.scale


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Each step on inputs of its own, the learning rate falling."""
    dtype = next(model.parameters()).dtype
    for step in steps:
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        model(inputs).float().square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()


def make_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | list[Layout] | None,
    *,
    ranks: int = 2,
    stage: int | None = None,
    more: Mapping[str, bytes] | None = None,
    weights: bool = True,
) -> Path:
    """A published checkpoint.

    optimizer: one that each of `ranks` ranks has whole, the layouts of all ranks, or None for none of our files.
    more: other files, also in the place of those made here. weights: whether the model's are written here.
    """
    partial = partial_folder(run, step)
    entries: dict[str, FileEntry] = {}
    files = [TensorFile("model.safetensors", model.state_dict(), {"format": "pt"})] if weights else []
    small = {
        "config.json": b'{"model_type": "tiny", "architectures": ["Tiny"], "dtype": "bfloat16"}',
        "tokenizer.json": b'{"version": "1.0"}',
        "trainer_state.json": b"{}",
        "scheduler.pt": _torch_file({"last_epoch": step}),
    }
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer = [fragments_of(model, optimizer)] * ranks
    for rank, layout in enumerate(optimizer or []):
        parts, description = optimizer_files(layout, rank, len(optimizer or []))
        files += parts
        small["optimizer/optimizer.json"] = json.dumps(description, allow_nan=False).encode()
    for rank in range(ranks):
        name = f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth"
        small[name] = _torch_file({"cpu": torch.arange(rank + 1)})
        files.append(TensorFile(f"memory-{rank:05}.safetensors", {"0.0": torch.full((2, 3), float(rank))}))
    for file in files:
        entries[file.path] = write_tensor_file(partial, file)
    for name, content in {**small, **(more or {})}.items():
        entries[name] = write_pieces(partial / name, [content])
    versions = {"torch": "2.13", "scipy": None}
    return publish(run, Manifest(step, ranks, stage, 12, "2026-01-01T00:00:00+00:00", versions, entries))


def _torch_file(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
