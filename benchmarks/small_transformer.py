"""A transformer that trains in a second, with the sequences that it learns: what the sharded trainings have in common.

Every size is even, so that nothing is padded when two ranks share it.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, LENGTH, HIDDEN, HEADS, LAYERS = 64, 16, 32, 2, 1
# Softmax does not see what a key bias adds to every score of a query: its gradient is zero in exact arithmetic.
KEY_BIAS = "key.bias"


class Block(nn.Module):
    """Causal attention and a GELU network, each after a layer norm. [B, T, H] -> same.

    Queries, keys and values have a matrix each, so that the key biases have a name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.network_norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.query, self.key, self.value, self.output = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.network = nn.Sequential(nn.Linear(HIDDEN, 4 * HIDDEN), nn.GELU(), nn.Linear(4 * HIDDEN, HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.attention_norm(x)
        query, key, value = (
            part(normal).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # each [B, heads, T, H / heads]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.network(self.network_norm(x))


class Transformer(nn.Module):
    """Predicts the next token: [B, T] int64 -> [B * T, V] logits. No dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=HIDDEN)  # the Trainer derives ZeRO's sizes from it
        self.tokens, self.positions = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(LENGTH, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(LENGTH))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).flatten(0, 1))


def new_model() -> Transformer:
    """The model with the weights that every training starts from."""
    torch.manual_seed(0)
    return Transformer()


def sequences(steps: int, global_batch: int) -> Tensor:
    """What is trained on: [steps, global_batch, LENGTH + 1] int64, counting from anywhere in steps of 1 to 4."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(VOCABULARY, (steps, global_batch, 1), generator=generator)
    stride = torch.randint(1, 5, (steps, global_batch, 1), generator=generator)
    return (start + stride * torch.arange(LENGTH + 1)) % VOCABULARY


def mean_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Nats per token, a scalar, of [B, LENGTH + 1] tokens: each but the first is predicted."""
    return functional.cross_entropy(model(batch[:, :-1]), batch[:, 1:].flatten())
