"""A run's folder: who may use it, and what its logs hold after a run that was resumed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_adan.errors import UserError
from nlp_adan.training import run_folder
from nlp_adan.training.run_folder import RunFolder
from tests.checkpoints import make_checkpoint

OPTIONS: dict[str, Any] = {"output_dir": "x", "learning_rate": 1e-3, "seed": 42, "lr_scheduler_kwargs": {"a": [1]}}


def claimed(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.check(OPTIONS, "no")
    run.claim(OPTIONS)
    return run


def test_an_empty_or_missing_folder_is_free(tmp_path: Path) -> None:
    for resume in ("no", "auto"):
        RunFolder(tmp_path).check(OPTIONS, resume)
        RunFolder(tmp_path / "new").check(OPTIONS, resume)
    assert not (tmp_path / "new").exists()


def test_what_other_ranks_try_the_folder_with_is_nothing(tmp_path: Path) -> None:
    for name in (".lock", f"{run_folder.PROBE}x1"):
        (tmp_path / name).mkdir()
    RunFolder(tmp_path).check(OPTIONS, "no")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        RunFolder(tmp_path).check(OPTIONS, "no")


def test_a_kill_before_the_first_file_is_whole_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")

    def killed(*_: object) -> None:
        raise Killed

    class Killed(BaseException):
        """What a kill is, for a process that is not killed; nothing is cleared up after it."""

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("os.fsync", killed)
        patch.setattr("os.unlink", killed)
        run.claim(OPTIONS)
    (left,) = run.path.iterdir()
    assert left.name.startswith(".resolved.yaml.")
    (run.path / f"{run_folder.PROBE}x1").mkdir()
    for resume in ("no", "auto"):
        run.check(OPTIONS, resume)
    run.claim(OPTIONS)
    assert not left.exists() and run.settings == OPTIONS


def test_a_start_that_fails_leaves_nothing_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / ".lock").write_text("")
    (run.path / f"{run_folder.PROBE}x1").mkdir()  # of a start that was killed
    run.remove_if_empty()
    assert not run.path.exists()
    run.path.mkdir()
    (run.path / f"{run_folder.PROBE}x1").mkdir()
    (run.path / f"{run_folder.PROBE}x1" / "mine").write_text("")  # of one that is there just now
    run.remove_if_empty()
    assert run.path.exists()


def test_an_unfinished_run_with_the_same_settings(tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    with pytest.raises(UserError, match=r"unfinished run with the same settings; add `--resume auto`"):
        run.check(OPTIONS, "no")
    run.check(OPTIONS, "auto")  # killed before its first checkpoint
    moved = {**OPTIONS, "output_dir": "elsewhere", "logging_steps": 3}
    run.check(moved, "auto")  # where and how it is watched does not matter


@pytest.mark.parametrize("name", [
    "save_steps", "save_strategy", "eval_steps", "eval_strategy", "dataloader_num_workers", "dataloader_pin_memory",
    "ddp_timeout", "per_device_eval_batch_size", "logging_steps", "glue_probe_every",
])  # fmt: skip
def test_what_computes_nothing_else_may_change(name: str, tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    run.check({**OPTIONS, name: 3}, "auto")


@pytest.mark.parametrize("chooses", [{"load_best_model_at_end": True}, {"lr_scheduler_type": "reduce_lr_on_plateau"}])
def test_evaluations_that_choose_stay_where_they_were(chooses: dict[str, Any], tmp_path: Path) -> None:
    run, options = RunFolder(tmp_path), {**OPTIONS, **chooses}
    run.claim({**options, "eval_steps": 5})
    with pytest.raises(UserError, match="eval_steps: 5 there, 6 here"):
        run.check({**options, "eval_steps": 6}, "auto")


def test_data_are_compared_by_the_caller_where_a_run_is_gone_on_with(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim({**OPTIONS, "data": "prepared"})
    moved = {**OPTIONS, "data": "/scratch/prepared"}
    run.check(moved, "auto", identified=frozenset({"data"}))
    with pytest.raises(UserError, match=r"another run .*data: 'prepared' there"):
        run.check(moved, "no", identified=frozenset({"data"}))


def claim_on(run: RunFolder, world_size: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    run.claim(options)


def test_the_sequences_of_a_step_are_compared_however_they_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, per_rank = RunFolder(tmp_path), {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    claim_on(run, 2, {"global_batch_size": None, **per_rank}, monkeypatch)
    for options, world_size in (
        ({"global_batch_size": 16, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}, 1),
        ({"global_batch_size": 16, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, 4),
        ({"global_batch_size": None, **per_rank}, 2),
        ({"global_batch_size": None, **per_rank, "gradient_accumulation_steps": 4}, 1),
    ):
        run.check(options, "auto", world_size)
    told = r"sequences a step: 16 there, 8 here\); `--global_batch_size 16` keeps its batches on any number of ranks"
    with pytest.raises(UserError, match=told):
        run.check({"global_batch_size": None, **per_rank}, "auto", 1)
    # The remedy, as one rank then divides it.
    remedied = {"global_batch_size": 16, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    run.check(remedied, "auto", 1)
    claim_on(run, 1, remedied, monkeypatch)
    run.check({"global_batch_size": None, **per_rank}, "auto", 2)


def test_another_or_a_finished_run(tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    for resume in ("no", "auto"):
        with pytest.raises(UserError, match=r"another run \(unfinished; learning_rate: 0.001 there, 0.1 here\)"):
            run.check({**OPTIONS, "learning_rate": 0.1}, resume)
    run.finish({"loss": 1.0})
    assert run.finished
    with pytest.raises(UserError, match="finished run with the same settings; choose another folder"):
        run.check(OPTIONS, "no")
    with pytest.raises(UserError, match=r"another run \(finished; learning_rate.*and 1 more"):
        run.check({**OPTIONS, "learning_rate": 0.1, "seed": 1}, "no")


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        RunFolder(tmp_path).check(OPTIONS, "auto")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "thesis.txt").check(OPTIONS, "no")
    with pytest.raises(UserError, match="is not a whole checkpoint folder"):
        RunFolder(tmp_path / "run").check(OPTIONS, "checkpoint-7")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write into")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write into '/proc'.*choose another folder"):
        RunFolder("/proc/nope").check(OPTIONS, "no")


def test_what_the_user_may_not_look_at(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    checkpoint = make_checkpoint(closed, 7)
    closed.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may look at everything
        with pytest.raises(UserError, match=r"--output_dir: cannot write into '.*' \(Permission denied\)"):
            RunFolder(closed / "runs" / "new").check(OPTIONS, "no")
        with pytest.raises(
            UserError, match=r"checkpoint-7' is not a whole checkpoint folder \(no manifest.json to read"
        ):
            run_folder._check_named(checkpoint, OPTIONS, 1, frozenset())
    finally:
        if user == 0:
            os.seteuid(0)
        closed.chmod(0o700)


def test_a_named_checkpoint_is_of_a_run_with_the_same_settings(tmp_path: Path) -> None:
    other = claimed(tmp_path / "other")
    checkpoint = make_checkpoint(other.path, 7)
    new = RunFolder(tmp_path / "new")
    slashed = f"{checkpoint}/"  # as tab completion writes it
    new.check({**OPTIONS, "output_dir": "new"}, slashed)
    with pytest.raises(UserError, match=r"--resume: .*checkpoint-7' is of another run \(seed: 42 there, 1 here\)"):
        new.check({**OPTIONS, "seed": 1}, slashed)
    run = RunFolder(tmp_path / "run")
    run.claim({**OPTIONS, "seed": 1})
    with pytest.raises(UserError, match=r"--output_dir: .* holds another run"):
        run.check(OPTIONS, slashed)
    with pytest.raises(UserError, match=r"--resume: no resolved.yaml in .* checkpoint-7 was trained"):
        new.check(OPTIONS, str(make_checkpoint(tmp_path / "alone", 7)))
    assert not new.path.exists()


def test_going_on_from_an_earlier_checkpoint_removes_the_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = claimed(tmp_path / "run")
    first, later = make_checkpoint(run.path, 15), make_checkpoint(run.path, 18)
    run.check(OPTIONS, str(first))
    run.claim(OPTIONS, resumed_step=15)
    assert f"going on from step 15: removed checkpoint-18 of {run.path}" in capsys.readouterr().out
    assert first.exists() and not later.exists()


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    run = claimed(tmp_path / "run")
    (run.path / "resolved.yaml").write_text("seed: [42")
    with pytest.raises(UserError, match=r"resolved.yaml:\d+: not a YAML file"):
        run.check(OPTIONS, "auto")


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
    with open(run.path / "starts.jsonl", "ab") as file:
        file.write(b"\xff\x00")
    run.check(OPTIONS, "auto")
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


def test_lines_of_a_log_wait_for_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = claimed(tmp_path / "run")
    run.append("log.jsonl", {"step": 1})
    whole = run_folder._append_whole

    def full(path: Path, line: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder, "_append_whole", full)
    run.append("log.jsonl", {"step": 2})
    run.append("eval.jsonl", {"step": 2})
    assert [line["step"] for line in run.read("log.jsonl")] == [1]
    told = capsys.readouterr().out
    assert told.count("No space left on device") == 1 and "log.jsonl" in told
    monkeypatch.setattr(run_folder, "_append_whole", whole)
    run.append("log.jsonl", {"step": 3})
    assert [line["step"] for line in run.read("log.jsonl")] == [1, 2, 3]
    assert [line["step"] for line in run.read("eval.jsonl")] == [2]


def test_a_part_of_a_line_is_taken_back(tmp_path: Path) -> None:
    """A file may grow by 4 bytes only, as on a disk that is nearly full."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"1234\n")
    code = (
        "import pathlib, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from nlp_adan.training.run_folder import _append_whole; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); "
        f"_append_whole(pathlib.Path({str(path)!r}), b'12345678')"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode != 0 and "OSError" in failed.stderr and path.read_bytes() == b"1234\n"
