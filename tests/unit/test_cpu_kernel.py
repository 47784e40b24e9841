"""Building the CPU back end: once, from whatever state a cache may be in, and doing without a compiler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nlp_adan import Adan
from nlp_adan.kernels import cpu, fused_back_end

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = """
import time, warnings, torch
from nlp_adan import Adan
warnings.simplefilter("always")
param = torch.nn.Parameter(torch.ones(5)); param.grad = torch.ones(5)
optimizer = Adan([param], lr=0.1)
start = time.perf_counter()
with warnings.catch_warnings(record=True) as caught:
    optimizer.step(); optimizer.step()
from nlp_adan.kernels import cpu
print("compiled" if cpu.available() else "eager", round(time.perf_counter() - start, 2), len(caught), param[0].item())
for warning in caught: print(warning.category.__name__, warning.message)
"""


def run(cache: Path, **environment: str) -> list[str]:
    """The program's words: back end, seconds of the first two steps, number of warnings, first value, warnings."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=PROJECT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "NLP_ADAN_CACHE": str(cache), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder for this process, which forgets what it has loaded before and after the test."""
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def forget() -> None:
    cpu._library.cache_clear()
    cpu._narrow_dtypes.cache_clear()
    fused_back_end.cache_clear()


def step() -> float:
    param = torch.nn.Parameter(torch.ones(5))
    param.grad = torch.ones(5)
    Adan([param], lr=0.1).step()
    return param[0].item()


def test_built_once_and_fast(tmp_path: Path) -> None:
    """At most 5 s from cold and 0.5 s warm are promised on an idle machine; measured: 1.0 s and 0.02 s."""
    back_end, cold_seconds, num_warnings, value = run(tmp_path)
    assert (back_end, num_warnings) == ("compiled", "0") and float(value) == pytest.approx(0.8)
    (library,) = (tmp_path / "kernels").iterdir()
    written = library.stat().st_mtime_ns
    back_end, warm_seconds, *_ = run(tmp_path)
    assert back_end == "compiled" and library.stat().st_mtime_ns == written
    assert float(cold_seconds) < 15 and float(warm_seconds) < 1.5  # three times that, for a busy machine


@pytest.mark.parametrize("content", [b"", b"\x7fELF not a library"])
def test_a_damaged_library_is_built_anew(cache: Path, content: bytes) -> None:
    assert cpu.available()
    (library,) = (cache / "kernels").iterdir()
    library.unlink()  # the process has the file itself open still
    library.write_bytes(content)
    forget()
    assert cpu.available() and library.stat().st_size > 1000


def test_without_a_compiler_one_warning_and_the_eager_rule(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler.*Install a C\\+\\+ compiler") as caught:
        assert step() == pytest.approx(0.9)
        assert step() == pytest.approx(0.9)
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"fused=True on cpu needs a C\+\+ compiler"):
        Adan([torch.nn.Parameter(torch.ones(2))], fused=True)


def test_a_compiler_that_fails_is_quoted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'c++: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(RuntimeWarning, match="out of order"):
        assert step() == pytest.approx(0.9)


def test_a_library_that_computes_something_else_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = cache.parent / "adan.cpp"
    other.write_text(cpu.SOURCE.read_text().replace("std::sqrt(n_k)", "n_k"))
    monkeypatch.setattr(cpu, "SOURCE", other)
    with pytest.warns(RuntimeWarning, match="other values"):
        assert step() == pytest.approx(0.9)


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file in the way of the folder")
    assert cpu.available()


def test_a_killed_build_does_not_hang_the_next(tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "c++"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    environment = {**os.environ, "NLP_ADAN_CACHE": str(tmp_path / "cache")}
    killed = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL,
        env={**environment, "PATH": f"{slow.parent}:{os.environ['PATH']}", "CXX": ""},
    )  # fmt: skip
    folder = tmp_path / "cache" / "kernels"
    deadline = time.monotonic() + 60
    while not (folder.exists() and any(folder.iterdir())):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    start = time.monotonic()
    assert run(tmp_path / "cache")[0] == "compiled"
    assert time.monotonic() - start < 60


def test_builds_at_the_same_time_do_no_harm(tmp_path: Path) -> None:
    environment = {**os.environ, "NLP_ADAN_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(output.startswith("compiled") for output in outputs)
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".so"]
