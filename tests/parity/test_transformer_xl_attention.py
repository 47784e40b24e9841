"""Relative attention against loops over the equations; a memory against one long context; gradients by differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from transformer_xl import TransformerXLConfig, TransformerXLForCausalLM
from transformer_xl.attention import RelativeAttention, attention_mask, position_vectors, relative_attention

SIZES: dict[str, Any] = {
    "vocab_size": 20, "d_model": 6, "n_layer": 2, "n_head": 2, "d_head": 4, "d_inner": 8, "cutoffs": [],
    "tgt_len": 4, "mem_len": 5, "dropout": 0.0,
}  # fmt: skip


def model(**options: Any) -> TransformerXLForCausalLM:
    """In float64, with parameters far from zero, biases and scales too."""
    torch.manual_seed(0)
    made = TransformerXLForCausalLM(TransformerXLConfig(**{**SIZES, **options})).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
    return made


def naive_attention(
    attention: RelativeAttention,
    u: Tensor,
    v: Tensor,
    hidden: Tensor,
    memory: Tensor,
    clamp_len: int,
    window: int | None,
) -> Tensor:
    """What the heads of one attention find, (batch, seq, heads * width), number by number.

    Softmax over the j that i sees, of A_ij / sqrt(width), A_ij = (W_q x_i + u) . W_k x_j + (W_q x_i + v) . W_r R_(i-j).
    """
    (batch, length, d_model), num_memory = hidden.shape, memory.shape[1]
    heads, width = attention.num_heads, attention.head_width
    w_q, w_k, w_v = attention.qkv_weight.view(3, heads, width, d_model)
    w_r = attention.r_net.weight.view(heads, width, d_model)
    u, v = u.view(heads, width), v.view(heads, width)
    x = torch.cat([memory, hidden], dim=1)
    found = torch.zeros(batch, length, heads, width, dtype=hidden.dtype)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                scores, values = [], []
                for j in range(num_memory + length):
                    distance = num_memory + i - j
                    if distance < 0 or (window is not None and distance >= window):
                        continue
                    if clamp_len > 0:
                        distance = min(distance, clamp_len)
                    angles = [distance / 10000 ** (2 * k / d_model) for k in range(d_model // 2)]
                    r = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=hidden.dtype)
                    query, key = w_q[h] @ x[b, num_memory + i], w_k[h] @ x[b, j]
                    scores.append((query + u[h]) @ key + (query + v[h]) @ (w_r[h] @ r))
                    values.append(w_v[h] @ x[b, j])
                p = torch.softmax(torch.stack(scores) / math.sqrt(width), dim=0)
                found[b, i, h] = p @ torch.stack(values)
    return found.flatten(2)


@pytest.mark.parametrize(
    ("length", "num_memory", "clamp_len", "window"),
    [(4, 0, -1, None), (4, 5, -1, None), (1, 3, -1, None), (3, 2, 2, None), (4, 5, -1, 5), (5, 2, 3, 3), (1, 0, 0, 1)],
)
@torch.no_grad()
def test_equals_loops_over_the_equations(length: int, num_memory: int, clamp_len: int, window: int | None) -> None:
    """To 1e-5 in float32 (measured: 1.3e-7) and to 1e-12 in float64 (measured: 2.2e-16)."""
    whole = model()
    attention = whole.layers[0].attention
    hidden, memory = torch.randn(2, length, 6).double(), torch.randn(2, num_memory, 6).double()
    found = naive_attention(attention, whole.r_w_bias, whole.r_r_bias, hidden, memory, clamp_len, window)
    expected = attention.layer_norm(hidden + attention.o_net(found))
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        whole.to(dtype)
        segment, past = hidden.to(dtype), memory.to(dtype) if num_memory else None
        ours = attention(
            segment,
            past,
            position_vectors(num_memory + length, 6, clamp_len, segment),
            whole.r_w_bias,
            whole.r_r_bias,
            attention_mask(length, num_memory, window, segment),
        )
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("length", "mem_len", "same_length"),
    [(4, 4, False), (4, 6, False), (4, 2, False), (4, 0, False), (4, 4, True), (4, 6, True), (4, 2, True)],
)
@torch.no_grad()
def test_four_segments_with_memory_equal_one_long_context(length: int, mem_len: int, same_length: bool) -> None:
    """In which every position sees its segment and the `mem_len` positions before that (measured: 8.9e-16)."""
    whole = model(mem_len=mem_len, same_length=same_length)
    stream = torch.randint(20, (3, 4 * length + 1))
    total = 4 * length
    losses, mems = [], None
    for start in range(0, total, length):
        output = whole(stream[:, start : start + length], mems, stream[:, start + 1 : start + length + 1])
        losses.append(output.losses)
        mems = output.mems
    query, key = torch.arange(total)[:, None], torch.arange(total)
    seen = (key <= query) & (key >= query // length * length - mem_len)
    if same_length:
        seen &= query - key < mem_len
    mask = torch.zeros(total, total).double().masked_fill(~seen, -torch.inf)
    hidden = whole.embedding(stream[:, :-1])
    positions = position_vectors(total, 6, -1, hidden)
    for layer in whole.layers:
        hidden = layer(hidden, None, positions, whole.r_w_bias, whole.r_r_bias, mask)
    expected, _ = whole.softmax(hidden, stream[:, 1:], False)
    torch.testing.assert_close(torch.cat(losses, dim=1), expected, rtol=0, atol=1e-12)


def test_attention_has_the_gradient_of_its_differences() -> None:
    torch.manual_seed(0)
    (heads, width, batch, length, num_keys) = (2, 3, 2, 3, 5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    mask = attention_mask(length, num_keys - length, None, torch.zeros(1).double())
    torch.autograd.gradcheck(
        relative_attention,
        (
            drawn(batch, length, heads, width),
            drawn(heads, batch, num_keys, width),
            drawn(heads, batch, num_keys, width),
            drawn(heads, num_keys + 1, width),
            drawn(heads * width),
            drawn(heads * width),
            mask,
        ),
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"pre_lnorm": True, "cutoffs": [5, 12]}, {"cutoffs": [5, 12], "div_val": 2, "same_length": True}],
    ids=["plain", "pre-norm, clusters", "div_val 2"],
)
def test_every_parameter_has_the_gradient_of_its_differences(options: dict[str, Any]) -> None:
    """Of the whole model, after a first segment, which sends no gradient."""
    whole = model(**options, d_model=4, d_head=2, d_inner=3)
    stream = torch.randint(20, (2, 7))
    stream[0] = torch.tensor([0, 4, 5, 11, 12, 19, 7])  # every cluster
    mems = whole(stream[:, :3], labels=stream[:, 1:4]).mems
    names = [name for name, _ in whole.named_parameters()]

    def losses(*parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        found = torch.func.functional_call(whole, given, (stream[:, 3:-1], mems, stream[:, 4:]), tie_weights=True)
        return found.losses

    torch.autograd.gradcheck(losses, tuple(whole.parameters()), fast_mode=True)


def test_positions_are_sines_then_cosines_of_falling_distances() -> None:
    found = position_vectors(3, 4, -1, torch.zeros(1))
    expected = [[math.sin(d), math.sin(d / 100), math.cos(d), math.cos(d / 100)] for d in (2, 1, 0, -1)]
    torch.testing.assert_close(found, torch.tensor(expected))
    clamped = position_vectors(3, 4, 1, torch.zeros(1))
    torch.testing.assert_close(clamped, torch.tensor([expected[1], expected[1], expected[2], expected[3]]))


def test_the_mask_of_a_segment_with_memory() -> None:
    seen = attention_mask(2, 3, None, torch.zeros(1)) == 0
    assert seen.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    seen = attention_mask(2, 3, 3, torch.zeros(1)) == 0
    assert seen.int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
