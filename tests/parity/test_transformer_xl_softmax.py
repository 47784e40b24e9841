"""The adaptive softmax against a full one built from its parts, and against torch's; its gradient by differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transformer_xl import TransformerXLConfig
from transformer_xl.adaptive_softmax import AdaptiveSoftmax

NUM_TOKENS = 30
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"cutoffs": []},
    "one tail": {"cutoffs": [9]},
    "clusters": {"cutoffs": [9, 14, 25]},
    "clusters, narrow": {"cutoffs": [9, 14, 25], "d_embed": 6},
    "div_val 2": {"cutoffs": [9, 14, 25], "div_val": 2},
    "div_val 4": {"cutoffs": [9], "div_val": 4},
}


def drawn(**options: Any) -> AdaptiveSoftmax:
    """In float64, with drawn parameters."""
    torch.manual_seed(0)
    softmax = AdaptiveSoftmax(TransformerXLConfig(vocab_size=NUM_TOKENS, d_model=8, n_head=2, **options)).double()
    for parameter in softmax.parameters():
        nn.init.normal_(parameter)
    return softmax


def layer(softmax: AdaptiveSoftmax, cluster: int) -> tuple[Tensor, Tensor]:
    """Weight (tokens, d_model) and bias of a cluster's tokens, its projection multiplied in."""
    start, end = [0, *softmax.ends][cluster : cluster + 2]
    if softmax.one_table:
        weight, bias = softmax.weight_0[start:end], softmax.bias_0[start:end]
    else:
        weight, bias = getattr(softmax, f"weight_{cluster}"), getattr(softmax, f"bias_{cluster}")
    return narrow(softmax, cluster, weight), bias


def narrow(softmax: AdaptiveSoftmax, cluster: int, weight: Tensor) -> Tensor:
    """A weight behind a cluster's projection as one of the hidden state."""
    projection = getattr(softmax, f"proj_{cluster}", None)
    return weight if projection is None else weight @ projection.T


def full_log_probabilities(softmax: AdaptiveSoftmax, hidden: Tensor) -> Tensor:
    """(n, vocab), token by token: log p(cluster) + log p(token | cluster)."""
    weight, bias = layer(softmax, 0)
    scores = [hidden @ w + b for w, b in zip(weight, bias, strict=True)]
    if softmax.num_tails:
        # The last cluster's column comes first.
        columns = narrow(softmax, 0, softmax.cluster_weight)
        scores += [hidden @ w + b for w, b in zip(columns, softmax.cluster_bias, strict=True)]
    head = torch.stack(scores, dim=1)
    head = head - head.exp().sum(1, keepdim=True).log()
    found = list(head[:, : softmax.ends[0]].T)
    for i in range(1, softmax.num_tails + 1):
        weight, bias = layer(softmax, i)
        tail = torch.stack([hidden @ w + b for w, b in zip(weight, bias, strict=True)], dim=1)
        tail = tail - tail.exp().sum(1, keepdim=True).log()
        found += list((head[:, softmax.ends[0] + softmax.num_tails - i, None] + tail).T)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_full_softmax_of_its_parts(kind: str) -> None:
    """Losses, log-probabilities and gradients, in token order (measured: 1.1e-13 and less)."""
    softmax = drawn(**KINDS[kind])
    hidden = torch.randn(4, 15, 8).double().requires_grad_()
    labels = torch.randperm(2 * NUM_TOKENS).remainder(NUM_TOKENS).view(4, 15)
    labels[1, 3] = labels[2, 0] = -100
    expected = full_log_probabilities(softmax, hidden.flatten(0, 1)).view(4, 15, NUM_TOKENS)
    torch.testing.assert_close(expected.exp().sum(-1), torch.ones(4, 15).double())
    losses, nothing = softmax(hidden, labels, False)
    assert nothing is None
    wanted = -expected.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
    torch.testing.assert_close(losses, wanted, rtol=0, atol=1e-12)
    weights = torch.rand(4, 15).double()
    parameters = [hidden, *softmax.parameters()]
    ours = torch.autograd.grad((losses * weights).sum(), parameters)
    theirs = torch.autograd.grad((wanted * weights).sum(), parameters, retain_graph=True)
    for found, gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-11)
    both, logits = softmax(hidden, labels, True)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(both, losses, rtol=0, atol=0)
    ours = torch.autograd.grad((logits * logits.detach().cos()).sum(), parameters)
    theirs = torch.autograd.grad((expected * logits.detach().cos()).sum(), parameters)
    for found, gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("div_val", [1, 2])
