"""The rate of a training step: its median time, tokens and FLOPs a second, the share of an accelerator's peak."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from nlp_adan.training.hardware import peak_flops

WARM_UP_STEPS, TIMED_STEPS, REPEATS = 10, 10, 5


def step_rate(
    step: Callable[[int], None], device: torch.device, tokens: int, flops: float, timed_steps: int, cpu_warm_up: int
) -> dict[str, Any]:
    """Time a step that is given its number: `REPEATS` times so many of them, after a warm-up.

    tokens, flops: of a step; cpu_warm_up: steps of the warm-up where there is no GPU.
    """

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for number in range(WARM_UP_STEPS if device.type == "cuda" else cpu_warm_up):
        step(number)
    seconds = []
    for _ in range(REPEATS):
        synchronize()
        begin = time.perf_counter()
        for number in range(timed_steps):
            step(number)
        synchronize()
        seconds.append((time.perf_counter() - begin) / timed_steps)
    median = statistics.median(seconds)
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return {
        "milliseconds": median * 1e3,
        "all_milliseconds": [value * 1e3 for value in seconds],
        "tokens_per_second": tokens / median,
        "flops_per_second": flops / median,
        "mfu": None if peak is None else flops / median / peak,
        "memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }
