"""docs/cluster.md: the plan that it shows is the plan, and its Slurm script asks, waits and requeues as it says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bert.dry_run import plan_of_run
from bert.options import parse_options
from nlp_adan.pretraining.plan import format_plan

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
# Runs until it is asked to stop, ends as torchrun does then; RUN_ENDS: it comes to its end, or fails, by itself.
TORCHRUN = """#!/bin/bash
mkdir -p runs/base
echo "$@" > words
touch started
for i in $(seq 200); do
    case "$RUN_ENDS" in
        well) touch runs/base/metrics.json; exit 0 ;;
        badly) exit 1 ;;
        well_when_asked) [ -f runs/base/stop ] && { touch runs/base/metrics.json; exit 0; } ;;
        *) [ -f runs/base/stop ] && { sleep 0.5; exit 1; } ;;
    esac
    sleep 0.05
done
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> requeued; fi
"""


def test_the_plan_on_the_page() -> None:
    (command,) = re.findall(r"```bash\n(.*--dry_run.*)\n```", PAGE)
    words = shlex.split(command)
    options = parse_options(words[words.index("bert") + 1 :])
    assert f"```\n{format_plan(plan_of_run(options, options.plan))}\n```" in PAGE


@pytest.mark.parametrize(("ends", "asked", "code", "requeued"), [
    ("when asked", True, 1, True),
    ("well", False, 0, False),
    ("badly", False, 1, False),  # a failure is no reason to begin again
    ("well_when_asked", True, 0, False),
])  # fmt: skip
def test_the_slurm_script(ends: str, asked: bool, code: int, requeued: bool, tmp_path: Path) -> None:
    programs = {".venv/bin/activate": "", "bin/srun": '#!/bin/bash\nexec "$@"\n', "bin/torchrun": TORCHRUN,
                "bin/scontrol": SCONTROL, "job.sh": SCRIPT}  # fmt: skip
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    slurms = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77", "RUN_ENDS": ends}
    environ = {**os.environ, **slurms, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    job = subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environ)
    try:
        if asked:
            deadline = time.monotonic() + 30
            while not (tmp_path / "started").is_file() and time.monotonic() < deadline:
                time.sleep(0.05)
            job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=30) == code
    finally:
        job.kill()
    assert (tmp_path / "requeued").is_file() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    words = (tmp_path / "words").read_text().split()
    assert words[: words.index("run_pretrain.py")] == [
        "--nnodes", "2", "--nproc_per_node", "8", "--rdzv_backend", "c10d", "--rdzv_endpoint", "node1:29500",
        "--rdzv_id", "77",
    ]  # fmt: skip
    options = parse_options(words[words.index("bert") + 1 :])
    assert options.engine.output_dir == "runs/base" and options.engine.resume == "auto"
