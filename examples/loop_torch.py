"""A training loop in plain torch: `python examples/loop_torch.py`. loop_deepspeed.py, loop_trainer.py: the same."""

import torch
from torch import nn

from nlp_adan import Adan
from nlp_adan.param_groups import decay_groups

VOCABULARY, LENGTH, BATCH, STEPS = 50, 16, 8, 20


class Model(nn.Module):
    """Next-token prediction by a gated recurrent unit. ids: (batch, length) int64; returns the mean loss in nats."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.recurrent = nn.GRU(32, 32, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.recurrent(self.embedding(ids[:, :-1]))
        logits = self.head(self.norm(hidden))
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def batches() -> list[torch.Tensor]:
    """Arithmetic sequences modulo the vocabulary: the next token follows from the two before."""
    generator = torch.Generator().manual_seed(1)
    start, stride = (torch.randint(1, VOCABULARY, (STEPS, BATCH, 1), generator=generator) for _ in range(2))
    return list((start + stride * torch.arange(LENGTH)) % VOCABULARY)


def main() -> None:
    torch.manual_seed(0)
    model = Model()
    optimizer = Adan(decay_groups(model, weight_decay=0.02), lr=1e-2)
    for step, ids in enumerate(batches()):
        loss = model(ids)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        print(f"step {step} loss {loss.item():.5f}")


if __name__ == "__main__":
    main()
