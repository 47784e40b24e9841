"""Adan's update in Triton (nlp_adan/update.py has the equations): one tensor a launch, or many by a table of addresses.

Importing this needs triton. With TRITON_INTERPRET=1 set before the import the same code runs on CPU tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl

TABLE_COLUMNS = 8  # addresses of the seven operands (the last 0 without low bits), number of elements
ROW_STRIDE: tl.constexpr = tl.constexpr(16)  # numbers from one row of coefficients to the next: 64 bytes


@triton.jit
def _update(
    param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits, start, numel,
    decay1, gain1, decay2, gain2, decay3, gain3, keep,
    step_size, step_size_diff, root_correction3, eps, shrink, factor,
    WHOLE: tl.constexpr, HAS_LOW_BITS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Elements start .. start + CHUNK of one parameter, BLOCK at a time; all arithmetic in float32.

    WHOLE says that all of them lie inside the parameter: without a mask the compiler reads 16 bytes at a time.
    """
    for at in range(0, CHUNK, BLOCK):
        index = start + at + tl.arange(0, BLOCK)
        inside = tl.full((BLOCK,), True, tl.int1) if WHOLE else index < numel
        g = tl.load(grad + index, mask=inside, other=0.0).to(tl.float32) * factor
        stored = tl.load(param + index, mask=inside, other=0.0)
        if HAS_LOW_BITS:
            low = tl.load(low_bits + index, mask=inside, other=0).to(tl.int32)
            p = ((stored.to(tl.int16, bitcast=True).to(tl.int32) << 16) + low).to(tl.float32, bitcast=True)
        else:
            p = stored.to(tl.float32)
        m = tl.load(exp_avg + index, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(exp_avg_diff + index, mask=inside, other=0.0).to(tl.float32)
        n = tl.load(exp_avg_sq + index, mask=inside, other=0.0)
        h = tl.load(neg_pre_grad + index, mask=inside, other=0.0).to(tl.float32)

        known = keep != 0.0  # selected, not multiplied: a NaN times 0 would stay
        diff = tl.where(known, h + g, 0.0)
        m = tl.where(known, m * decay1, 0.0) + g * gain1
        v = tl.where(known, v * decay2, 0.0) + diff * gain2
        ahead = diff * decay2 + g
        n = tl.where(known, n * decay3, 0.0) + ahead * ahead * gain3
        denominator = tl.sqrt(n) * root_correction3 + eps
        p -= (m * step_size + v * step_size_diff) / denominator + p * shrink

        if HAS_LOW_BITS:
            # To the nearest bfloat16, ties away from zero: what is left then always fits int16. A NaN must stay one.
            bits = p.to(tl.int32, bitcast=True)
            high = tl.where(p == p, (bits + 0x8000) >> 16, 0x7FC0)
            low = tl.where(p == p, bits - (high << 16), 0)
            tl.store(param + index, high.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=inside)
            tl.store(low_bits + index, low.to(tl.int16), mask=inside)
        else:
            tl.store(param + index, p.to(param.dtype.element_ty), mask=inside)
        tl.store(exp_avg + index, m.to(exp_avg.dtype.element_ty), mask=inside)
        tl.store(exp_avg_diff + index, v.to(exp_avg_diff.dtype.element_ty), mask=inside)
        tl.store(exp_avg_sq + index, n, mask=inside)
        tl.store(neg_pre_grad + index, (-g).to(neg_pre_grad.dtype.element_ty), mask=inside)


@triton.jit
def _one_row(
    param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits, start, numel, row, grad_factor,
    decay1, gain1, decay2, gain2, decay3, gain3, keep,
    step_size, step_size_diff, root_correction3, eps, shrink, sign,
    FROM_ROW: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_LOW_BITS: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`_update` with the coefficients of this parameter: the arguments, or the 13 numbers at `row`."""
    if FROM_ROW:
        decay1, gain1 = tl.load(row), tl.load(row + 1)
        decay2, gain2 = tl.load(row + 2), tl.load(row + 3)
        decay3, gain3 = tl.load(row + 4), tl.load(row + 5)
        keep = tl.load(row + 6)
        step_size, step_size_diff = tl.load(row + 7), tl.load(row + 8)
        root_correction3, eps = tl.load(row + 9), tl.load(row + 10)
        shrink, sign = tl.load(row + 11), tl.load(row + 12)
    factor = sign
    if HAS_FACTOR:
        factor = sign * tl.load(grad_factor).to(tl.float32)
    if start + CHUNK <= numel:
        _update(
            param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits, start, numel,
            decay1, gain1, decay2, gain2, decay3, gain3, keep,
            step_size, step_size_diff, root_correction3, eps, shrink, factor,
            True, HAS_LOW_BITS, CHUNK, BLOCK,
        )  # fmt: skip
    else:
        _update(
            param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits, start, numel,
            decay1, gain1, decay2, gain2, decay3, gain3, keep,
            step_size, step_size_diff, root_correction3, eps, shrink, factor,
            False, HAS_LOW_BITS, CHUNK, BLOCK,
        )  # fmt: skip


# Without specialising on the number of elements: one compilation serves every tensor, also inside a CUDA graph's capture,
# where nothing can be compiled.
@triton.jit(do_not_specialize=["numel"])
def one_tensor(
    param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits, numel, row, grad_factor, found_inf,
    decay1, gain1, decay2, gain2, decay3, gain3, keep,
    step_size, step_size_diff, root_correction3, eps, shrink, sign,
    FROM_ROW: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_FOUND_INF: tl.constexpr, HAS_LOW_BITS: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One parameter, CHUNK elements a program. Nothing is changed where `found_inf` is not 0."""
    if HAS_FOUND_INF:
        if tl.load(found_inf) != 0.0:
            return
    _one_row(
        param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits,
        tl.program_id(0).to(tl.int64) * CHUNK, numel, row, grad_factor,
        decay1, gain1, decay2, gain2, decay3, gain3, keep,
        step_size, step_size_diff, root_correction3, eps, shrink, sign,
        FROM_ROW, HAS_FACTOR, HAS_LOW_BITS, CHUNK, BLOCK,
    )  # fmt: skip


@triton.jit
def many_tensors(
    table, chunk_tensor, chunk_start, rows, grad_factor, found_inf,
    decay1, gain1, decay2, gain2, decay3, gain3, keep,
    step_size, step_size_diff, root_correction3, eps, shrink, sign,
    PARAM: tl.constexpr, GRAD: tl.constexpr, STATE: tl.constexpr, ALIGNMENT: tl.constexpr,
    FROM_ROW: tl.constexpr, HAS_FACTOR: tl.constexpr, HAS_FOUND_INF: tl.constexpr, HAS_LOW_BITS: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Many parameters in one launch: program i takes CHUNK elements of tensor chunk_tensor[i] from chunk_start[i] on.

    `table`: int64, a row of TABLE_COLUMNS for each tensor; its addresses are multiples of ALIGNMENT bytes, which lets
    the compiler read 16 bytes at a time.
    """
    if HAS_FOUND_INF:
        if tl.load(found_inf) != 0.0:
            return
    tensor = tl.load(chunk_tensor + tl.program_id(0))
    start = tl.load(chunk_start + tl.program_id(0))
    entry = table + tensor * 8
    param = tl.multiple_of(tl.load(entry).to(tl.pointer_type(PARAM)), ALIGNMENT)
    grad = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(GRAD)), ALIGNMENT)
    exp_avg = tl.multiple_of(tl.load(entry + 2).to(tl.pointer_type(STATE)), ALIGNMENT)
    exp_avg_diff = tl.multiple_of(tl.load(entry + 3).to(tl.pointer_type(STATE)), ALIGNMENT)
    exp_avg_sq = tl.multiple_of(tl.load(entry + 4).to(tl.pointer_type(tl.float32)), ALIGNMENT)
    neg_pre_grad = tl.multiple_of(tl.load(entry + 5).to(tl.pointer_type(STATE)), ALIGNMENT)
    low_bits = tl.multiple_of(tl.load(entry + 6).to(tl.pointer_type(tl.int16)), ALIGNMENT)
    row = rows
    if FROM_ROW:
        row = rows + tensor * ROW_STRIDE
    _one_row(
        param, grad, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, low_bits,
        tl.multiple_of(start, CHUNK), tl.load(entry + 7), row, grad_factor,
        decay1, gain1, decay2, gain2, decay3, gain3, keep,
        step_size, step_size_diff, root_correction3, eps, shrink, sign,
        FROM_ROW, HAS_FACTOR, HAS_LOW_BITS, CHUNK, BLOCK,
    )  # fmt: skip
