"""The low-precision benchmark in small: what it prints and keeps, that it goes on where it stopped, its messages."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nlp_adan.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
low_precision = importlib.import_module("benchmarks.low_precision")  # a script: mypy knows it without a package
SIZES = {"steps": 4, "seeds": 1, "hidden": 16, "layers": 1, "heads": 2, "context": 16, "batch": 2}
SMALL = [f"--{name}={value}" for name, value in {**SIZES, "validation-windows": 4}.items()]
# Bytes a parameter and its state take: parameter, three averages or gradients, second moment, low bits. Besides them
# a counter of 4 bytes for each tensor, which in so small a model is 0.1 byte a parameter at most.
BYTES_PER_PARAMETER = {
    "fp32": 4 + 3 * 4 + 4,
    "bf16_state": 4 + 3 * 2 + 4,
    "fp32_master": 4 + 3 * 4 + 4,
    "bf16_low_bits": 2 + 3 * 2 + 4 + 2,
    "bf16_naive": 2 + 3 * 2 + 4,
}


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    words = random.Random(0)
    for name, count in (("some.train.txt", 400), ("some.valid.txt", 100)):
        (folder / name).write_text(" ".join(words.choice(("the", "cat", "sat", "on")) for _ in range(count)))
    return folder


def test_every_variant_is_run_kept_and_told(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    arguments = ["--data", str(text_folder), "--json", str(results), *SMALL]
    low_precision.main([*arguments, "--variants", "fp32", "fp32_master"])
    kept = json.loads(results.read_text())["runs"]
    assert [one["variant"] for one in kept] == ["fp32", "fp32_master"]
    capsys.readouterr()
    low_precision.main(arguments)
    content = json.loads(results.read_text())
    assert content["runs"][:2] == kept  # the second command ran only what was missing

    assert set(content["summary"]) == set(BYTES_PER_PARAMETER)
    for one in content["runs"]:
        assert BYTES_PER_PARAMETER[one["variant"]] == pytest.approx(one["bytes_per_parameter"], abs=0.1)
        assert len(one["curve"]) == 1
    # Four small steps on the same batches from the same weights: apart by rounding, against a loss near 5.5.
    assert set(content["headline"]) == {"bf16_state", "bf16_low_bits", "bf16_naive"}
    for name, difference in content["headline"].items():
        row = content["summary"][name]
        reference = content["summary"][row["reference"]]["validation_loss"]
        assert difference == pytest.approx(row["validation_loss"] - reference)
        assert 0 < abs(difference) < 0.1
        assert row["within_seed_noise"] is None  # one seed has no noise to compare with

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Validation loss against the reference, nats per byte: fp32 params, bf16 state ")
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| fp32",
        "| fp32 params, bf16 state",
        "| fp32 master, bf16 autocast",
        "| bf16 params, low bits kept",
        "| bf16 params, low bits lost",
    ]
    assert {line.count("|") for line in lines[2:]} == {10}

    with pytest.raises(UserError, match=r"other settings \(lr 0.006\)"):
        low_precision.main([*arguments, "--lr", "0.1"])


def test_comparison_by_seed() -> None:
    """Losses made up: differences of +0.1 and +0.3 from a reference whose seeds are 1 apart, std 0.7071."""
    losses = {"fp32": (2.0, 3.0), "bf16_state": (2.1, 3.3), "fp32_master": (2.0, 2.0), "bf16_naive": (2.5, None)}
    runs = [
        {"variant": name, "seed": seed, "validation_loss": loss, "bytes_per_parameter": 20.0}
        for name, of_seeds in losses.items()
        for seed, loss in enumerate(of_seeds)
    ]
    summary = low_precision.summarize(runs)
    state = summary["bf16_state"]
    assert state["paired_difference"] == pytest.approx(0.2)
    assert state["paired_difference_standard_deviation"] == pytest.approx(0.2 / 2**0.5)
    assert summary["fp32"]["standard_deviation"] == pytest.approx(0.5**0.5)
    assert state["within_seed_noise"] is True
    assert summary["bf16_naive"]["within_seed_noise"] is False  # one of its runs diverged
    assert "bf16 params, low bits lost +nan (beyond seed noise)" in low_precision.as_markdown(summary)


@pytest.mark.parametrize(
    ("remove", "named"), [("*", "no such directory"), ("*train*", "'*train*'"), ("*valid*", "'*valid*'")]
)
def test_missing_text_is_named(text_folder: Path, remove: str, named: str) -> None:
    for path in text_folder.glob(remove):
        path.unlink()
    if remove == "*":
        text_folder.rmdir()
    with pytest.raises(UserError) as caught:
        low_precision.main(["--data", str(text_folder), *SMALL])
    message = str(caught.value)
    assert message.startswith(f"--data {text_folder}: ") and named in message and "\n" not in message


def test_command_exits_2_with_one_line(tmp_path: Path) -> None:
    program = PROJECT / "benchmarks" / "low_precision.py"
    command = [sys.executable, str(program), "--data", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --data ") and done.stderr.count("\n") == 1
