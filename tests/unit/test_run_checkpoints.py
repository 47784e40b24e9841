"""Which of a run's checkpoints is taken, how a new one gets its name, and which folders stay."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from nlp_adan.errors import UserError
from nlp_adan.training import checkpoint as checkpoint_package
from nlp_adan.training.checkpoint import manifest as manifest_module
from nlp_adan.training.checkpoint.manifest import Manifest, verify
from nlp_adan.training.checkpoint.run_checkpoints import (
    checkpoints_of,
    clean_partial,
    newest_good,
    partial_folder,
    publish,
    remove_later,
    rotate,
    set_aside,
)
from nlp_adan.training.checkpoint.tensor_files import write_pieces
from tests.unit.test_checkpoint_manifest import FILES, make_checkpoint


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others use takes a tenth of a second and more for each sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_the_newest_good_one_is_taken(tmp_path: Path) -> None:
    assert newest_good(tmp_path / "none") == (None, [])
    for step in (2, 10, 9, 100):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in checkpoints_of(tmp_path)] == [f"checkpoint-{step}" for step in (100, 10, 9, 2)]
    (tmp_path / "checkpoint-100" / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "checkpoint-100" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-10" / "manifest.json").unlink()
    good, passed_over = newest_good(tmp_path)
    assert good == tmp_path / "checkpoint-9"
    assert [(path.name, damage.file) for path, damage in passed_over] == [
        ("checkpoint-100", "model.safetensors"), ("checkpoint-100", "trainer_state.json"),
        ("checkpoint-10", "manifest.json"),
    ]  # fmt: skip
    assert newest_good(tmp_path / "checkpoint-best") == (None, [])


def test_none_is_read_beyond_the_first_good_one(tmp_path: Path) -> None:
    for step in (1, 2):
        make_checkpoint(tmp_path, step)
    told: list[int] = []
    newest_good(tmp_path, told.append)
    assert sum(told) == sum(map(len, FILES.values()))


def test_damaged_ones_are_set_aside(tmp_path: Path) -> None:
    aside = []
    for _ in range(3):
        aside.append(set_aside(make_checkpoint(tmp_path, 5)).name)
    assert aside == ["damaged-checkpoint-5", "damaged-checkpoint-5-2", "damaged-checkpoint-5-3"]
    assert names(tmp_path) == aside and checkpoints_of(tmp_path) == []


def test_later_ones_are_removed(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        make_checkpoint(tmp_path, step)
    assert remove_later(tmp_path, 2) == ["checkpoint-9", "checkpoint-10"]
    assert names(tmp_path) == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("limit", "left"), [(None, {1, 2, 3, 4}), (0, {1, 2, 3, 4}), (2, {3, 4}), (1, {4}), (9, {1, 2, 3, 4})]
)
def test_the_oldest_go(limit: int | None, left: set[int], tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make_checkpoint(tmp_path, step)
    removed = rotate(tmp_path, limit)
    assert names(tmp_path) == [f"checkpoint-{step}" for step in sorted(left)]
    assert removed == [f"checkpoint-{step}" for step in sorted({1, 2, 3, 4} - left)]


def test_the_newest_good_one_stays(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make_checkpoint(tmp_path, step)
    for step in (3, 4):
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(bytes(7000))
    assert rotate(tmp_path, 1) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    assert names(tmp_path) == ["checkpoint-2"]


def test_those_to_keep_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make_checkpoint(tmp_path, step)
    assert rotate(tmp_path, 2, {tmp_path / "checkpoint-1"}) == ["checkpoint-2", "checkpoint-3"]
    assert rotate(tmp_path, 1, {tmp_path / "checkpoint-1"}) == []
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]


def test_a_known_good_one_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        make_checkpoint(tmp_path, step)
    monkeypatch.setattr(manifest_module, "open", None, raising=False)
    assert rotate(tmp_path, 1, known_good=tmp_path / "checkpoint-2") == ["checkpoint-1"]


def test_what_a_kill_left_is_put_in_order(tmp_path: Path) -> None:
    for step, name in [
        (1, ".removed-checkpoint-1"), (1, "checkpoint-1"), (2, ".replaced-checkpoint-2"), (3, "replaced"),
        (3, "checkpoint-3"), (4, ".checkpoint-4.partial"),
    ]:  # fmt: skip
        make_checkpoint(tmp_path, step).rename(tmp_path / name)
    (tmp_path / "replaced").rename(tmp_path / ".replaced-checkpoint-3")
    for name in ("log.jsonl", ".lock", ".checkpoint-4.partial.txt"):
        (tmp_path / name).write_text("")
    assert newest_good(tmp_path)[0] == tmp_path / "checkpoint-3"
    removed = clean_partial(tmp_path)
    assert sorted(removed) == [".checkpoint-4.partial", ".removed-checkpoint-1", ".replaced-checkpoint-3"]
    assert [path.name for path in checkpoints_of(tmp_path)] == [f"checkpoint-{step}" for step in (3, 2, 1)]
    assert all(verify(path) == [] for path in checkpoints_of(tmp_path))
    assert {".lock", "log.jsonl", ".checkpoint-4.partial.txt"} < set(names(tmp_path)) and len(names(tmp_path)) == 6
    assert clean_partial(tmp_path) == []


def refuse_to_delete(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which a file is held open on another machine, for one, cannot be deleted."""
    rmtree = shutil.rmtree

    def refuse(path: Path, *args: object, **options: object) -> None:
        if name in Path(path).name:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse)


