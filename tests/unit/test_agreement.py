"""How long ranks wait for each other."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nlp_adan.training.engine import EngineOptions
from tests.distributed.launching import free_port


def test_ranks_on_cpus_wait_as_long_as_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a rank 0 that prepares data for hours; accelerate does not hand the option on."""
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**launched, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    try:
        EngineOptions(output_dir=str(tmp_path), use_cpu=True, ddp_timeout=7777)
        backend = dist.group.WORLD._get_backend(torch.device("cpu"))
        assert backend.options._timeout == datetime.timedelta(seconds=7777)
        EngineOptions(output_dir=str(tmp_path), use_cpu=True)  # a second time, nothing is started
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
