"""`python -m nlp_adan SCRIPT.py`: what a script finds, and what is told before it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nlp_adan import __main__ as door
from nlp_adan.integrations import deepspeed

PROJECT = Path(__file__).resolve().parents[2]
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SCRIPT = """
import json, os, pathlib, sys
found = {"name": __name__, "argv": sys.argv, "path": sys.path[0], "world_size": os.environ.get("WORLD_SIZE")}
pathlib.Path(__file__).with_name("found.json").write_text(json.dumps(found))
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that writes down what it finds; no launcher, no communication, another folder."""
    for name in (*LAUNCHER_VARIABLES, *door.OTHER_LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(door, "init_communication", lambda: None)
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "script.py").write_text(SCRIPT)
    return folder / "script.py"


def run(monkeypatch: pytest.MonkeyPatch, script: Path | str, *words: str, before: tuple[str, ...] = ()) -> Any:
    """What the script found when it was run by `python -m nlp_adan BEFORE SCRIPT WORDS`."""
    monkeypatch.setattr(sys, "argv", ["nlp_adan", *before, str(script), *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    door.main()
    return json.loads(Path(script).with_name("found.json").read_text())


def mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message with which `python -m nlp_adan WORDS` ends."""
    monkeypatch.setattr(sys, "argv", ["nlp_adan", *words])
    with pytest.raises(SystemExit) as ended:
        door.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_script_finds_what_python_would_give_it(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, script, "--optim", "adan", "--lr=1")
    assert found["name"] == "__main__" and found["argv"] == [str(script), "--optim", "adan", "--lr=1"]
    assert found["path"] == str(script.parent) and found["world_size"] is None


def test_the_word_of_deepspeeds_launcher_is_the_scripts(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, script, "--optim", "adan", before=("--local_rank=1",))
    assert found["argv"] == [str(script), "--local_rank=1", "--optim", "adan"]


@pytest.mark.parametrize("words", [("--deepspeed", "mine.json"), ("--deepspeed=mine.json",), ("--deepspeed", "--x")])
def test_deepspeed_without_a_launcher_is_one_rank(
    words: tuple[str, ...], script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, script, *words)["world_size"] == "1"


@pytest.mark.parametrize("launcher", [*door.OTHER_LAUNCHERS, "WORLD_SIZE"])
def test_the_ranks_of_a_launcher_are_left_alone(launcher: str, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launcher, "2")
    found = run(monkeypatch, script, "--deepspeed", "mine.json")
    assert found["world_size"] == ("2" if launcher == "WORLD_SIZE" else None)
    assert "RANK" not in os.environ


def test_ranks_on_cpu_start_deepspeeds_communication_themselves(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it ZeRO-3 takes the world for one rank when a script builds its model."""
    started = []
    monkeypatch.setattr(door, "init_communication", lambda: started.append(True))
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    run(monkeypatch, script, "--deepspeed", "mine.json")
    assert not started
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    run(monkeypatch, script, "--optim", "adan")
    assert not started
    run(monkeypatch, script, "--deepspeed", "mine.json")
    assert started


def test_ranks_on_cpu_that_would_not_find_each_other_are_told(
    script: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    run(monkeypatch, script, "--optim", "adan")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(monkeypatch, script, "--optim", "adan", "--use_cpu")
    monkeypatch.setenv("RANK", "1")
    run(monkeypatch, script, "--optim", "adan")
    assert not caplog.messages
    monkeypatch.setenv("RANK", "0")
    run(monkeypatch, script, "--optim", "adan")
    assert "2 ranks without a GPU and without --use_cpu" in caplog.text


def test_mistakes_are_told_before_the_script_starts(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(script), "--optim", "adan", "--optim_args", "bta1=0.9")
    assert "did you mean 'beta1'" in mistake(monkeypatch, capsys, *words)
    elsewhere = mistake(monkeypatch, capsys, str(script), "--deepspeed", "ds_configs/zero2.json")
    assert f"nlp_adan's own is {PROJECT / 'ds_configs' / 'zero2.json'}" in elsewhere
    for launcher_words in ((), ("--local_rank=0",)):
        assert "name a script\nusage: python -m nlp_adan SCRIPT.py" in mistake(monkeypatch, capsys, *launcher_words)
    assert "script 'no.py' does not exist" in mistake(monkeypatch, capsys, "no.py")
    assert not script.with_name("found.json").exists()


def test_the_deepspeed_configurations_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("zero2", "zero2.json"):
        monkeypatch.setattr(sys, "argv", ["nlp_adan", "--ds-config", name])
        door.main()
        assert capsys.readouterr().out == f"{PROJECT / 'ds_configs' / 'zero2.json'}\n"
    monkeypatch.setattr(sys, "argv", ["nlp_adan", "--ds-config"])
    door.main()
    assert capsys.readouterr().out.split() == sorted(str(path) for path in (PROJECT / "ds_configs").glob("*.json"))
    assert "did you mean 'zero2'" in mistake(monkeypatch, capsys, "--ds-config", "zero-2")


def test_neither_missing_package_breaks_the_import() -> None:
    program = """
import sys
sys.modules.update(dict.fromkeys(["transformers", "accelerate", "deepspeed", "numpy", "yaml"]))  # None: not there
import torch, nlp_adan
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
nlp_adan.Adan([parameter], lr=0.1).step()
assert parameter[0] < 1
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_single_rank_has_all_that_deepspeed_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    deepspeed.single_process_environment()
    assert all(name in os.environ for name in LAUNCHER_VARIABLES)
