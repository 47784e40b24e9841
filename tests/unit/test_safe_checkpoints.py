"""DeepSpeed's checkpoints through `use_safe_checkpoints`: files whole or not there, loaded without running anything."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nlp_adan.errors import UserError
from nlp_adan.integrations import safe_checkpoints
from nlp_adan.integrations.safe_checkpoints import (
    deepspeed_globals,
    read_state,
    safe_checkpoint_engine,
    use_safe_checkpoints,
    write_state,
)
from tests.distributed import launching
from tests.unit.malicious_files import CONTENTS, Malice, torch_file


class Position:
    """Something of a user's own that is no plain value."""


@pytest.fixture
def state() -> dict[str, Any]:
    """One of each kind that DeepSpeed's files have."""
    stage, fragment, static, dynamic = deepspeed_globals()
    return {
        "stage": stage(2),
        "fragment": fragment(numel=3, start=5),
        "scales": [static(4.0), dynamic(256.0, 1000, 1, 2, False)],
        "tensors": {"flat": torch.arange(6.0), "half": torch.ones(2, dtype=torch.bfloat16)},
        "plain": {"steps": 3, "name": "x", "betas": (0.9, 0.99), "none": None, "bytes": b"12"},
    }


def test_what_deepspeeds_files_hold_is_read_as_it_was_written(state: dict[str, Any], tmp_path: Path) -> None:
    write_state(state, tmp_path / "states.pt")
    found = read_state(str(tmp_path / "states.pt"), map_location="cpu")
    assert found["stage"] is state["stage"] and found["fragment"] == state["fragment"]
    assert [vars(scale) for scale in found["scales"]] == [vars(scale) for scale in state["scales"]]
    assert all(torch.equal(found["tensors"][name], tensor) for name, tensor in state["tensors"].items())
    assert found["plain"] == state["plain"] and os.listdir(tmp_path) == ["states.pt"]


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_that_would_run_code_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch's way back: not for us
    marker, path = tmp_path / "marker", tmp_path / "states.pt"
    path.write_bytes(CONTENTS[kind](marker))
    with pytest.raises(UserError, match=r"states\.pt: (holds io\.open, which is no data|cannot be loaded)") as caught:
        read_state(path)
    assert "Load a checkpoint of your own" in str(caught.value) and "weights_only" not in str(caught.value)
    assert not marker.exists()


def test_the_files_would_run_code(tmp_path: Path) -> None:
    for number, content in enumerate(CONTENTS.values()):
        marker, path = tmp_path / f"marker{number}", tmp_path / "states.pt"
        path.write_bytes(content(marker))
        with contextlib.suppress(RuntimeError, ValueError):  # of what comes after a pickle that torch did not write
            torch.load(path, weights_only=False)
        assert marker.exists()


def test_a_damaged_file_is_named(state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "states.pt"
    write_state(state, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-200], b"\0" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"states\.pt: cannot be loaded"):
            read_state(path)
    path.unlink()
    with pytest.raises(UserError, match=r"states\.pt: no such file"):
        read_state(path)


