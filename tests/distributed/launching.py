"""Starting programs of two ranks on CPU from a test."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# A program of two ranks takes some 10 s on cores of its own; 155 s were measured on two that others used, too.
TIMEOUT_SECONDS = 900
ENDING_SECONDS = 30  # a launcher has to end its ranks
PROJECT = Path(__file__).resolve().parents[2]
# Below the ports that a system gives away by itself: nobody takes one between the choice and its use.
PORTS = range(20_000, 32_000)
# By address: a machine's own name may have none, or one that takes long to find.
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc_per_node", "2",
)  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a program on CPU, one thread a rank, offline, with the project importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WORLD_SIZE", "RANK", "LOCAL_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    if sys.platform == "linux":
        settings["GLOO_SOCKET_IFNAME"] = "lo"  # or gloo looks for the machine's name
    return {**kept, **settings, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def run(words: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run `words` in the project's folder. What does not end is ended, with its ranks, and its last words are told."""
    with subprocess.Popen(
        words, cwd=PROJECT, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            told, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        except BaseException as error:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=ENDING_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            told, errors = process.communicate()
            last = f"{told[-2000:]}\n{errors[-4000:]}"
            raise AssertionError(f"{words} did not end within {TIMEOUT_SECONDS} s:\n{last}") from error
    return subprocess.CompletedProcess(words, process.returncode, told, errors)


def torchrun(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m NAME`, with its words on two ranks of torch's launcher."""
    return run([*TORCHRUN, *words], **more)


def deepspeed(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or `--module NAME`, with its words on two ranks of DeepSpeed's launcher."""
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    return run([launcher, "--quiet", "--num_gpus", "2", "--master_port", str(free_port()), *words], **more)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    for port in random.SystemRandom().sample(PORTS, 100):  # a test may have seeded the other generator
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port among 100 of {PORTS}")


def cases(module: str) -> dict[str, str]:
    """What a worker on two ranks printed as `CASE name: result`."""
    done = deepspeed("--module", module)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("CASE ") for line in done.stdout.splitlines() if line.startswith("CASE ")]
    return {name: result for name, _, result in (line.partition(": ") for line in lines)}


def split_cases(
    module: str, one_rank: Sequence[str], two_ranks: Sequence[str], folder: Path
) -> dict[str, dict[str, Any]]:
    """What a worker found in the cases that it was given, by their names; those of two ranks as `2 CASE`."""
    folders = {"": folder / "one", "2 ": folder / "two"}
    for place in folders.values():
        place.mkdir()
    one = run([sys.executable, "-m", module, str(folders[""]), *one_rank])
    assert one.returncode == 0, one.stderr
    two = deepspeed("--module", module, str(folders["2 "]), *two_ranks)
    assert two.returncode == 0, two.stderr
    return {
        f"{prefix}{path.stem}": torch.load(path, weights_only=True)
        for prefix, place in folders.items()
        for path in place.glob("*.pt")
    }
