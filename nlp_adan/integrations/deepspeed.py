"""Adan under DeepSpeed: the names "Adan" and "adan" in its configuration, and ranks without a GPU.

DeepSpeed has no registration of optimizers: a name that it does not know is looked up in `torch.optim`, and ZeRO
takes the classes in a list of its own. Both are set here, when deepspeed is imported, and nowhere else.
"""

from __future__ import annotations

import os
import socket
from types import ModuleType

import torch

from nlp_adan.integrations.post_import import when_imported


def install() -> None:
    """Register Adan now or as soon as deepspeed is imported. Calling it again does nothing."""
    when_imported("deepspeed", _register)


def _register(deepspeed: ModuleType) -> None:
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    from nlp_adan.adan import Adan

    for name in ("Adan", "adan"):  # DeepSpeed lower-cases the names of its own optimizers only
        present = getattr(torch.optim, name, Adan)
        if present is not Adan:
            raise RuntimeError(
                f"torch.optim.{name} is {present.__module__}.{present.__qualname__} already, so nlp_adan.Adan cannot "
                f'answer to "type": "{name}" in a DeepSpeed configuration. Remove that other class from torch.optim.'
            )
        setattr(torch.optim, name, Adan)
    if Adan not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(Adan)
    if not torch.cuda.is_available():
        _leave_out_shared_memory_op()


def _leave_out_shared_memory_op() -> None:
    """Ranks on one CPU machine talk through gloo, without DeepSpeed's shared-memory extension.

    `init_distributed` would compile it at the first start, and a process killed meanwhile leaves a lock behind on
    which every later start waits for ever.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def single_process_environment() -> None:
    """Let plain `python script.py --deepspeed ...` run as one rank: without a launcher DeepSpeed looks for MPI."""
    if "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def init_communication() -> None:
    """Start DeepSpeed's communication on the process group that is there.

    On CPU ranks accelerate starts torch's only; ZeRO-3 then takes the world for one rank when it builds a model.
    """
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