def test_a_full_disk_leaves_the_old_file(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "states.pt"
    write_state({"steps": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(safe_checkpoints.os, "fsync", full)
        write_state(state, path)
    assert read_state(path) == {"steps": 1} and os.listdir(tmp_path) == ["states.pt"]


def test_a_class_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "states.pt"
    with pytest.raises(UserError, match=r"states\.pt: not written, .*\.Position .*add_safe_globals"):
        write_state({"position": Position()}, path)
    with pytest.raises(UserError, match="not written"):
        write_state({"state": Malice(tmp_path / "marker")}, path)
    assert not list(tmp_path.iterdir())


def test_a_class_that_the_user_allowed_is_written_and_read_and_stays_allowed(tmp_path: Path) -> None:
    path, stage = tmp_path / "states.pt", deepspeed_globals()[0]
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Position, stage])
    try:
        for _ in range(2):
            write_state({"position": Position(), "stage": stage(1)}, path)
            assert isinstance(read_state(path)["position"], Position)
        assert {Position, stage} <= set(torch.serialization.get_safe_globals())
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    with pytest.raises(UserError, match="Position"):
        read_state(path)


def test_the_seam_of_this_deepspeed() -> None:
    """Fails where a new version calls a checkpoint engine otherwise."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.engine import DeepSpeedEngine

    ours = safe_checkpoint_engine()
    assert CheckpointEngine.__abstractmethods__ == {"create", "save", "load", "commit"}
    for name in ("create", "save", "load", "commit"):
        theirs = inspect.signature(getattr(TorchCheckpointEngine, name)).parameters
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(theirs)
    assert "self.checkpoint_engine = create_checkpoint_engine(" in inspect.getsource(
        DeepSpeedEngine._configure_checkpointing
    )
    assert list(inspect.signature(DeepSpeedEngine.load_checkpoint).parameters)[1] == "load_dir"
    engine = ours(None)
    assert not engine.is_decoupled() and engine.is_data_parallel_writer(0) and not engine.is_data_parallel_writer(1)
    assert engine.commit(None) is True


def fake_engine(load_checkpoint: Callable[..., Any] = lambda *args: None) -> Any:
    """A DeepSpeedEngine's two attributes that matter, as they are before."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    theirs = object.__new__(TorchCheckpointEngine)
    return SimpleNamespace(checkpoint_engine=theirs, load_checkpoint=load_checkpoint, _config=None)


def test_what_deepspeed_loads_past_its_seam_runs_nothing_either(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    engine = fake_engine(lambda folder, name: torch.load(Path(folder) / name, weights_only=False))
    use_safe_checkpoints(engine)
    installed = engine.checkpoint_engine
    assert isinstance(installed, safe_checkpoint_engine())
    use_safe_checkpoints(engine)
    assert engine.checkpoint_engine is installed
    (tmp_path / "bad.pt").write_bytes(torch_file(tmp_path / "marker"))
    write_state(state, tmp_path / "good.pt")
    environment = dict(os.environ)
    with pytest.raises(UserError, match=rf"{tmp_path}: holds io\.open"):
        engine.load_checkpoint(str(tmp_path), "bad.pt")
    assert engine.load_checkpoint(str(tmp_path), "good.pt")["stage"] is state["stage"]
    assert not (tmp_path / "marker").exists() and dict(os.environ) == environment


def test_where_it_cannot_be_installed() -> None:
    with pytest.raises(UserError, match=r"deepspeed \d\S* has no DeepSpeedEngine.checkpoint_engine.*requirements.lock"):
        use_safe_checkpoints(SimpleNamespace(_config=None))
    with pytest.raises(UserError, match=r"chose Fast to write checkpoints.*\"writer\""):
        use_safe_checkpoints(SimpleNamespace(checkpoint_engine=type("Fast", (), {})()))


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    return launching.cases("tests.distributed.safe_checkpoints_worker")


@pytest.mark.slow
@pytest.mark.distributed
def test_resumed_equals_uninterrupted_at_every_stage(results: dict[str, str]) -> None:
    resumed = {name: result for name, result in results.items() if name[0].isdecimal()}
    assert {name[0] for name in resumed} == set("0123") and len(resumed) == 8
    assert set(resumed.values()) == {"0.0"} and results["weights alone"] == "0.0"


@pytest.mark.slow
@pytest.mark.distributed
def test_planted_code_runs_with_deepspeeds_own_engine_only(results: dict[str, str]) -> None:
    assert results["its own engine"].startswith("the code ran; ")
    for case in ("optimizer's file", "model's file", "past the engine"):
        assert results[case].startswith("nothing ran; refused: "), case
        assert "holds io.open, which is no data and could run code" in results[case]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_universal_checkpoint_without_adans_states_is_refused(results: dict[str, str]) -> None:
    assert results["universal, AdamW"] == "0.0"
    for stage in (2, 3):
        told = results[f"universal, stage {stage}"]
        assert told.startswith("refused: Adan: the universal checkpoint lacks exp_avg_diff, neg_pre_grad")
