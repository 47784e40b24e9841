"""The benchmark of data preparation: its text, both sides on a little of it, its figures and a mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import data_prep
from bert.build import IsValid
from tests.corpora import make_documents

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def novels(tmp_path: Path) -> Path:
    folder = tmp_path / "novels"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text("\n".join(make_documents(150, seed=number)), encoding="utf-8")
    # Held out, being one of the few of its hash: a hundredth of so little text need not have any.
    held_out = (text for text in make_documents(2000, seed=9) if IsValid(0.01, 0)(text.encode()))
    (folder / "8.txt").write_text(next(text for text in held_out if len(text) > 400), encoding="utf-8")
    return folder


def test_copies_differ_in_order_and_in_a_few_words(novels: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    original = sum(path.stat().st_size for path in novels.iterdir())
    num_bytes = data_prep.make_text(novels, text, 3 * original + 1001)
    files = sorted(text.iterdir())
    assert num_bytes == sum(path.stat().st_size for path in files) and 0 <= 3 * original + 1001 - num_bytes < 4
    first, copy = files[0].read_text(), files[9].read_text()
    assert first == (novels / "0.txt").read_text() and len(first) == len(copy)
    assert copy.splitlines()[0] != first.splitlines()[0]
    known = set(" ".join(path.read_text() for path in novels.iterdir()).split())
    new = [word for path in files[9:17] for word in path.read_text().split() if word not in known]
    words = original / 8  # of some eight characters each
    assert 0.001 < len(new) / words < 0.02


def test_both_sides_make_blocks(novels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    tokenizer = tmp_path / "tokenizer"
    data_prep.train_tokenizer(novels, tokenizer, 400)
    ours, theirs = (
        data_prep.run_side(side, novels, str(tokenizer), tmp_path / side, 64, 1)
        for side in (data_prep.OURS, data_prep.THREADS)
    )
    # Theirs has <s> and </s> around every line, and drops the rest of every batch of lines.
    assert ours > 100 and 0.8 < ours / theirs < 1.1


def test_figures_and_bars() -> None:
    def row(seconds: float, peak: float, disk: float) -> dict[str, float]:
        return {"seconds": seconds, "cpu_seconds": 1.0, "peak_mib": peak, "disk_mb": disk, "num_blocks": 5}

    rows = {
        data_prep.OURS: row(10.0, 500.0, 20.0),
        data_prep.THREADS: row(50.0, 900.0, 90.0),
        data_prep.PROCESSES: row(30.0, 2000.0, 100.0),
    }
    result = data_prep.figures(rows, 100_000_000)
    figures = result["figures"]
    assert figures["hf_best"] == data_prep.PROCESSES
    assert figures["speed_over_hf"] == result["headline"] == pytest.approx(3.0)
    assert figures["our_disk_over_hf"] == pytest.approx(0.2) and figures["our_peak_mib"] == 500.0
    machine = {"megabytes": 100.0, "block_size": 64, "workers": 1, "cpu": "x", "load_before": 0.0}
    told = data_prep.report(result, {**machine, "datasets": "4", "tokenizers": "0"})
    assert told.startswith("10.0 MB/s, 3.0 times datasets, processes, peak memory 500 MiB; 3 of 3 bars met")
    rows[data_prep.OURS] = row(20.0, 1500.0, 50.0)
    told = data_prep.report(data_prep.figures(rows, 100_000_000), {**machine, "datasets": "4", "tokenizers": "0"})
    assert "0 of 3 bars met" in told and told.count("NOT met") == 3


def test_a_mistake_and_the_memory_of_a_tree(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/data_prep.py", "--data", str(tmp_path / "nowhere")]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "nowhere: no such file" in result.stderr
    child = subprocess.Popen([sys.executable, "-c", "x = b'1' * 50_000_000; print(1, flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    alone = data_prep.tree_memory(data_prep.psutil.Process(child.pid))
    both = data_prep.tree_memory(data_prep.psutil.Process(os.getpid()))
    child.communicate(b"\n")
    assert 50_000_000 < alone < 90_000_000 < both
