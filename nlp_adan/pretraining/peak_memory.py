"""The memory that a process has held, for its run's final figures."""

from __future__ import annotations

import sys
from typing import Any

import torch

DEVICE, HOST = "peak_device_memory_bytes", "peak_host_memory_bytes"


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes since the process began, by name in metrics.json: of a GPU what torch has allocated, and of the host.

    A figure that the system does not give is left out.
    """
    found = {}
    if device.type == "cuda":
        found[DEVICE] = int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return found
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found[HOST] = largest if sys.platform == "darwin" else 1024 * largest  # kibibytes on Linux
    return found


def optimizer_state_bytes(optimizer: Any) -> int:
    """Bytes of the tensors that an optimizer keeps of its parameters; on a rank that holds a shard, of that.

    optimizer: torch's, or one that DeepSpeed or accelerate has wrapped. What a wrapper keeps itself, such as
    DeepSpeed's float32 weights, does not count.
    """
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