def test_what_cannot_be_deleted_is_told_and_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step)
    refuse_to_delete("checkpoint-1", monkeypatch)
    for name in (".removed-checkpoint-1", ".checkpoint-1.partial", ".checkpoint-4.partial"):
        (tmp_path / name).mkdir()
    assert clean_partial(tmp_path) == [".checkpoint-4.partial"]
    told = capsys.readouterr().out
    assert told.count("WARNING: ") == 2 and ".removed-checkpoint-1 could not be deleted (" in told
    assert rotate(tmp_path, 1) == ["checkpoint-1", "checkpoint-2"]
    assert ".removed-checkpoint-1-2 could not be deleted" in capsys.readouterr().out
    make_checkpoint(tmp_path, 1, {"a.pt": b"old"})
    make_checkpoint(tmp_path, 1, {"a.pt": b"new"})  # in its place
    assert (tmp_path / "checkpoint-1" / "a.pt").read_bytes() == b"new" and not verify(tmp_path / "checkpoint-1")
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-3", "checkpoint-1"]


def test_a_checkpoint_that_was_moved_and_linked_to(tmp_path: Path) -> None:
    """Only the link is removed."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for step in (1, 2, 3):
        moved = make_checkpoint(run, step).rename(elsewhere / f"checkpoint-{step}")
        (run / moved.name).symlink_to(moved)
    assert newest_good(run) == (run / "checkpoint-3", [])
    assert rotate(run, 2) == ["checkpoint-1"]
    (run / ".removed-checkpoint-7").symlink_to(elsewhere)
    assert clean_partial(run) == [".removed-checkpoint-7"]
    make_checkpoint(run, 3, {"a.pt": b"new"})
    assert names(run) == ["checkpoint-2", "checkpoint-3"] and not (run / "checkpoint-3").is_symlink()
    assert all(verify(path) == [] for path in checkpoints_of(elsewhere)) and len(names(elsewhere)) == 3


def test_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 3, {"a.pt": b"old"})
    (tmp_path / ".replaced-checkpoint-3").mkdir()  # could not be deleted once
    (tmp_path / ".replaced-checkpoint-3" / "x").write_text("")
    path = make_checkpoint(tmp_path, 3, {"a.pt": b"new"})
    assert verify(path) == [] and (path / "a.pt").read_bytes() == b"new"
    assert names(tmp_path) == ["checkpoint-3"]


def test_one_that_cannot_be_replaced_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path, 3, {"a.pt": b"old"})
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"):
        make_checkpoint(tmp_path, 3, {"a.pt": b"new"})
    assert (tmp_path / "checkpoint-3" / "a.pt").read_bytes() == b"old" and verify(tmp_path / "checkpoint-3") == []


@pytest.mark.parametrize("present", ["part of it", "and another"])
def test_only_what_the_manifest_says_is_published(present: str, tmp_path: Path) -> None:
    partial = partial_folder(tmp_path, 3)
    entries = {name: write_pieces(partial / name, [content]) for name, content in FILES.items()}
    if present == "part of it":
        (partial / "model.safetensors").write_bytes(b"cut")
    else:
        (partial / "scaler.pt").write_bytes(b"of an attempt before")
    with pytest.raises(UserError, match="model.safetensors has 3 bytes" if "part" in present else "scaler.pt was not"):
        publish(tmp_path, Manifest(3, 1, None, 8, "", {}, entries))
    assert checkpoints_of(tmp_path) == []


def test_files_are_safe_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest, then the names of all files, then the checkpoint's name, then that of the run's folder."""
    done: list[str] = []
    real_rename = Path.rename

    def fsync(descriptor: int) -> None:
        done.append("sync " + os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))

    def rename(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name}")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    make_checkpoint(tmp_path, 3)
    partial = ".checkpoint-3.partial"
    at = done.index(f"rename {partial}")
    assert done[at + 1 :] == ["sync ."]
    assert {f"sync {partial}", f"sync {partial}/optimizer"} <= set(done[:at])
    assert all(f"sync {partial}/{name}" in done[:at] for name in FILES)
    assert any(word.startswith(f"sync {partial}/.manifest.json") for word in done[:at])


def test_the_package_says_what_each_of_its_files_is_for() -> None:
    (folder,) = map(Path, checkpoint_package.__path__)
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\b\w+\.py\b", checkpoint_package.__doc__ or "")) == files