def test_equals_the_one_of_torch(div_val: int) -> None:
    """Where they overlap: tails without a bias, ours with torch's projections; its clusters are in rising order."""
    cutoffs = [9, 14, 25]
    softmax = drawn(cutoffs=cutoffs, div_val=div_val)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(8, NUM_TOKENS, cutoffs, div_value=div_val, head_bias=True).double()
    with torch.no_grad():
        for i in range(1, 4):
            layer(softmax, i)[1].zero_()
        weight, bias = layer(softmax, 0)
        theirs.head.weight.copy_(torch.cat([weight, narrow(softmax, 0, softmax.cluster_weight).flip(0)]))
        theirs.head.bias.copy_(torch.cat([bias, softmax.cluster_bias.flip(0)]))
        for i, tail in enumerate(theirs.tail, 1):
            start, end = softmax.ends[i - 1 : i + 1]
            if div_val == 1:
                tail[0].weight.copy_(torch.eye(8))
                tail[1].weight.copy_(softmax.weight_0[start:end])
            else:
                tail[0].weight.copy_(getattr(softmax, f"proj_{i}").T)
                tail[1].weight.copy_(getattr(softmax, f"weight_{i}"))
    hidden = torch.randn(40, 8).double()
    labels = torch.arange(40) * 7 % NUM_TOKENS
    losses, _ = softmax(hidden, labels, False)
    _, logits = softmax(hidden, None, True)
    torch.testing.assert_close(losses, -theirs(hidden, labels).output, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits, theirs.log_prob(hidden), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_has_the_gradient_of_its_differences(kind: str) -> None:
    softmax = drawn(**KINDS[kind])
    hidden = torch.randn(6, 8).double().requires_grad_()
    labels = torch.tensor([0, 8, 9, 13, 25, 29])
    names = [name for name, _ in softmax.named_parameters()]

    def losses(hidden: Tensor, *parameters: Tensor) -> Tensor:
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(softmax, given, (hidden, labels, False))[0]

    torch.autograd.gradcheck(losses, (hidden, *softmax.parameters()), fast_mode=True)


@pytest.mark.parametrize("label", [-1, -101, 30, 1000])
@pytest.mark.parametrize("kind", ["plain", "clusters", "div_val 2"])
def test_a_label_that_is_no_token_is_an_error(kind: str, label: int) -> None:
    softmax = drawn(**KINDS[kind])
    labels = torch.tensor([3, 26, label])
    with pytest.raises(RuntimeError, match="out of bounds"):
        softmax(torch.randn(3, 8).double(), labels, False)
    with pytest.raises(RuntimeError, match="out of bounds"):
        softmax(torch.randn(3, 8).double(), labels, True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_used_whatever_the_labels(kind: str) -> None:
    """Ranks whose batch has none of a cluster's tokens wait for its gradient, too: zero, and not none."""
    softmax = drawn(**KINDS[kind])
    losses, _ = softmax(torch.randn(2, 3, 8).double(), torch.tensor([[0, 1, 2], [2, -100, 1]]), False)
    losses.sum().backward()
    for name, parameter in softmax.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() == (name in ("weight_0", "bias_0", "proj_0", "cluster_weight", "cluster_bias"))
