"""Which checkpoints are good, what is wrong with the others, and which of a run's folders stay."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nlp_adan.errors import UserError
from nlp_adan.storage import sha256_json
from nlp_adan.training.checkpoint import manifest as manifest_module
from nlp_adan.training.checkpoint.manifest import Damage, FileEntry, Manifest, checkpoint_step, verify
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

FILES = {
    "model.safetensors": b"weights" * 1000,
    "trainer_state.json": b"{}",
    "optimizer/optimizer.json": b'{"a": 1}',
    "optimizer/part-00000-of-00001.safetensors": bytes(range(256)) * 40,
    "empty": b"",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others use takes a tenth of a second and more for each sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def make_checkpoint(run: Path, step: int, files: dict[str, bytes] = FILES) -> Path:
    """A published checkpoint."""
    entries = {name: write_pieces(partial_folder(run, step) / name, [content]) for name, content in files.items()}
    return publish(
        run, Manifest(step, 2, 3, 16, "2026-01-01T00:00:00+00:00", {"torch": "2.13", "scipy": None}, entries)
    )


def test_a_manifest_reads_as_it_was_written(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    found = Manifest.read(path)
    assert (found.step, found.world_size, found.zero_stage, found.sequences_per_step) == (12, 2, 3, 16)
    assert found.versions == {"torch": "2.13", "scipy": None} and found.files.keys() == FILES.keys()
    assert checkpoint_step(path) == 12 and verify(path) == []
    dataclasses.replace(found, zero_stage=None).write(path)
    assert Manifest.read(path) == dataclasses.replace(found, zero_stage=None)
    assert {file.name for file in path.iterdir()} == {*FILES, "optimizer", "manifest.json"} - {
        name for name in FILES if "/" in name
    }


def test_every_byte_counts(tmp_path: Path) -> None:
    """Of each file and of the manifest itself: one flipped bit, anywhere, and the file is named."""
    path = make_checkpoint(tmp_path, 12, {"a.pt": b"some bytes", "b/c.json": b"more"})
    for name in ("a.pt", "b/c.json", "manifest.json"):
        content = (path / name).read_bytes()
        with open(path / name, "r+b", buffering=0) as file:
            for place in range(len(content)):
                os.pwrite(file.fileno(), bytes([content[place] ^ (1 << place % 8)]), place)
                assert [damage.file for damage in verify(path)] == [name], f"byte {place} of {name}"
                os.pwrite(file.fileno(), content[place : place + 1], place)
    assert verify(path) == []
    text = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(text.replace(b"\n", b"\r"))  # a text of the same lines
    assert [damage.file for damage in verify(path)] == ["manifest.json"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_cut_and_missing_files_are_named(name: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    if content := (path / name).read_bytes():
        (path / name).write_bytes(content[:-1])
        (damage,) = verify(path)
        if name != "manifest.json":
            assert damage == Damage(name, f"has {len(content) - 1:,} bytes instead of {len(content):,}")
            assert verify(path, hashes=False) == [damage]
    (path / name).unlink()
    (damage,) = verify(path)
    assert damage.file == name and damage.reason.startswith("is missing")
    assert str(damage) == f"{name} {damage.reason}"


@pytest.mark.parametrize(
    ("name", "is_damage"),
    [
        ("optimizer/part-00001-of-00002.safetensors", True), ("optimizer/anything", True), ("pytorch_model.bin", True),
        ("scaler.pt", True), ("latest", True), ("global_step7/mp_rank_00_model_states.pt", True),
        ("modeling_custom.py", True), ("notes.txt", False), ("vocab.txt", True), (".nfs0001.bin", False),
        ("tokenizer_config.json", True), ("model.safetensors.index.json", True), ("all_results.json", False),
    ],
)  # fmt: skip
def test_files_that_were_not_written_with_it(name: str, is_damage: bool, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"x")
    assert verify(path) == ([Damage(name, "was not written with the checkpoint")] if is_damage else [])


def replace_by_link(path: Path, outside: Path) -> str:
    target = outside / "model.safetensors"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)
    return "leads out of the checkpoint, by a link"


def replace_by_pipe(path: Path, outside: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "is not a file"


def replace_by_circle(path: Path, outside: Path) -> str:
    path.unlink()
    path.symlink_to(path)
    return "cannot be read"


@pytest.mark.parametrize("replace", [replace_by_link, replace_by_pipe, replace_by_circle])
def test_what_is_no_file_of_its_own_is_not_read(replace: Callable[[Path, Path], str], tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    (tmp_path / "outside").mkdir()
    reason = replace(path / "model.safetensors", tmp_path / "outside")
    (damage,) = verify(path)
    assert damage.file == "model.safetensors" and damage.reason.startswith(reason)


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    (path / "optimizer").rename(tmp_path / "elsewhere")
    (path / "optimizer").symlink_to(tmp_path / "elsewhere")
    files = {damage.file for damage in verify(path)}
    assert files == {"optimizer", *(name for name in FILES if "/" in name)}


@pytest.mark.parametrize("name", ["/etc/hostname", "../other", "a/../../other", "a//b", "./a", "", "a\0b", "."])
def test_names_that_lead_elsewhere_are_not_followed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").write_bytes(b"x")
    path = make_checkpoint(tmp_path, 12)
    planted = dataclasses.replace(Manifest.read(path), files={name: FileEntry(1, "0" * 64)})
    for file in [file for file in path.rglob("*") if file.is_file()]:
        file.unlink()
    planted.write(path)  # with a hash of its own that is right
    monkeypatch.setattr(manifest_module, "open", None, raising=False)
    (damage,) = verify(path)
    assert damage.file == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is damaged"), ("[]", "is damaged"), ("{}", "is damaged"), ("\xff", "is damaged"),
        ("[" * 99999, "is damaged"), ('{"format": 2}', "is of format 2; this version"),
        ('{"format": 1, "step": 3}', "is damaged"),
    ],
)  # fmt: skip
def test_what_is_no_manifest(text: str, reason: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    (path / "manifest.json").write_bytes(text.encode("latin-1"))
    (damage,) = verify(path)
    assert damage.file == "manifest.json" and damage.reason.startswith(reason)
    with pytest.raises(UserError, match=rf"{path / 'manifest.json'} {reason}"):
        checkpoint_step(path)


def test_values_of_another_type_are_refused(tmp_path: Path) -> None:
    """Planted with a hash of its own that is right."""
    path = make_checkpoint(tmp_path, 12)
    for key, value in [("step", "12"), ("world_size", 2.0), ("zero_stage", True), ("versions", []), ("date", 3)]:
        content = json.loads((path / "manifest.json").read_text())
        content.pop("manifest_sha256")
        content[key] = value
        content["manifest_sha256"] = sha256_json(content)
        (tmp_path / "other").mkdir(exist_ok=True)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (tmp_path / "other" / "manifest.json").write_text(text)
        assert [damage.file for damage in verify(tmp_path / "other")] == ["manifest.json"], key


def test_a_checkpoint_of_another_name(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 12)
    assert verify(path.rename(tmp_path / "checkpoint-best")) == []
    (damage,) = verify((tmp_path / "checkpoint-best").rename(tmp_path / "checkpoint-13"))
    assert damage == Damage("manifest.json", "is of step 12, and the folder's name of another")


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert [damage.file for damage in verify(tmp_path / "none")] == ["manifest.json"]
    with pytest.raises(UserError, match=r"holds no checkpoint that was written to its end \(no manifest.json\)"):
        Manifest.read(tmp_path / "none")


def test_a_read_error_is_a_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path, 12, {"a.pt": b"some bytes"})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest_module, "open", refuse, raising=False)
    assert verify(path) == [Damage("a.pt", "cannot be read (Permission denied)")]
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert verify(path) == [Damage("manifest.json", "cannot be read (Permission denied)")]


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    told: list[int] = []
    assert verify(make_checkpoint(tmp_path, 12), progress=told.append) == []
    assert sum(told) == sum(map(len, FILES.values()))
    assert verify(tmp_path / "checkpoint-12", hashes=False, progress=told.append) == []
    assert sum(told) == sum(map(len, FILES.values()))


# ---- a run's folder ----


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
