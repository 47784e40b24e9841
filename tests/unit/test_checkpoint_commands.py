"""`python -m nlp_adan.training.checkpoint`: inspect, verify, and mistakes; what they say and their exit codes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from nlp_adan import Adan
from nlp_adan.errors import UserError
from nlp_adan.training.checkpoint import commands, derived_folder, inspection
from nlp_adan.training.checkpoint.commands import main
from nlp_adan.training.checkpoint.manifest import verify
from nlp_adan.training.checkpoint.optimizer_parts import OptimizerParts
from tests.unit.checkpoint_folders import Small, make_checkpoint, train

pytestmark = pytest.mark.usefixtures("no_sync")


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that others use takes a tenth of a second and more for each sync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def adan(model: nn.Module) -> Adan:
    matrices = [param for param in model.parameters() if param.ndim > 1]
    vectors = [param for param in model.parameters() if param.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    return Adan(groups, lr=1e-2, betas=(0.9, 0.8, 0.95), fused=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 3 and 5."""
    folder = tmp_path / "runs" / "tiny"
    model = Small()
    optimizer = adan(model)
    train(model, optimizer, range(3))
    make_checkpoint(folder, 3, model, optimizer)
    train(model, optimizer, range(3, 5))
    make_checkpoint(folder, 5, model, optimizer)
    return folder


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_inspect_says_what_is_in_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["world_size"], found["zero_stage"], found["sequences_per_step"]) == (5, 2, None, 12)
    assert found["path"] == str(run / "checkpoint-5") and found["versions"] == {"torch": "2.13", "scipy": None}
    files = [path for path in (run / "checkpoint-5").rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert found["num_files"] == len(files) and found["bytes"] == sum(path.stat().st_size for path in files)
    assert found["random_states"] == ["rng_state_0.pth", "rng_state_1.pth"]
    assert found["memories"] == ["memory-00000.safetensors", "memory-00001.safetensors"]
    numel = {"first.weight": 35, "first.bias": 7, "second.weight": 21, "second.bias": 3, "scale": 1, "unused": 4}
    assert found["model"] == {
        "model_type": "tiny",
        "architectures": ["Tiny"],
        "num_parameters": sum(numel.values()),
        "dtypes": ["float32"],
    }
    optimizer = found["optimizer"]
    assert optimizer["name"] == "Adan" and optimizer["engine"] is None
    first, second = optimizer["groups"]
    assert (first["num_tensors"], first["num_parameters"], first["options"]["weight_decay"]) == (2, 56, 0.02)
    assert (second["num_tensors"], second["num_parameters"], second["options"]["betas"]) == (4, 15, [0.9, 0.8, 0.95])
    states = {state.pop("name"): state for state in optimizer["states"]}
    with_state = sum(numel.values()) - numel["unused"]
    for name in ("exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad"):
        expected = {"num_tensors": 5, "elements": with_state, "bytes": 4 * with_state, "steps": [5, 5]}
        assert states.pop(name) == {"dtype": "float32", **expected}
    assert states == {"step": {"dtype": "float32", "num_tensors": 5, "elements": 5, "bytes": 20, "steps": [5, 5]}}

    assert main(["inspect", str(run / "checkpoint-3")]) == 0
    text = capsys.readouterr().out
    for part in (
        f"{run / 'checkpoint-3'}\n",
        "step 3, 12 sequences a step, 2026-01-01T00:00:00+00:00",
        "2 ranks without DeepSpeed",
        "torch 2.13\n",
        "tiny (Tiny), 71 parameters in float32",
        "optimizer: Adan",
        "group 0: lr 0.00729, betas (0.9, 0.8, 0.95), weight_decay 0.02, 56 parameters in 2 tensors",
        "rng_state_0.pth, rng_state_1.pth",
    ):
        assert part in text
    assert main(["inspect", str(run)]) == 0
    assert "checkpoint-5 (the newest of 2)" in capsys.readouterr().out


def test_inspect_reads_headers_only(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Header:
        """Of a file: names, types and shapes."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = safe_open(*args, **kwargs)

        def __enter__(self) -> Header:
            self.keys = self.file.__enter__().keys
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.__exit__(*error)

        def get_slice(self, name: str) -> Any:
            found = self.file.get_slice(name)
            return type("Facts", (), {"get_dtype": found.get_dtype, "get_shape": found.get_shape})

    def refuse(*args: Any) -> None:
        raise AssertionError("elements were read")

    monkeypatch.setattr(inspection, "safe_open", Header)
    monkeypatch.setattr(OptimizerParts, "read", refuse)
    assert inspection.inspect(run / "checkpoint-5")["optimizer"]["states"]


@pytest.mark.parametrize("name", ["config.json", "optimizer/optimizer.json", "model.safetensors"])
def test_inspect_names_a_damaged_file_that_it_reads(run: Path, name: str) -> None:
    path = run / "checkpoint-5" / name
    path.write_bytes(b"[" + path.read_bytes()[1:])
    with pytest.raises(UserError, match=rf"checkpoint-5.*{name} (has another content|cannot be read)"):
        main(["inspect", str(run)])


def test_inspect_counts_what_parameters_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Small()
    optimizer = adan(model)
    train(model, optimizer, range(2))
    model.scale.grad = torch.ones_like(model.scale)
    for param in model.parameters():
        if param is not model.scale:
            param.grad = None
    optimizer.step()
    path = make_checkpoint(tmp_path, 3, model, optimizer, stage=2)
    main(["inspect", str(path)])
    text = capsys.readouterr().out
    assert "at ZeRO stage 2" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["exp_avg", "float32", "5", "67", "268", "bytes", "2", "to", "3"] in rows


def test_inspect_of_files_that_are_fsdps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_checkpoint(tmp_path, 3, Small(), None, more={"optimizer_0/__0_0.distcp": b"torch's"})
    main(["inspect", str(path)])
    assert "optimizer: in FSDP's files (no optimizer/optimizer.json)" in capsys.readouterr().out
    for words in (["export"], ["reshard", "--world_size", "1", "--stage", "2"]):
        output = tmp_path / words[0]
        if words == ["export"]:
            assert main([*words, str(path), "--output_dir", str(output)]) == 0
            assert "in FSDP's files and was left out" in capsys.readouterr().out
            assert (output / "model.safetensors").exists()
        else:
            with pytest.raises(UserError, match=r"no optimizer/optimizer.json: FSDP's files"):
                main([*words, str(path), "--output_dir", str(output)])


def test_verify_says_which_are_good(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [f"{run}/checkpoint-5: good", f"{run}/checkpoint-3: good"]

    part = "optimizer/part-00001-of-00002.safetensors"
    flip(run / "checkpoint-5" / part)
    (run / "checkpoint-5" / "scheduler.pt").unlink()
    assert main(["verify", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"{run}/checkpoint-5: damaged",
        f"  {part} has another content than was written (its SHA-256 differs)",
        "  scheduler.pt is missing",
    ]
    assert lines[3].startswith(f"{run}/checkpoint-3: good (") and len(lines) == 4
    assert main(["verify", str(run / "checkpoint-3")]) == 0
    capsys.readouterr()

    assert main(["verify", str(run), "--json"]) == 1
    newest, oldest = json.loads(capsys.readouterr().out)
    assert [damage["file"] for damage in newest["damages"]] == [part, "scheduler.pt"] and newest["good"] is False
    assert oldest == {"path": str(run / "checkpoint-3"), "good": True, "damages": []}


def test_verify_beside_a_run_that_removes_its_oldest(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def removed_meanwhile(checkpoint: Path) -> list[Any]:
        if checkpoint.name == "checkpoint-3":
            shutil.rmtree(checkpoint)
        return verify(checkpoint)

    monkeypatch.setattr(commands, "verify_shown", removed_meanwhile)
    assert main(["verify", str(run)]) == 0
    told = capsys.readouterr().out
    assert "checkpoint-5: good" in told and "checkpoint-3" not in told


def test_verify_of_one_that_was_not_written_to_its_end(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint-5" / "manifest.json").unlink()
    assert main(["verify", str(run / "checkpoint-5")]) == 1
    assert "manifest.json is missing: the checkpoint was not written to its end" in capsys.readouterr().out


def test_time_left_of_what_takes_long(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["verify", str(run)])
    assert "verifying" not in capsys.readouterr().err
    monkeypatch.setattr(derived_folder, "SHOWN_BYTES", 1)
    main(["verify", str(run)])
    main(["export", str(run), "--output_dir", str(tmp_path / "exported")])
    told = capsys.readouterr().err
    assert "verifying checkpoint-3" in told and "writing exported" in told


@pytest.mark.parametrize("words", [["export"], ["reshard", "--world_size", "1", "--stage", "2"]])
def test_of_a_damaged_one_nothing_is_made(run: Path, tmp_path: Path, words: list[str]) -> None:
    flip(run / "checkpoint-5" / "model.safetensors")
    with pytest.raises(UserError) as error:
        main([*words, str(run), "--output_dir", str(tmp_path / "out")])
    assert "checkpoint-5 is damaged: model.safetensors has another content than was written" in str(error.value)
    assert f"verify {run}`" in str(error.value)
    (run / "checkpoint-5" / "scheduler.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint-5 is damaged: scheduler.pt has 0 bytes instead of"):
        main(["inspect", str(run)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize("words", [["export"], ["reshard", "--world_size", "2", "--stage", "3"]])
def test_no_folder_is_written_over_or_half(
    run: Path, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = run / "checkpoint-5"
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match=r"--output_dir: '.*taken' exists already; choose a new folder"):
        main([*words, str(run), "--output_dir", str(taken)])
    assert not list(taken.iterdir())
    with pytest.raises(UserError, match=r"is inside .*checkpoint-5, to which nothing is added"):
        main([*words, str(checkpoint), "--output_dir", str(checkpoint / "out")])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"could not be written \(No space left on device .*nothing of it was left"):
        main([*words, str(run), "--output_dir", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "taken"]
    assert main(["verify", str(run)]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], r"name a command: inspect, verify, export, reshard; see `python -m nlp_adan.training.checkpoint --help`"),
        (["exprot", "."], r"unknown command 'exprot' \(did you mean 'export'\?\); known are inspect"),
        (["inspect"], r"required: DIR; see `python -m nlp_adan.training.checkpoint inspect --help`"),
        (["inspect", ".", "--jsn"], r"unknown option '--jsn' \(did you mean '--json'\?\)"),
        (["export", "."], r"required: --output_dir"),
        (["export", ".", "--output", "out"], r"unknown option '--output' \(did you mean '--output_dir'\?\)"),
        (["export", ".", "--output_dir", "out", "--dtype", "float23"], r"--dtype: unknown value 'float23' .*'float32'"),
        (["reshard", ".", "--output_dir", "out", "--world_size", "2"], r"required: --stage"),
        (["reshard", ".", "--output_dir=out", "--world_size=2", "--stage=4"], r"--stage: unknown value '4'; possible"),
        (
            ["reshard", ".", "--output_dir=out", "--world_size", "-1", "--stage=1"],
            r"-1 is no number of ranks; choose 1",
        ),
        (["reshard", ".", "--output_dir=out", "--world_size=two", "--stage=1"], r"--world_size: invalid int value"),
    ],
    ids=" ".join,
)
def test_mistakes_in_the_words(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        main(words)


def test_mistakes_in_the_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    with pytest.raises(UserError, match=r"DIR: there is no folder 'tinny' \(did you mean 'tiny'\?\)"):
        main(["verify", "tinny"])
    Path("file").touch()
    with pytest.raises(UserError, match=r"DIR: 'file' is a file; name a checkpoint's folder, or a run's"):
        main(["verify", "file"])
    for folder in (".", "tiny/checkpoint-5/optimizer"):
        with pytest.raises(
            UserError, match=r"neither a checkpoint \(it has no manifest.json\) nor the folder of a run"
        ):
            main(["inspect", folder])
    monkeypatch.chdir(run / "checkpoint-3")
    assert main(["verify", "."]) == 0


def denied(path: object, *_: object, **__: object) -> Any:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_that_the_user_may_not_read(command: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(UserError, match=r"DIR: '.*tiny': Permission denied; see that it can be read"):
        main([command, str(run)])


def test_a_file_that_the_user_may_not_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the checkpoint's, and not one of the folder that is written."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        assert main(["verify", str(run)]) == 1
    monkeypatch.setattr(derived_folder, "open", denied, raising=False)
    for words in (["export"], ["reshard", "--world_size", "1", "--stage", "0"]):
        with pytest.raises(UserError, match=r"DIR: '.*checkpoint-5/.*': Permission denied; see that it can be read"):
            main([words[0], str(run), *words[1:], "--output_dir", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()


def test_the_help_fits_a_screen() -> None:
    """As a program, which a mistake ends with exit code 2 and no traceback."""
    command = [sys.executable, "-m", "nlp_adan.training.checkpoint"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(shown) <= 24 and max(map(len, shown)) <= 100
    assert any(line.startswith("example: python -m nlp_adan.training.checkpoint") for line in shown)
