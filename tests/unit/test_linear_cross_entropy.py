"""The softmax in one piece with its loss: torch's losses and gradients, in blocks, in half precision, at the edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from transformer_xl import cross_entropy
from transformer_xl.cross_entropy import linear_cross_entropy

TOKENS, WIDTH, WORDS = 13, 6, 17


Operands = tuple[Tensor, Tensor, Tensor]  # hidden states, weight, bias


def operands(dtype: torch.dtype = torch.float32, spread: float = 1.0) -> tuple[Operands, Tensor]:
    """Random ones; and labels, two of which are ignored."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return (spread * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()

    tensors = drawn(TOKENS, WIDTH), drawn(WORDS, WIDTH), drawn(WORDS)
    labels = torch.randint(WORDS, (TOKENS,), generator=generator)
    labels[[2, 12]] = cross_entropy.IGNORED_LABEL
    return tensors, labels


def losses_and_gradients(tensors: Operands, losses: Tensor) -> list[Tensor]:
    """The losses, and gradients of a sum of them in which each has another weight."""
    weights = torch.linspace(0.1, 2.0, len(losses), dtype=losses.dtype)
    return [losses.detach(), *torch.autograd.grad((losses * weights).sum(), tensors)]


def by_torch(tensors: Operands, labels: Tensor) -> list[Tensor]:
    """The same, of logits that are kept."""
    logits = functional.linear(*tensors).float()
    return losses_and_gradients(tensors, functional.cross_entropy(logits, labels, reduction="none"))


@pytest.mark.parametrize("spread", [1.0, 100.0])
@pytest.mark.parametrize("block", [None, 1, 3 * WORDS])
def test_torchs_losses_and_gradients(block: int | None, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where most probabilities are 0 in float32, and where a block is a row or does not divide the rows."""
    if block is not None:
        monkeypatch.setattr(cross_entropy, "CPU_BLOCK", block)
    tensors, labels = operands(spread=spread)
    ours = losses_and_gradients(tensors, linear_cross_entropy(*tensors, labels))
    assert ours[0][[2, 12]].tolist() == [0, 0] and (ours[0] > 0).sum() > 5
    for one, other in zip(ours, by_torch(tensors, labels), strict=True):
        # Measured: 1.1e-7 of the largest entry; two orders of float32 sums.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(other.abs().max()))


def test_gradients_by_differences() -> None:
    tensors, labels = operands(torch.float64)
    assert linear_cross_entropy(*tensors, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(linear_cross_entropy, (*tensors, labels))


def test_without_gradient_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "ROWS_WITHOUT_GRADIENT", 4)
    tensors, labels = operands()
    with torch.no_grad():
        losses = linear_cross_entropy(*tensors, labels)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, by_torch(tensors, labels)[0])


def test_some_operands_want_no_gradient() -> None:
    for wanting in range(3):
        tensors, labels = operands()
        for number, tensor in enumerate(tensors):
            tensor.requires_grad_(number == wanting)
        linear_cross_entropy(*tensors, labels).sum().backward()
        assert [tensor.grad is not None for tensor in tensors] == [number == wanting for number in range(3)]


def test_half_precision() -> None:
    """Logits are bfloat16, losses float32; in autocast the gradients have the parameters' dtype."""
    tensors, labels = operands(torch.bfloat16)
    ours = losses_and_gradients(tensors, linear_cross_entropy(*tensors, labels))
    assert [tensor.dtype for tensor in ours] == [torch.float32, *[torch.bfloat16] * 3]
    hidden, weight, bias = (tensor.detach().float().requires_grad_() for tensor in tensors)
    wide = hidden, weight, bias
    with torch.autocast("cpu", torch.bfloat16):
        in_autocast = losses_and_gradients(wide, linear_cross_entropy(*wide, labels))
    assert {tensor.dtype for tensor in in_autocast} == {torch.float32}
    for half, cast, exact in zip(ours, in_autocast, by_torch(wide, labels), strict=True):
        assert torch.equal(half.float(), cast)
        # Measured: 0.5 % of the largest entry; bfloat16 has 8 bits.
        torch.testing.assert_close(cast, exact, rtol=0, atol=0.02 * float(exact.abs().max()))


def test_no_tokens_and_labels_that_are_no_tokens() -> None:
    tensors, labels = operands()
    nothing = linear_cross_entropy(tensors[0][:0], tensors[1], tensors[2], labels[:0])
    nothing.sum().backward()
    assert nothing.shape == (0,) and tensors[1].grad is not None and not tensors[1].grad.any()
    for wrong in (WORDS, -1):
        labels[0] = wrong
        with pytest.raises(RuntimeError, match="out of bounds"):
            linear_cross_entropy(*tensors, labels)


def test_second_derivatives_are_refused() -> None:
    tensors, labels = operands()
    weights = torch.ones(TOKENS, requires_grad=True)
    weighted = (weights * linear_cross_entropy(*tensors, labels)).sum()
    first = torch.autograd.grad(weighted, tensors[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
