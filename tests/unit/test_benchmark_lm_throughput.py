"""The benchmark of the language models' throughput, on tiny ones: its figures, its parity, its GPU loop, mistakes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nlp_adan.errors import UserError
from transformer_xl import TransformerXLConfig

PROJECT = Path(__file__).resolve().parents[2]
TINY = {
    "layers": 2, "width": 8, "heads": 2, "inner": 12, "length": 6, "memory": 9, "batch": 3, "vocabulary": 60,
    "lstm_width": 8, "small_lstm_width": 4, "lstm_batch": 3, "lstm_length": 5, "rounds": 2, "steps": 1,
}  # fmt: skip
WORDS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))] + ["--no_gpu"]
CUTOFFS = ["--cutoffs", "20", "35"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark as a module; it sets the threads of torch."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    threads = torch.get_num_threads()
    yield importlib.import_module("lm_throughput")
    torch.set_num_threads(threads)


def test_figures(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["lm_throughput.py", *WORDS, *CUTOFFS, "--json", str(figures)])
    benchmark.main()
    printed = capsys.readouterr().out
    result = json.loads(figures.read_text())
    assert result["headline"] == result["plain"] > 0 and "GPU, wt103-base: not measured" in printed
    assert result["bars"] == {"plain": 1.15, "adaptive": 1.3, "lstm": 1.0}
    for name in ("plain", "adaptive", "lstm", "lstm_small"):
        case = result["cases"][name]
        assert result[name] == case["ratio"] and case["cpu_ratio"] > 0
        # Measured: 5e-7 at these sizes.
        assert max(case["parity"].values()) < 1e-5
        sides = case["sides"]
        assert set(sides) == {"ours", case["baseline"]}
        rates = [a / b for a, b in zip(*(side["all_tokens_per_second"] for side in sides.values()), strict=True)]
        assert len(rates) == 2 and sum(rates) / 2 == pytest.approx(case["ratio"])
        assert f"| ours / {case['baseline']} | {case['ratio']:.2f} |" in printed
    for name, bound in result["bars"].items():
        assert (
            f"({bound:g}" in printed
            or f"(at least {bound}): {'met' if result[name] >= bound else 'NOT met'}" in printed
        )
    assert {name: result["options"][name] for name in TINY} == TINY and result["options"]["cutoffs"] == [20, 35]


@pytest.mark.parametrize("name", ["plain", "adaptive", "lstm"])
def test_sides_that_are_not_the_same_model_are_refused(benchmark: ModuleType, name: str) -> None:
    """Whichever parameter of the baseline is another one."""
    options = benchmark.parse([*WORDS, *CUTOFFS])
    case = next(case for case in benchmark.all_cases(options) if case.name == name)
    generator = torch.Generator().manual_seed(0)
    message = rf"{name}: ours and {case.baseline} are not the same model: losses differ by up to"
    for _, param in case.models[case.baseline].named_parameters():
        right = param.detach().clone()
        with torch.no_grad():
            param.add_(0.1 * torch.randn(param.shape, generator=generator))
        with pytest.raises(RuntimeError, match=message):
            benchmark.check_parity(case)
        with torch.no_grad():
            param.copy_(right)
    assert benchmark.check_parity(case)["loss"] < 1e-5


def test_both_sides_train_alike(benchmark: ModuleType) -> None:
    """After the same steps without dropout they have the same losses still, and others than before."""
    options = benchmark.parse([*WORDS, *CUTOFFS, "--dropout", "0"])
    for case in benchmark.all_cases(options):
        before = {name: tensor.clone() for name, tensor in case.models["ours"].state_dict().items()}
        for side in case.models:
            step = benchmark.trainer(case, side)
            for number in range(3):
                step(number)
        assert benchmark.check_parity(case)["loss"] < 1e-4
        changed = [
            name for name, tensor in case.models["ours"].state_dict().items() if not torch.equal(tensor, before[name])
        ]
        assert len(changed) == len(before)


def test_the_gpu_loop(benchmark: ModuleType) -> None:
    mfu: Any = importlib.import_module("lm_mfu")
    assert [case.name for case in mfu.CASES] == ["wt103-base", "wt103-base, compiled"]
    assert mfu.CASES[0].config.vocab_size == 267735 and mfu.CASES[0].batch == 60
    config = TransformerXLConfig(
        vocab_size=60, d_model=8, n_layer=1, n_head=2, d_inner=8, cutoffs=[20], tgt_len=4, mem_len=4
    )
    row = mfu.measure(mfu.Case("tiny", compiled=False, config=config, batch=2), torch.device("cpu"), steps=1)
    assert row["mfu"] is None and row["flops_per_second"] > 0
    assert row["tokens_per_second"] * row["milliseconds"] == pytest.approx(2 * 4 * 1000)


def test_mistakes(benchmark: ModuleType) -> None:
    with pytest.raises(UserError, match=r"--rounds must be 2 or more, got 1"):
        benchmark.parse(["--rounds", "1"])
    with pytest.raises(UserError, match=r"--cutoffs: 99 leaves no token"):
        benchmark.all_cases(benchmark.parse([*WORDS, "--cutoffs", "20", "99"]))
