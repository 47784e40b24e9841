"""Starting programs of two ranks on CPU from a test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

TIMEOUT_SECONDS = 300
PROJECT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a program on CPU, one thread a rank, offline, with the project importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WORLD_SIZE", "RANK", "LOCAL_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"PATH": path, "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return {**kept, **settings, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def run(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run `words` in the project's folder."""
    return subprocess.run(
        words, cwd=PROJECT, env=environment(**more), capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )


def deepspeed(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or `--module NAME`, with its words on two ranks of DeepSpeed's launcher."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    return run([launcher, "--quiet", "--num_gpus", "2", "--master_port", str(port), *words], **more)


def cases(module: str) -> dict[str, str]:
    """What a worker on two ranks printed as `CASE name: result`."""
    done = deepspeed("--module", module)
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("CASE ") for line in done.stdout.splitlines() if line.startswith("CASE ")]
    return {name: result for name, _, result in (line.partition(": ") for line in lines)}
