"""Two Hugging Face scripts that know nothing of Adan train with it, alone, on two ranks, and under ZeRO-2."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nlp_adan.state_formats import STATE_NAMES
from tests.distributed import launching
from tests.smoke.both_scripts import SCRIPTS

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
BOTH = "tests/smoke/both_scripts.py"
NUM_STEPS = 12
BETAS = (0.9, 0.9, 0.999)
ZERO2 = ("--deepspeed", "ds_configs/zero2.json")


def words(script: str, folder: Path, *more: str) -> list[str]:
    """A script and its options for a few steps."""
    return [
        script, "--optim", "adan", "--learning_rate", "5e-3",
        "--optim_args", ",".join(f"beta{index}={beta}" for index, beta in enumerate(BETAS, 1)),
        "--max_steps", str(NUM_STEPS), "--per_device_train_batch_size", "4", "--logging_steps", "3",
        "--save_steps", str(NUM_STEPS), "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", *more,
        "--output_dir", str(folder),
    ]  # fmt: skip


def losses(folder: Path) -> list[float]:
    """The logged losses of a run that came to its end."""
    assert (folder / "model.safetensors").is_file()
    state = json.loads((folder / f"checkpoint-{NUM_STEPS}" / "trainer_state.json").read_text())
    assert state["global_step"] == NUM_STEPS
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def check(folder: Path, num_ranks: int, sharded: bool) -> None:
    """The run had so many ranks, its optimizer was Adan with the betas asked for, and it learned."""
    checkpoint = folder / f"checkpoint-{NUM_STEPS}"
    assert len(list(checkpoint.glob("rng_state*.pth"))) == num_ranks
    if sharded:
        files = sorted(checkpoint.glob(f"global_step{NUM_STEPS}/*_optim_states.pt"))
        assert len(files) == num_ranks
        saved = [torch.load(file, weights_only=False)["optimizer_state_dict"] for file in files]
        optimizers = [state["base_optimizer_state"] for state in saved]
    else:
        optimizers = [torch.load(checkpoint / "optimizer.pt", weights_only=True)]
    for optimizer in optimizers:
        assert all(set(STATE_NAMES) <= set(state) for state in optimizer["state"].values())
        assert {tuple(group["betas"]) for group in optimizer["param_groups"]} == {BETAS}
    first, *_, last = losses(folder)
    assert last < 0.95 * first


def test_alone(tmp_path: Path) -> None:
    """Without a launcher, and so under ZeRO-2 too; side by side, since each run is one process on one core."""
    script, folder = SCRIPTS[0], tmp_path / "zero2"
    runs = [words(BOTH, tmp_path), words(f"examples/{script}.py", folder, *ZERO2)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = list(pool.map(launching.run, [[sys.executable, "-m", "nlp_adan", *run] for run in runs]))
    assert not any(run.returncode for run in done), "\n".join(run.stderr for run in done)
    for name in SCRIPTS:
        check(tmp_path / name, num_ranks=1, sharded=False)
    check(folder, num_ranks=1, sharded=True)
    assert losses(folder) == pytest.approx(losses(tmp_path / script), rel=1e-5)


def test_two_ranks(tmp_path: Path) -> None:
    """Under torchrun, and under DeepSpeed's own launcher, which puts a word of its own before the script's name."""
    plain, sharded = tmp_path / "plain", tmp_path / "sharded"
    succeed(launching.torchrun("-m", "nlp_adan", *words(BOTH, plain)))
    succeed(launching.deepspeed("--module", "nlp_adan", *words(BOTH, sharded, *ZERO2)))
    for script in SCRIPTS:
        check(plain / script, num_ranks=2, sharded=False)
        check(sharded / script, num_ranks=2, sharded=True)
        assert losses(sharded / script) == pytest.approx(losses(plain / script), rel=1e-5)


def succeed(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0, run.stderr
