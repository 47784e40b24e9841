"""The back end for NVIDIA GPUs: launches the Triton kernels of `triton_kernels`. Never waits for the device."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from nlp_adan.kernels.operands import Operands
from nlp_adan.update import Coefficients

CHUNK = 8192  # elements of one program
BLOCK = 1024  # elements at a time: 8 a thread, two 16-byte reads of each float32 tensor
WARPS = 4
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def available() -> bool:
    """Whether triton is installed; it comes with torch's builds for NVIDIA GPUs on Linux."""
    return importlib.util.find_spec("triton") is not None


def takes(operands: Operands) -> bool:
    """Whether the kernels know these dtypes and this layout; others go the eager way."""
    known = {operands.param.dtype, operands.grad.dtype} <= set(DTYPES)
    return known and operands.exp_avg.dtype in (torch.float32, torch.bfloat16) and operands.same_layout()


def step(batch: list[Operands], c: Coefficients, grad_factor: Tensor | None, found_inf: Tensor | None) -> None:
    """One update of each parameter of `batch`; arguments as those of `eager.step`.

    Many parameters go in one launch by a table of addresses; a single one, and every one while a CUDA graph is being
    captured (which must not copy a table to the device), in a launch of its own.
    """
    device = batch[0].param.device
    rows = c.packed(torch.float32, device) if any(isinstance(value, Tensor) for value in c.values()) else None
    numbers = [0.0 if rows is not None else float(value) for value in c.values()]
    shared = {
        "grad_factor": grad_factor,
        "found_inf": found_inf,
        "FROM_ROW": rows is not None,
        "HAS_FACTOR": grad_factor is not None,
        "HAS_FOUND_INF": found_inf is not None,
        "HAS_LOW_BITS": batch[0].low_bits is not None,
        "CHUNK": CHUNK,
        "BLOCK": BLOCK,
        "num_warps": WARPS,
    }
    on_cuda = device.type == "cuda"  # the interpreter takes CPU tensors
    with torch.cuda.device(device) if on_cuda else contextlib.nullcontext():
        if len(batch) == 1 or (on_cuda and torch.cuda.is_current_stream_capturing()):
            for index, operands in enumerate(batch):
                row = None if rows is None else rows[index if len(rows) > 1 else 0]
                _launch_one(operands, row, numbers, shared)
        else:
            _launch_many(batch, rows, numbers, shared)


def _launch_one(operands: Operands, row: Tensor | None, numbers: list[Any], shared: dict[str, Any]) -> None:
    from nlp_adan.kernels.triton_kernels import one_tensor

    numel = operands.param.numel()
    factor, found_inf = shared["grad_factor"], shared["found_inf"]
    options = {name: value for name, value in shared.items() if name not in ("grad_factor", "found_inf")}
    one_tensor[(-(-numel // CHUNK),)](*operands, numel, row, factor, found_inf, *numbers, **options)


def _launch_many(batch: list[Operands], rows: Tensor | None, numbers: list[Any], shared: dict[str, Any]) -> None:
    import triton.language as tl

    from nlp_adan.kernels.triton_kernels import many_tensors

    types = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    first, device = batch[0], batch[0].param.device
    addresses = [[0 if tensor is None else tensor.data_ptr() for tensor in operands] for operands in batch]
    aligned = all(address % 16 == 0 for row in addresses for address in row)
    numels = tuple(operands.param.numel() for operands in batch)
    table = _table(tuple((*row, numel) for row, numel in zip(addresses, numels, strict=True)), device)
    chunk_tensor, chunk_start = _chunks(numels, device)
    if rows is not None and len(rows) == 1:
        rows = rows.expand(len(batch), -1).contiguous()
    factor, found_inf = shared["grad_factor"], shared["found_inf"]
    options = {name: value for name, value in shared.items() if name not in ("grad_factor", "found_inf")}
    many_tensors[(len(chunk_tensor),)](
        table, chunk_tensor, chunk_start, rows, factor, found_inf, *numbers,
        PARAM=types[first.param.dtype], GRAD=types[first.grad.dtype], STATE=types[first.exp_avg.dtype],
        ALIGNMENT=16 if aligned else 2, **options,
    )  # fmt: skip


# Gradients mostly come back to the same addresses: the table is then on the device already.
@functools.lru_cache(maxsize=64)
def _table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    return _to_device(torch.tensor(rows, dtype=torch.int64), device)


@functools.lru_cache(maxsize=64)
def _chunks(numels: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """For each program the tensor that it works on, int32, and its first element there, int64."""
    counts = torch.tensor([-(-numel // CHUNK) for numel in numels])
    tensors = torch.repeat_interleave(torch.arange(len(numels)), counts)
    first_chunks = counts.cumsum(0) - counts
    starts = (torch.arange(len(tensors)) - first_chunks[tensors]) * CHUNK
    return _to_device(tensors.int(), device), _to_device(starts, device)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy without waiting for what the device has still to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
