"""How long ranks wait for each other."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.distributed import launching

# In a process of its own: another test may have made this one a rank.
PROGRAM = """
import sys
import torch
import torch.distributed as dist
from nlp_adan.training.engine import EngineOptions

EngineOptions(output_dir=sys.argv[1], use_cpu=True, ddp_timeout=7777)
EngineOptions(output_dir=sys.argv[1], use_cpu=True)  # a second time, nothing is started
print(dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""


def test_ranks_on_cpus_wait_as_long_as_the_options_say(tmp_path: Path) -> None:
    """As for a rank 0 that prepares data for hours; accelerate does not hand the option on."""
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = launching.run([sys.executable, "-c", PROGRAM, str(tmp_path)], **rank, MASTER_PORT=str(launching.free_port()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "7777.0"
