"""Checkpoints of a run: which are whole, what wrote them, and which are later than the one that a run goes on from.

A folder checkpoint-N is the Trainer's: the model's weights, optimizer.pt and scheduler.pt, and, written last,
trainer_state.json. Under DeepSpeed weights and optimizer are in a folder global_stepN, a file a rank under ZeRO.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from nlp_adan.errors import UserError

STATE = "trainer_state.json"
# As FSDP writes them: one file, or a folder with a file a rank.
FSDP_WEIGHTS = "pytorch_model_fsdp*"
FSDP_OPTIMIZERS = ("optimizer.bin", "optimizer_*")
_SHARE = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")  # bf16_zero_... too
_REMOVED = ".removed-"  # before a checkpoint's name, while it is removed


def checkpoint_step(checkpoint: str | Path) -> int:
    """The optimizer step that a checkpoint was written after."""
    return int(_state(checkpoint)["global_step"])


def is_whole(checkpoint: Path) -> bool:
    """Whether a run can go on from it: written to its end, with weights, optimizer and schedule."""
    try:
        if checkpoint_step(checkpoint) <= 0 or not _holds(checkpoint / "scheduler.pt"):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if (folder := _deepspeed_folder(checkpoint)) is not None:
        shares = _ranks_of_shares(folder)
        return any(folder.glob("*model_states.pt")) and shares == set(range(len(shares)))
    return _has_weights(checkpoint) and (
        _holds(checkpoint / "optimizer.pt") or any(any(checkpoint.glob(name)) for name in FSDP_OPTIMIZERS)
    )


def check_start(checkpoint: str | Path, world_size: int, samples_per_step: int) -> None:
    """Look whether a start can go on from a checkpoint.

    Args:
        world_size: ranks of the start.
        samples_per_step: sequences of one of its optimizer steps, over all ranks.

    Raises: UserError where ZeRO divided the optimizer's state among another number of ranks, and where a step had
        another number of sequences.
    """
    folder = _deepspeed_folder(Path(checkpoint))
    shares = len(_ranks_of_shares(folder)) if folder is not None else 0
    if shares not in (0, world_size):
        raise UserError(
            f"--resume: {str(checkpoint)!r} holds the optimizer's state in {shares} share(s), one of each rank under "
            f"ZeRO, and this start has {world_size} rank(s): start {shares}, as `--num_gpus {shares}` of deepspeed or "
            f"`--nproc_per_node {shares}` of torchrun do on one machine (without DeepSpeed, any number can go on)"
        )
    kept = _state(checkpoint).get("stateful_callbacks", {}).get("RunControl", {}).get("attributes", {})
    before = kept.get("samples_per_step", samples_per_step)
    if before != samples_per_step:
        raise UserError(
            f"--resume: the run took {before} sequences a step and would now take {samples_per_step}; "
            f"`--global_batch_size {before}` keeps its batches on any number of ranks"
        )


def remove_later(folder: Path, step: int) -> list[str]:
    """Remove a run's checkpoints of later steps: `--resume auto` would take one of them the next time.

    Renamed first, because a folder that is half removed could be taken for a checkpoint. Returns their names.
    """
    for path in folder.glob(f"{_REMOVED}checkpoint-*"):  # of a start that was killed in here
        shutil.rmtree(path)
    later = sorted((path for path in folder.glob("checkpoint-*") if _named_step(path) > step), key=_named_step)
    for path in later:
        shutil.rmtree(path.rename(path.with_name(_REMOVED + path.name)))
    return [path.name for path in later]


def _named_step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _state(checkpoint: str | Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
    return state


def _holds(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _has_weights(checkpoint: Path) -> bool:
    if any(_holds(checkpoint / name) for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME)):
        return True
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if (checkpoint / name).is_file():
            try:
                index = json.loads((checkpoint / name).read_text(encoding="utf-8"))
                return all(_holds(checkpoint / shard) for shard in set(index["weight_map"].values()))
            except (ValueError, KeyError):
                return False
    return any(checkpoint.glob(FSDP_WEIGHTS))


def _deepspeed_folder(checkpoint: Path) -> Path | None:
    """The folder that DeepSpeed's file `latest` names; None where another engine wrote the checkpoint."""
    try:
        tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return checkpoint / tag


def _ranks_of_shares(folder: Path) -> set[int]:
    """The ranks whose share of the optimizer's state a DeepSpeed folder holds; none where it is not divided."""
    found = (_SHARE.search(path.name) for path in folder.glob("*_optim_states.pt"))
    return {int(match[1]) for match in found if match}
