"""A Hugging Face script with Adan, resumed by `--resume_from_checkpoint`, ends with the weights of one that was not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.distributed import launching

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
SCRIPT = "examples/hf_language_model.py"


def run(sharded: bool, folder: Path, *more: str) -> dict[str, torch.Tensor]:
    """The model after ten steps, with dropout, of which the fifth is kept."""
    words = [
        SCRIPT, "--optim", "adan", "--learning_rate", "5e-3", "--weight_decay", "0.02", "--warmup_steps", "3",
        "--max_steps", "10", "--save_steps", "5", "--per_device_train_batch_size", "4", "--report_to", "none",
        "--disable_tqdm", "true", "--use_cpu", "--output_dir", str(folder), *more,
    ]  # fmt: skip
    if sharded:
        done = launching.deepspeed("--module", "nlp_adan", *words, "--deepspeed", "ds_configs/zero2.json")
    else:
        done = launching.run([sys.executable, "-m", "nlp_adan", *words])
    assert done.returncode == 0, done.stderr
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.parametrize("sharded", [False, True], ids=["alone", "two ranks under ZeRO-2"])
def test_bit_exact(sharded: bool, tmp_path: Path) -> None:
    whole = run(sharded, tmp_path / "whole")
    checkpoint = tmp_path / "resumed" / "checkpoint-5"
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", checkpoint)
    written = (checkpoint / "trainer_state.json").stat().st_mtime_ns
    found = run(sharded, tmp_path / "resumed", "--resume_from_checkpoint", str(checkpoint))
    assert (checkpoint / "trainer_state.json").stat().st_mtime_ns == written, "it began anew"
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
