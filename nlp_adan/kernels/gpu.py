"""The back end for NVIDIA GPUs: launches the Triton kernels of `triton_kernels`. Never waits for the device."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor

from nlp_adan.kernels import trial
from nlp_adan.kernels.operands import STATE_DTYPES, Operands
from nlp_adan.update import Coefficients

CHUNK = 8192  # elements of one program
BLOCK = 1024  # elements at a time: 8 a thread, two 16-byte reads of each float32 tensor
WARPS = 4
ROW_STRIDE = 16  # as in triton_kernels, which cannot be imported where triton is missing
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def available(device: torch.device) -> bool:
    """Whether triton is installed and works on the device; it warns where it is there and does not.

    Triton compiles a part of itself with the machine's C compiler, which not every image has.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        trial.check(lambda batch, c: step(batch, c, None, None), device)
    except Exception as error:
        warnings.warn(
            f"nlp_adan.Adan runs on {device} without its Triton step, because a trial of it failed: {error}. "
            "Mend that, or pass foreach=True to do without it in silence.",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def takes(operands: Operands) -> bool:
    """Whether the kernels know these dtypes and this layout; others go the eager way."""
    p, g, m, v, n, h, _ = operands
    known = p.dtype in DTYPES and g.dtype in DTYPES and m.dtype in STATE_DTYPES
    return known and m.dtype == v.dtype == h.dtype and n.dtype == torch.float32 and operands.same_layout()


def step(batch: list[Operands], c: Coefficients, grad_factor: Tensor | None, found_inf: Tensor | None) -> None:
    """One update of each parameter of `batch`, in one launch; arguments as those of `eager.step`."""
    if len(batch) == 1:
        capturable_step(batch, c, grad_factor, found_inf)
        return
    device = batch[0].param.device
    with _on(device):
        rows = _rows(c, device)
        _launch_many(batch, rows, _arguments(batch, c, rows, grad_factor, found_inf))


def capturable_step(
    batch: list[Operands], c: Coefficients, grad_factor: Tensor | None, found_inf: Tensor | None
) -> None:
    """`step` in a launch for each parameter: nothing is copied to the device, so that a CUDA graph can capture it."""
    from nlp_adan.kernels.triton_kernels import one_tensor

    device = batch[0].param.device
    with _on(device):
        rows = _rows(c, device)
        arguments = _arguments(batch, c, rows, grad_factor, found_inf)
        for index, operands in enumerate(batch):
            row = None if rows is None else rows[index if len(rows) > 1 else 0]
            numel = operands.param.numel()
            one_tensor[(-(-numel // CHUNK),)](*operands, numel=numel, row=row, **arguments)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The device to launch on; the interpreter takes CPU tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _rows(c: Coefficients, device: torch.device) -> Tensor | None:
    """The coefficients as rows on the device where they differ between parameters; None where they are numbers."""
    if not any(isinstance(value, Tensor) for value in c.values()):
        return None
    rows = c.packed(torch.float32, device)
    padded = torch.zeros(len(rows), ROW_STRIDE, dtype=rows.dtype, device=device)
    padded[:, : rows.shape[1]] = rows
    return padded


def _arguments(
    batch: list[Operands], c: Coefficients, rows: Tensor | None, grad_factor: Tensor | None, found_inf: Tensor | None
) -> dict[str, Any]:
    """What both kernels take, by name; the coefficients have the names of their fields, and are 0 beside rows."""
    return {
        **{name: float(value) if rows is None else 0.0 for name, value in vars(c).items()},
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


def _launch_many(batch: list[Operands], rows: Tensor | None, arguments: dict[str, Any]) -> None:
    import triton.language as tl

    from nlp_adan.kernels.triton_kernels import many_tensors

    types = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    first, device = batch[0], batch[0].param.device
    addresses = [operands.addresses() for operands in batch]
    aligned = all(address % 16 == 0 for row in addresses for address in row)
    numels = tuple(operands.param.numel() for operands in batch)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    table = _table(tuple((*row, numel) for row, numel in zip(addresses, numels, strict=True)), device, stream)
    chunk_tensor, chunk_start = _chunks(numels, device, stream)
    if rows is not None and len(rows) == 1:
        rows = rows.expand(len(batch), -1).contiguous()
    many_tensors[(len(chunk_tensor),)](
        table, chunk_tensor, chunk_start, rows, **arguments,
        PARAM=types[first.param.dtype], GRAD=types[first.grad.dtype], STATE=types[first.exp_avg.dtype],
        ALIGNMENT=16 if aligned else 2,
    )  # fmt: skip


# Gradients mostly come back to the same addresses: the table is then on the device already. A table belongs to the
# stream that it was made on, so that neither its copy nor its end can overtake a kernel.
@functools.lru_cache(maxsize=64)
def _table(rows: tuple[tuple[int, ...], ...], device: torch.device, stream: int) -> Tensor:
    return _to_device(torch.tensor(rows, dtype=torch.int64, device="cpu"), device)


@functools.lru_cache(maxsize=64)
def _chunks(numels: tuple[int, ...], device: torch.device, stream: int) -> tuple[Tensor, Tensor]:
    """For each program the tensor that it works on, int32, and its first element there, int64."""
    counts = torch.tensor([-(-numel // CHUNK) for numel in numels], device="cpu")
    tensors = torch.repeat_interleave(torch.arange(len(numels), device="cpu"), counts)
    first_chunks = counts.cumsum(0) - counts
    starts = (torch.arange(len(tensors), device="cpu") - first_chunks[tensors]) * CHUNK
    return _to_device(tensors.int(), device), _to_device(starts, device)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy without waiting for what the device has still to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
