"""What the saving engine does with a checkpoint of another start, apart from a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer

from nlp_adan.errors import UserError
from nlp_adan.training.resuming import check_fsdp
from nlp_adan.training.saving import SavingEngine
from tests.checkpoints import make_checkpoint


def engine(rank: int, world_size: int, step: int) -> Any:
    """One that has not been set up."""
    made: Any = object.__new__(SavingEngine)
    made.args = SimpleNamespace(seed=42, process_index=rank, world_size=world_size)
    made.state = SimpleNamespace(global_step=step)
    return made


@pytest.mark.parametrize(
    ("ranks", "states", "draws"),
    [
        ((2, 2), ("rng_state_0.pth", "rng_state_1.pth"), set()),
        ((1, 1), ("rng_state.pth",), set()),
        ((1, 2), ("rng_state.pth",), {0, 1}),
        ((3, 3), ("rng_state_0.pth",), {1, 2}),  # as `reshard` leaves it
    ],
)
def test_ranks_without_a_random_state_of_their_own_draw_one(
    ranks: tuple[int, int], states: tuple[str, ...], draws: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each another one at each step; the Trainer would go on with that of the run's first step."""
    loaded: list[int] = []
    monkeypatch.setattr(Trainer, "_load_rng_state", lambda self, checkpoint: loaded.append(self.args.process_index))
    before, now = ranks
    seeds = set()
    for step in (5, 10):
        path = make_checkpoint(tmp_path, step, files=dict.fromkeys(states, b""), world_size=before)
        for rank in range(now):
            torch.manual_seed(42 + rank)
            engine(rank, now, step)._load_rng_state(str(path))
            if rank in draws:
                seeds.add(torch.initial_seed())
    assert set(loaded) == set(range(now)) - draws
    assert len(seeds) == 2 * len(draws) and not seeds & {42, 43, 44}


def test_fsdps_files_are_for_fsdp(tmp_path: Path) -> None:
    ours = make_checkpoint(tmp_path / "ours", 5, files={"optimizer/optimizer.json": b"{}"})
    theirs = make_checkpoint(tmp_path / "theirs", 5, files={"pytorch_model_fsdp.bin": b"", "optimizer.bin": b""})
    check_fsdp(ours, by_fsdp=False)
    check_fsdp(theirs, by_fsdp=True)
    with pytest.raises(UserError, match=r"checkpoint-5 was written without FSDP, .*go on without it"):
        check_fsdp(ours, by_fsdp=True)
    made = engine(0, 1, 0)
    made.accelerator = SimpleNamespace(state=SimpleNamespace())
    made.is_fsdp_enabled = False
    with pytest.raises(UserError, match=r"checkpoint-5 was written under FSDP, .*go on under it"):
        made._load_from_checkpoint(str(theirs))
