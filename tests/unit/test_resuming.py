"""Taking up a run: alone in its folder, from the newest checkpoint that is good."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint import manifest
from nlp_adan.training.resuming import check_batches, find_checkpoint, lock_run
from tests.checkpoints import make_checkpoint


def test_the_newest_good_one_and_why_not_a_newer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_checkpoint(tmp_path, "auto", 0) is None
    paths = [make_checkpoint(tmp_path, step) for step in (5, 10, 15, 20)]
    (paths[2] / "model.safetensors").write_bytes(b"weightz")
    (paths[3] / "manifest.json").unlink()
    (tmp_path / ".checkpoint-25.partial").mkdir()
    assert find_checkpoint(tmp_path, "no", 0) is None
    assert find_checkpoint(tmp_path, "auto", 0) == paths[1]
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert "passed over" in told[0] and "checkpoint-20: manifest.json" in told[0]
    assert "checkpoint-15: model.safetensors" in told[1] and "it is now damaged-checkpoint-15" in told[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-10", "checkpoint-5", "damaged-checkpoint-15", "damaged-checkpoint-20",
    ]  # fmt: skip


def test_where_none_is_good_nothing_begins_anew(tmp_path: Path) -> None:
    """The logs and the position of a run are not thrown away because a file cannot be read."""
    paths = [make_checkpoint(tmp_path, step) for step in (5, 10)]
    for path in paths:
        (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint that is good: checkpoint-10: model.safetensors"):
        find_checkpoint(tmp_path, "auto", 0)
    assert all(path.is_dir() for path in paths)


def test_a_later_version_is_not_damage(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 5)
    newest = make_checkpoint(tmp_path, 10) / "manifest.json"
    newest.write_text(newest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match=r"checkpoint-10: manifest.json is of format 2.*the version that wrote it"):
        find_checkpoint(tmp_path, "auto", 0)
    assert newest.is_file()
    with pytest.raises(UserError, match=r"checkpoint-10: manifest.json is of format 2.*the version that wrote it"):
        find_checkpoint(tmp_path, str(newest.parent), 0)


@pytest.mark.parametrize(("number", "is_damage"), [(errno.EIO, True), (errno.EACCES, False), (errno.ESTALE, False)])
def test_a_checkpoint_that_cannot_be_read_may_be_good(
    number: int, is_damage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not moved aside, and its steps are not trained again, because a permission is missing."""
    paths = [make_checkpoint(tmp_path, step) for step in (5, 10)]

    def refuse(file: Path, *args: Any, **options: Any) -> Any:
        if file == paths[1] / "model.safetensors":
            raise OSError(number, os.strerror(number))
        return open(file, *args, **options)

    monkeypatch.setattr(manifest, "open", refuse, raising=False)
    if is_damage:
        assert find_checkpoint(tmp_path, "auto", 0) == paths[0] and not paths[1].exists()
    else:
        with pytest.raises(UserError, match=r"checkpoint-10: model.safetensors cannot be read .*see that it can be"):
            find_checkpoint(tmp_path, "auto", 0)
        assert paths[1].is_dir()


def test_what_a_kill_left_is_put_in_order_for_a_named_one_too(tmp_path: Path) -> None:
    """Else `--resume auto` would some day find a checkpoint of steps that were given up."""
    path = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10).rename(tmp_path / ".replaced-checkpoint-10")
    assert find_checkpoint(tmp_path, str(path), 0) == path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_a_named_one_is_good_or_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 5)
    assert find_checkpoint(tmp_path / "elsewhere", str(path), 0) == path
    (path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"--resume: '.*checkpoint-5' is damaged: model\.safetensors .*or `auto`"):
        find_checkpoint(tmp_path, str(path), 0)
    assert path.is_dir()  # not ours to move


def test_a_step_keeps_its_number_of_sequences(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 5, world_size=2, sequences_per_step=8)
    check_batches(path, 8)
    with pytest.raises(UserError, match=r"took 8 sequences a step and would now take 4; `--global_batch_size 8`"):
        check_batches(path, 4)


def test_one_start_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from nlp_adan.training.resuming import lock_run; "
        f"lock = lock_run(pathlib.Path({str(tmp_path)!r}), 0); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"process {other.pid} "):
            lock_run(tmp_path, 0)
        other.kill()
    lock_run(tmp_path, 0)
