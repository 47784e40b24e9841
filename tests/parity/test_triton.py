"""The Triton back end without a GPU: its results by Triton's interpreter, its machine code by Triton's compiler.

Speed on a GPU is measured by benchmarks/optimizer_step.py where there is one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nlp_adan.adan import Adan
from nlp_adan.kernels import eager, gpu
from nlp_adan.kernels.operands import Operands
from nlp_adan.update import coefficients
from tests.parity.test_adan_oracles import relative_update_difference

pytest.importorskip("triton")
KERNELS = "nlp_adan.kernels.triton_kernels"
FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16
OPTIONS = {
    "lr": 0.1, "betas": (0.9, 0.8, 0.7), "eps": 1e-8, "weight_decay": 0.1, "no_prox": False, "maximize": False,
    "restart_interval": 0,
}  # fmt: skip


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels, imported anew under Triton's interpreter, which works on CPU tensors."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    sys.modules.pop(KERNELS, None)
    importlib.import_module(KERNELS)
    yield
    sys.modules.pop(KERNELS, None)


def operands(numel: int, param: torch.dtype, grad: torch.dtype, state: torch.dtype, low_bits: bool) -> Operands:
    generator = torch.Generator().manual_seed(numel)

    def values(dtype: torch.dtype) -> Tensor:
        return torch.randn(numel, generator=generator).to(dtype)

    p, g, m, v, n, h = (values(dtype) for dtype in (param, grad, state, state, FLOAT, state))
    low = torch.randint(-32768, 32768, (numel,), generator=generator).short() if low_bits else None
    return Operands(p, g, m, v, n.abs(), h, low)


def exact_param(tensors: Operands) -> Tensor:
    high = tensors.param.double()
    if tensors.low_bits is None:
        return high
    bits = (tensors.param.view(torch.int16).int() << 16) + tensors.low_bits.int()
    return bits.view(torch.float32).double()


@pytest.mark.parametrize("sizes", [(1,), (9000,), (1, 8192, 8199, 777)], ids=str)
@pytest.mark.parametrize("step", [1, 3, "each"])
@pytest.mark.parametrize(
    ("param", "grad", "state", "low_bits"),
    [(FLOAT, FLOAT, FLOAT, False), (FLOAT, FLOAT, BFLOAT, False), (FLOAT, BFLOAT, FLOAT, False),
     (BFLOAT, BFLOAT, BFLOAT, True), (BFLOAT, BFLOAT, BFLOAT, False), (BFLOAT, FLOAT, FLOAT, True),
     (HALF, HALF, FLOAT, False)],
)  # fmt: skip
def test_interpreted_kernels_compute_what_the_eager_rule_does(
    interpreted: None, sizes: tuple[int, ...], step: Any, param: Any, grad: Any, state: Any, low_bits: bool
) -> None:
    ours, theirs = ([operands(size, param, grad, state, low_bits) for size in sizes] for _ in range(2))
    number = torch.arange(1, len(sizes) + 1, dtype=torch.float64) if step == "each" else step
    c, factor = coefficients(number, OPTIONS), torch.tensor(0.5)
    gpu.step(ours, c, factor, torch.tensor(0.0))
    eager.step(theirs, c, factor, None)
    # One rounding of a narrow dtype can fall to the other side: its spacing is 2^-8 of a value in bfloat16.
    spacing = {FLOAT: 2e-6, BFLOAT: 2**-7, HALF: 2**-10}
    for a, b in zip(ours, theirs, strict=True):
        close = 5e-6 if low_bits else spacing[param]
        torch.testing.assert_close(exact_param(a), exact_param(b), rtol=close, atol=close)
        for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"):
            x, y = getattr(a, name), getattr(b, name)
            torch.testing.assert_close(x, y, rtol=spacing[x.dtype], atol=spacing[x.dtype])
        assert torch.equal(a.grad, b.grad)


def test_found_inf_leaves_everything(interpreted: None) -> None:
    batch, before = ([operands(size, FLOAT, FLOAT, FLOAT, False) for size in (5, 70)] for _ in range(2))
    for part in (batch, batch[:1]):
        gpu.step(part, coefficients(2, OPTIONS), None, torch.tensor(1.0))
    for a, b in zip(batch, before, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:6], b[:6], strict=True))


def test_60_steps_of_the_optimizer(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole class on this back end, against the float64 oracle."""
    runs = []
    for dtype, back_end in ((torch.float32, gpu), (torch.float64, None)):
        monkeypatch.setattr("nlp_adan.batches.fused_back_end", lambda _, back_end=back_end: back_end)
        generator = torch.Generator().manual_seed(0)
        start = [0.1 * torch.randn(shape, generator=generator).to(dtype) for shape in ((17, 5), (3,), ())]
        params = [torch.nn.Parameter(value.clone()) for value in start]
        optimizer = Adan(params, lr=1e-2, weight_decay=0.02, max_grad_norm=2.0)
        for _ in range(60):
            for param in params:
                param.grad = (1.0 + 0.5 * torch.randn(param.shape, generator=generator)).to(dtype)
            optimizer.step()
        runs.append([param.detach() for param in params])
    assert relative_update_difference(runs[0], runs[1], start) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(("name", "per_parameter"), [("float32", False), ("bfloat16", True)])
def test_compiled_for_an_nvidia_gpu_it_reads_16_bytes_at_a_time(name: str, per_parameter: bool) -> None:
    """Triton needs no GPU to compile for one; here for compute capability 9.0."""
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = importlib.import_module(KERNELS).many_tensors
    pointers = {"table": "*i64", "chunk_tensor": "*i32", "chunk_start": "*i64", "rows": "*fp32"}
    signature = {
        argument: "constexpr" if argument.isupper() else pointers.get(argument, "fp32") for argument in kernel.arg_names
    }
    dtype = getattr(tl, name)
    constants = {
        "PARAM": dtype, "GRAD": dtype, "STATE": dtype, "ALIGNMENT": 16, "FROM_ROW": per_parameter,
        "HAS_FACTOR": False, "HAS_FOUND_INF": False, "HAS_LOW_BITS": name == "bfloat16", "CHUNK": gpu.CHUNK,
        "BLOCK": gpu.BLOCK, "grad_factor": None, "found_inf": None,
    }  # fmt: skip
    if not per_parameter:
        constants["rows"] = None
    signature.update(dict.fromkeys(constants, "constexpr"))
    source = ASTSource(kernel, signature, constants)
    code = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": gpu.WARPS}).asm["ptx"]
    assert "ld.global.v4.b32" in code and "st.global.v4.b32" in code


def test_it_is_tried_out_before_its_first_use(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver or a C compiler that triton misses shows here, not in the middle of a run."""
    gpu.available.cache_clear()
    assert gpu.available(torch.device("cpu"))
    gpu.available.cache_clear()

    def broken(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(gpu, "step", broken)
    with pytest.warns(RuntimeWarning, match="Failed to find C compiler"):
        assert not gpu.available(torch.device("cpu"))
    gpu.available.cache_clear()


def test_what_goes_the_eager_way() -> None:
    assert gpu.takes(operands(3, FLOAT, FLOAT, BFLOAT, False))
    assert not gpu.takes(operands(3, torch.float64, torch.float64, torch.float64, False))
    odd = operands(3, FLOAT, FLOAT, FLOAT, False)
    assert not gpu.takes(odd._replace(exp_avg_sq=odd.exp_avg_sq.bfloat16()))
