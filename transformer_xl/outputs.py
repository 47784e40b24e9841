"""What the language models of this package return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class LanguageModelOutput(ModelOutput):
    """The output of a language model with a memory.

    Attributes:
        loss: scalar float32, the mean of `losses` over the labels that are not -100, or their sum divided by
            `num_items_in_batch`; None without labels.
        losses: (batch, seq) float32, -log p(labels[:, t] | all before) in token order, 0 where the label is -100; None
            without labels.
        logits: (batch, seq, vocab) float32, normalised log-probabilities; None unless asked for.
        mems: the memory to give with the next segment, without gradient: tensors with the batch as first dimension.
    """

    loss: Tensor | None = None
    losses: Tensor | None = None
    logits: Tensor | None = None
    mems: tuple[Tensor, ...] | None = None
