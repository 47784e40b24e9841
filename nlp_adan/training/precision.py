"""bfloat16 and torch.compile where they pay, when the command line says nothing about them.

They pay on GPUs. On a CPU without AMX both made the masked LM slower (bfloat16 autocast 0.7 times, torch.compile 0.8
times the tokens a second of float32, and tens of seconds to compile); on one with AMX nothing was measured, so that
the CPU's default is float32 everywhere.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

# Ampere: the first with bfloat16 matrix products, and the first that Triton's generated code is tuned for.
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Precision:
    """What to train with, and why in half a sentence."""

    bf16: bool
    torch_compile: bool
    reason: str


@dataclass(frozen=True)
class Device:
    """What the choice depends on."""

    kind: str  # torch's name of the type: cpu, cuda, ...
    bf16_supported: bool = False
    capability: tuple[int, int] | None = None  # compute capability; None where the device is no NVIDIA GPU
    has_triton: bool = False


def detect_device(use_cpu: bool = False) -> Device:
    """The accelerator of this process, or the CPU. Starts CUDA where there is one and `use_cpu` does not forbid it."""
    if use_cpu or not torch.accelerator.is_available():
        return Device("cpu")
    kind = torch.accelerator.current_accelerator().type
    if kind != "cuda":
        return Device(kind)
    return Device(
        kind,
        bf16_supported=torch.cuda.is_bf16_supported(including_emulation=False),
        capability=None if torch.version.hip else torch.cuda.get_device_capability(),
        has_triton=importlib.util.find_spec("triton") is not None,
    )


def chosen_precision(device: Device, *, shards_parameters: bool) -> Precision:
    """The default on a device.

    Args:
        device: of the run.
        shards_parameters: whether ZeRO-3 or FSDP splits them over the ranks: their hooks gather and free parameters
            around each module, which breaks a compiled graph at every one.
    """
    if device.kind != "cuda":
        return Precision(False, False, f"float32, not compiled: the fastest that is known for {device.kind}")
    bf16 = device.bf16_supported
    precision = "bfloat16" if bf16 else "float32, for the device has no bfloat16"
    if device.capability is None or device.capability < LEAST_CAPABILITY:
        return Precision(bf16, False, f"{precision}; not compiled, for the device is none of NVIDIA's since Ampere")
    if not device.has_triton:
        return Precision(bf16, False, f"{precision}; not compiled, for there is no triton")
    if shards_parameters:
        return Precision(bf16, False, f"{precision}; not compiled, for parameters are sharded")
    return Precision(bf16, True, f"{precision}, compiled")
