"""A run's folder: who may use it, and what its logs hold after a run that was resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_adan.errors import UserError
from nlp_adan.training.run_folder import RunFolder, checkpoint_step

OPTIONS: dict[str, Any] = {"output_dir": "x", "learning_rate": 1e-3, "seed": 42, "lr_scheduler_kwargs": {"a": [1]}}


def claimed(path: Path) -> RunFolder:
    run = RunFolder(path)
    assert run.checkpoint_to_resume(OPTIONS, "no") is None
    run.claim(OPTIONS)
    return run


def test_an_empty_or_missing_folder_is_free(tmp_path: Path) -> None:
    for resume in ("no", "auto"):
        assert RunFolder(tmp_path).checkpoint_to_resume(OPTIONS, resume) is None
        assert RunFolder(tmp_path / "new").checkpoint_to_resume(OPTIONS, resume) is None
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_with_the_same_settings(tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    with pytest.raises(UserError, match=r"unfinished run with the same settings; add `--resume auto`"):
        run.checkpoint_to_resume(OPTIONS, "no")
    assert run.checkpoint_to_resume(OPTIONS, "auto") is None  # killed before its first checkpoint
    for step in (5, 10):
        (run.path / f"checkpoint-{step}").mkdir()
        (run.path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (run.path / "checkpoint-15").mkdir()  # killed while it was written
    assert run.checkpoint_to_resume(OPTIONS, "auto") == str(run.path / "checkpoint-10")
    moved = {**OPTIONS, "output_dir": "elsewhere", "logging_steps": 3}
    assert run.checkpoint_to_resume(moved, "auto") is not None  # where and how it is watched does not matter


def test_another_number_of_ranks_splits_the_global_batch_otherwise(tmp_path: Path) -> None:
    one_rank = {"global_batch_size": 64, "per_device_train_batch_size": 64, "gradient_accumulation_steps": 1}
    run = RunFolder(tmp_path)
    run.claim(one_rank)
    assert run.checkpoint_to_resume({**one_rank, "per_device_train_batch_size": 32}, "auto") is None
    run.claim({**one_rank, "global_batch_size": None})
    with pytest.raises(UserError, match="per_device_train_batch_size: 64 there, 32 here"):
        run.checkpoint_to_resume({**one_rank, "global_batch_size": None, "per_device_train_batch_size": 32}, "auto")


def test_another_or_a_finished_run(tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    for resume in ("no", "auto"):
        with pytest.raises(UserError, match=r"another run \(unfinished; learning_rate: 0.001 there, 0.1 here\)"):
            run.checkpoint_to_resume({**OPTIONS, "learning_rate": 0.1}, resume)
    run.finish({"loss": 1.0})
    assert run.finished
    with pytest.raises(UserError, match="finished run with the same settings; choose another folder"):
        run.checkpoint_to_resume(OPTIONS, "no")
    with pytest.raises(UserError, match=r"another run \(finished; learning_rate.*and 1 more"):
        run.checkpoint_to_resume({**OPTIONS, "learning_rate": 0.1, "seed": 1}, "no")


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        RunFolder(tmp_path).checkpoint_to_resume(OPTIONS, "auto")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "thesis.txt").checkpoint_to_resume(OPTIONS, "no")
    with pytest.raises(UserError, match="is not a whole checkpoint folder"):
        RunFolder(tmp_path / "run").checkpoint_to_resume(OPTIONS, "checkpoint-7")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write into")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write into '/proc'.*choose another folder"):
        RunFolder("/proc/nope").checkpoint_to_resume(OPTIONS, "no")


def test_a_named_checkpoint_does_not_open_a_folder_with_another_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"global_step": 7}')
    slashed = f"{checkpoint}/"  # as tab completion writes it
    assert RunFolder(tmp_path / "new").checkpoint_to_resume(OPTIONS, slashed) == str(checkpoint)
    assert checkpoint_step(slashed) == 7
    run = claimed(tmp_path / "run")
    with pytest.raises(UserError, match="another run"):
        run.checkpoint_to_resume({**OPTIONS, "seed": 1}, slashed)


def test_the_record_is_a_recipe_for_another_machine(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.claim({**OPTIONS, "use_cpu": True, "resume": "auto"})
    assert set(yaml.safe_load((run.path / "resolved.yaml").read_text())) == set(OPTIONS)


def test_logs_are_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    for step in (10, 20, 30):
        run.append("log.jsonl", {"step": step, "loss": 1.0 / step})
    with open(run.path / "log.jsonl", "a") as file:
        file.write('{"step": 4')  # the machine went down
    run.claim(OPTIONS, resumed_step=20)
    assert [line["step"] for line in run.read("log.jsonl")] == [10, 20]
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"]
    assert [line["step"] for line in run.read("starts.jsonl")] == [0, 20]


@pytest.mark.parametrize("num_lines", [1, 3, 400])
@pytest.mark.parametrize("tail_bytes", [16, 1 << 16])
def test_logs_of_any_length_are_cut_from_their_end(
    tmp_path: Path, num_lines: int, tail_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nlp_adan.training.run_folder.TAIL_BYTES", tail_bytes)
    run = claimed(tmp_path / "run")
    for resumed_step in (num_lines + 5, num_lines, num_lines // 2, 1, 0):
        run._cut_after("log.jsonl", 0)
        for step in range(1, num_lines + 1):
            run.append("log.jsonl", {"step": step, "text": "é" * (step % 7)})
        run._cut_after("log.jsonl", resumed_step)
        assert [line["step"] for line in run.read("log.jsonl")] == list(range(1, min(resumed_step, num_lines) + 1))
