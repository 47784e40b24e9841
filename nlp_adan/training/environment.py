"""Where a run took place: versions, hardware, command and git state, as its folder and its report record them."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "evaluate", "accelerate", "deepspeed", "numpy", "scipy")
_OURS = "NLP_ADAN_NUM_THREADS"  # tells an OMP_NUM_THREADS of ours from the user's
JOBS = "NLP_ADAN_JOBS"  # processes of a set of runs that share the cores with this one, itself counted
PROJECT_FOLDER = Path(__file__).resolve().parents[2]


@functools.cache
def package_versions() -> dict[str, str | None]:
    """Of the packages that matter to a run; None for those that are not installed."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def environment() -> dict[str, Any]:
    """Versions, hardware, command line and git state as plain JSON values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "num_cpu_cores": num_cpu_cores(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": dict(package_versions()),
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether tracked files differ from it; None where the project is not in a git checkout."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(PROJECT_FOLDER), *words], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != PROJECT_FOLDER:
            return None  # installed somewhere inside another project's checkout
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def num_cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cpu_cores() -> None:
    """Give each rank and run on this machine its share of the cores as threads, unless the user set OMP_NUM_THREADS.

    Left alone, torchrun sets 1 and idles cores, and accelerate gives every rank all cores, which then fight over them.
    """
    chosen_by_user = "OMP_NUM_THREADS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if chosen_by_user and _OURS not in os.environ:
        return
    num_local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")
    num_threads = max(1, num_cpu_cores() // (num_local_ranks * int(os.environ.get(JOBS, "1"))))
    os.environ["OMP_NUM_THREADS"] = os.environ[_OURS] = str(num_threads)  # read by accelerate
    torch.set_num_threads(num_threads)


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    """Leave the environment as it was: parsing sets variables for one process, and every run is another one.

    Under a launcher the runs are in this process.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        if int(before.get("WORLD_SIZE", "1")) == 1:
            os.environ.clear()
            os.environ.update(before)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
