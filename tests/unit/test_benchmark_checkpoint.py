"""The benchmark of a checkpoint's cost, on a tiny model: its figures, what is saved, its bar, mistakes."""

from __future__ import annotations

import importlib
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors
import torch

from nlp_adan.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
TINY = {"hidden": 16, "layers": 1, "vocabulary": 300, "batch": 1, "length": 8, "threads": 1, "rounds": 3}
WORDS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
STATES = {"exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark as a module; it sets the threads of torch."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    threads = torch.get_num_threads()
    yield importlib.import_module("checkpoint")
    torch.set_num_threads(threads)


def test_figures(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, folder = tmp_path / "figures.json", tmp_path / "saved"
    folder.mkdir()
    words = ["checkpoint.py", *WORDS, "--json", str(figures), "--folder", str(folder)]
    monkeypatch.setattr("sys.argv", words)
    benchmark.main()
    printed, result = capsys.readouterr().out, json.loads(figures.read_text())
    seconds = {name: row["all"] for name, row in result["seconds"].items()}
    assert all(len(values) == 3 for values in seconds.values()) and len(result["steps_meanwhile"]) == 3
    for index in range(3):
        stalled, written = seconds["stalled"][index], seconds["written"][index]
        assert stalled == seconds["composed"][index] + seconds["held"][index]
        assert 0 < seconds["composed"][index] < written and 0 < seconds["hashed"][index] < written
        assert 0 < seconds["plain"][index] < seconds["synced"][index]
    ratios = sorted(a / b for a, b in zip(seconds["stalled"], seconds["plain"], strict=True))
    assert result["headline"] == ratios[1] > result["stalled_over_synced_torch_save"] > 0
    assert result["first_stalled_over_torch_save"] == seconds["stalled"][0] / seconds["plain"][0]
    assert f"stalled / torch.save: {ratios[1]:.3f} (at most 0.15)" in printed
    # Weights and four states, 4 bytes each, and some headers.
    least = 5 * 4 * result["num_parameters"] / 1e6
    assert least < result["megabytes"] < least + 0.1
    assert not list(folder.iterdir())


def test_the_bar(benchmark: ModuleType) -> None:
    def printed(composed: float) -> str:
        saves = benchmark.Saves(num_bytes=2_000_000, steps_meanwhile=[1, 2])
        for name, value in {"composed": composed, "held": 0.05, "slower": 0.1, "written": 2.0, "hashed": 1.0,
                            "quiet_step": 0.5, "plain": 2.0, "synced": 4.0}.items():  # fmt: skip
            setattr(saves, name, [value, value])
        result = benchmark.figures(saves)
        assert result["megabytes_per_second"]["behind the training"] == 1.0
        assert result["share_of_hashing"] == 0.5
        machine = {"packages": {"torch": "2"}, "num_cpu_cores": 2, "cpu": "some"}
        result |= {"machine": machine, "num_parameters": 1, "file_system": "ext4 at /"}
        text: str = benchmark.report(result, benchmark.parse([]))
        return text

    assert "stalled / torch.save: 0.125 (at most 0.15): met" in printed(0.2)
    assert "stalled / torch.save: 0.175 (at most 0.15): NOT met" in printed(0.3)
    assert "of the first save, to new memory: 0.125" in printed(0.2)
    assert "0.125 of a torch.save, at steps of 0.50 s\n" in printed(0.2)
    assert "stalled / synced torch.save: 0.062" in printed(0.2)
    assert "stalled and slower / torch.save: 0.175" in printed(0.2)


def test_both_save_the_same_bytes(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the one behind the training has the weights of the step that it was begun after."""
    training = benchmark.Training(benchmark.parse(WORDS))
    training.step()
    kept: dict[str, Any] = {}

    def keep(folder: Path, ignore_errors: bool = False) -> None:
        assert folder.name.startswith("checkpoint-") or ignore_errors
        for path in folder.rglob("*.safetensors"):
            with safetensors.safe_open(path, "pt") as file:
                kept.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, no dict

    monkeypatch.setattr(benchmark.shutil, "rmtree", keep)
    saves = benchmark.Saves()
    begin = benchmark.CheckpointWriter.begin
    expected: dict[str, torch.Tensor] = {}

    def note_and_begin(*args: Any, **kwargs: Any) -> None:
        expected.update({name: weight.clone() for name, weight in benchmark.weights(training).items()})
        begin(*args, **kwargs)

    monkeypatch.setattr(benchmark.CheckpointWriter, "begin", note_and_begin)
    benchmark.save_behind(training, benchmark.CheckpointWriter(tmp_path), saves)
    assert saves.steps_meanwhile[0] >= 1 and training.step_number == 4 + saves.steps_meanwhile[0]
    names = set(expected)
    assert {name.partition("/")[0] for name in kept if "/" in name} >= STATES
    assert {name for name in kept if "/" not in name} == names
    assert all(torch.equal(kept[name], weight) for name, weight in expected.items())
    assert any(not torch.equal(kept[name], weight) for name, weight in benchmark.weights(training).items())

    whole: dict[str, Any] = {}
    monkeypatch.setattr(benchmark.torch, "save", lambda value, path: (whole.update(value), path.touch()))
    benchmark.save_plainly(training, tmp_path, saves)
    assert set(whole["model"]) == names and len(whole["optimizer"]["state"]) == len(names)
    ours = sum(tensor.nbytes for tensor in kept.values())
    states = [state for each in whole["optimizer"]["state"].values() for state in each.values()]
    theirs = sum(tensor.nbytes for tensor in [*whole["model"].values(), *states] if isinstance(tensor, torch.Tensor))
    assert abs(ours - theirs) <= 16 * len(names)  # counters


def test_hashing_is_timed_within_only(benchmark: ModuleType, tmp_path: Path) -> None:
    tensor_files = benchmark.tensor_files
    with benchmark.hashing_timed() as clock:
        timed = tensor_files.write_pieces(tmp_path / "file", [b"1" * 4_000_000])
        assert clock.seconds > 0
    spent = clock.seconds
    assert tensor_files.write_pieces(tmp_path / "file", [b"1" * 4_000_000]) == timed and clock.seconds == spent


def test_a_save_that_fails_is_told(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = benchmark.Training(benchmark.parse(WORDS))
    training.step()
    (tmp_path / f".checkpoint-{1 + benchmark.QUIET_STEPS}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"--folder: the checkpoint of step 4 could not be written: "):
        benchmark.save_behind(training, benchmark.CheckpointWriter(tmp_path), benchmark.Saves())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "1"], "--rounds must be 2 or more, got 1"),
        (["--layers", "0"], "--layers must be 1 or more, got 0"),
        (["--hidden", "100"], "--hidden must be a multiple of 64, got 100"),
        (["--folder", "nowhere"], "--folder nowhere: no such folder"),
    ],
)
def test_mistakes(benchmark: ModuleType, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmark.parse(words)


def test_a_disk_that_is_too_small(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = benchmark.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(benchmark.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr("sys.argv", ["checkpoint.py", *WORDS, "--folder", str(tmp_path)])
    with pytest.raises(UserError, match="GB of space are needed; name another folder"):
        benchmark.main()


def test_a_mistake_ends_with_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    monkeypatch.setattr("sys.argv", ["checkpoint.py", "--rounds", "0"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(PROJECT / "benchmarks" / "checkpoint.py"), run_name="__main__")
    told = capsys.readouterr().err
    assert left.value.code == 2 and told.count("\n") == 1 and "--rounds must be 2 or more" in told
