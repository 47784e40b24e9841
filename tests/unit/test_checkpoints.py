"""Which checkpoints a run can go on from, on how many ranks, and which it removes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoints import check_start, checkpoint_step, is_whole, remove_later

TRAINERS = ("model.safetensors", "optimizer.pt", "scheduler.pt")
# As DeepSpeed 0.19.8 names them on two ranks.
ZERO_2 = (
    "scheduler.pt", "global_step7/mp_rank_00_model_states.pt",
    "global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt", "global_step7/zero_pp_rank_1_mp_rank_00_optim_states.pt",
)  # fmt: skip
ZERO_3_BF16 = (
    "scheduler.pt",
    "global_step7/zero_pp_rank_0_mp_rank_00_model_states.pt",
    "global_step7/zero_pp_rank_1_mp_rank_00_model_states.pt",
    "global_step7/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "global_step7/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
)


def make_checkpoint(
    folder: Path, step: int = 7, files: tuple[str, ...] = TRAINERS, samples_per_step: int | None = None
) -> Path:
    """The files of a checkpoint, each with some content."""
    path = folder / f"checkpoint-{step}"
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"something")
    if any(name.startswith("global_step7") for name in files):
        (path / "latest").write_text("global_step7")
    path.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"global_step": step, "stateful_callbacks": {}}
    if samples_per_step is not None:
        state["stateful_callbacks"]["RunControl"] = {"attributes": {"samples_per_step": samples_per_step}}
    (path / "trainer_state.json").write_text(json.dumps(state))
    return path


@pytest.mark.parametrize("files", [TRAINERS, ZERO_2, ZERO_3_BF16])
def test_without_one_of_its_files_it_is_not_whole(files: tuple[str, ...], tmp_path: Path) -> None:
    assert is_whole(make_checkpoint(tmp_path, files=files)) and checkpoint_step(tmp_path / "checkpoint-7") == 7
    for number, missing in enumerate((*files, "trainer_state.json")):
        if "rank_1" in missing or "_rank_0_mp_rank_00_model" in missing:
            continue  # of the last rank: nothing says how many there were; of stage 3: another rank's is there
        path = make_checkpoint(tmp_path / str(number), files=files)
        (path / missing).unlink()
        assert not is_whole(path), missing


def test_shards_are_all_there_or_it_is_not_whole(tmp_path: Path) -> None:
    shards = ("model-1.safetensors", "model-2.safetensors")
    path = make_checkpoint(tmp_path, files=("optimizer.pt", "scheduler.pt", *shards))
    assert not is_whole(path)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    assert is_whole(path)
    (path / shards[1]).unlink()
    assert not is_whole(path)


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    (path / "optimizer.pt").write_bytes(b"")
    assert not is_whole(path)
    (path / "optimizer.pt").unlink()
    (path / "optimizer_0").mkdir()  # of FSDP, a file a rank
    assert is_whole(path)
    (path / "trainer_state.json").write_text('{"global_st')
    assert not is_whole(path)


@pytest.mark.parametrize("files", [ZERO_2, ZERO_3_BF16])
def test_zero_goes_on_with_as_many_ranks_as_wrote_it(files: tuple[str, ...], tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, files=files)
    check_start(path, world_size=2, samples_per_step=8)
    for world_size in (1, 4):
        told = rf"in 2 share\(s\), .* this start has {world_size} rank\(s\): start 2, as `--num_gpus 2`"
        with pytest.raises(UserError, match=told):
            check_start(path, world_size=world_size, samples_per_step=8)


def test_without_zero_any_number_of_ranks_goes_on_with_as_many_sequences(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, samples_per_step=8)
    for world_size in (1, 2, 8):
        check_start(path, world_size, samples_per_step=8)
    with pytest.raises(UserError, match="took 8 sequences a step and would now take 16; `--global_batch_size 8`"):
        check_start(path, 1, samples_per_step=16)


def test_later_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-15").mkdir()  # killed while it was written
    (tmp_path / "checkpoint-best").mkdir()  # the user's
    left = make_checkpoint(tmp_path, 20)
    left.rename(tmp_path / ".removed-checkpoint-20")  # killed while it was removed
    assert remove_later(tmp_path, 5) == ["checkpoint-10", "checkpoint-15", "checkpoint-100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-best"]
