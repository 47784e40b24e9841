"""Which checkpoints are good, and what is wrong with the others."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nlp_adan.errors import UserError
from nlp_adan.storage import sha256_json
from nlp_adan.training.checkpoint import manifest as manifest_module
from nlp_adan.training.checkpoint.manifest import Damage, FileEntry, Manifest, checkpoint_step, verify
from nlp_adan.training.checkpoint.run_checkpoints import (
    partial_folder,
    publish,
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
