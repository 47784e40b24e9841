"""What starts programs from a test: one that hangs is ended, with all that it started, and told of."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.distributed import launching

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=open(sys.argv[1], "w"), flush=True)
print("waiting", file=sys.stderr, flush=True)
time.sleep(600)
"""


def test_a_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    monkeypatch.setattr(launching, "ENDING_SECONDS", 0.1)
    for seconds in (2, 20, 200):  # a machine that is busy takes longer to start it
        monkeypatch.setattr(launching, "TIMEOUT_SECONDS", seconds)
        with pytest.raises(AssertionError, match=rf"did not end within {seconds} s") as told:
            launching.run([sys.executable, "-c", HANGS, str(pid_file)])
        if "waiting" in str(told.value):
            break
    pid = int(pid_file.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return  # killed, and nobody has asked how it ended
        time.sleep(0.1)
    pytest.fail("its child is alive")


def test_ports_are_free() -> None:
    assert all(launching.free_port() in launching.PORTS for _ in range(3))


LEAVES = """
import atexit, contextlib, os, sys
from pathlib import Path
from nlp_adan.errors import ranks_leave_at_once

def main():
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    rank = os.environ["RANK"]
    atexit.register(lambda: Path(sys.argv[2], rank).write_text("registered at exit"))
    for _ in range(50):  # gloo's threads are at work on them when the process exits
        dist.all_reduce(torch.ones(200_000), async_op=True)
    print(f"said by {rank}")
    sys.exit(int(sys.argv[3]))

with contextlib.nullcontext() if sys.argv[1] == "finalizes" else ranks_leave_at_once():
    main()
"""


@pytest.mark.parametrize("exit_code", [0, 75])
def test_ranks_leave_at_once(tmp_path: Path, exit_code: int) -> None:
    """Without it, such a rank is ended by SIGABRT most of the times; what it said and registered is there."""
    program = tmp_path / "leaves.py"
    program.write_text(LEAVES, encoding="utf-8")
    done = launching.torchrun(str(program), "leaves", str(tmp_path), str(exit_code))
    assert "Signal 6" not in done.stderr
    assert (done.returncode == 0) == (exit_code == 0), done.stderr
    assert exit_code == 0 or "exitcode  : 75" in done.stderr
    for rank in "01":
        assert f"said by {rank}" in done.stdout
        assert (tmp_path / rank).read_text() == "registered at exit"
