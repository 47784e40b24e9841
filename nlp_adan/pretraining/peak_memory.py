"""The most memory that a process has held, for its run's final figures."""

from __future__ import annotations

import sys

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
