"""The masked language model: any of Hugging Face's, with its head on the masked positions only.

With 15 % of the positions masked, the projection to the vocabulary costs 1/6 of what it costs on every position; in
small models that is half of all the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig, PreTrainedModel

from bert.masking import IGNORED_LABEL
from nlp_adan.errors import UserError
from nlp_adan.training.engine import mean_over_items

# Columns of `token_statistics`.
STATISTICS = ("loss_sum", "num_masked", "num_top1_correct", "num_top5_correct")

# From (num_masked, hidden) to (num_masked, vocab), by `config.model_type`.
_HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, hidden: model.cls(hidden),
    "roberta": lambda model, hidden: model.lm_head(hidden),
    "xlm-roberta": lambda model, hidden: model.lm_head(hidden),
    "camembert": lambda model, hidden: model.lm_head(hidden),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
    "distilbert": lambda model, hidden: model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    ),
}


class SparseHead:
    """Mixed into a Hugging Face masked LM: given labels, the head runs on the labelled positions only.

    The loss is the sum over the labelled tokens divided by `num_items_in_batch`. In evaluation the output also has
    `token_statistics`, (batch, 4) float32: `STATISTICS` summed over each sequence.
    """

    accepts_loss_kwargs = True
    config: PretrainedConfig
    training: bool
    base_model: nn.Module

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """`input_ids`, `attention_mask`, `labels`: (batch, seq) int64. Without labels, the model's own forward."""
        if labels is None:
            return super().forward(input_ids, attention_mask=attention_mask, **kwargs)  # type: ignore[misc]
        hidden = self.base_model(input_ids, attention_mask=attention_mask, **kwargs)[0]  # (batch, seq, hidden)
        labelled = labels != IGNORED_LABEL
        targets = labels[labelled]  # (num_masked,)
        logits = _HEADS[self.config.model_type](self, hidden[labelled]).float()  # (num_masked, vocab)
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        output = {"loss": mean_over_items(losses.sum(), len(targets), num_items_in_batch)}
        if not self.training:
            output["token_statistics"] = _token_statistics(losses, logits, targets, labelled)
        return output


def _token_statistics(losses: Tensor, logits: Tensor, targets: Tensor, labelled: Tensor) -> Tensor:
    correct = logits.topk(min(5, logits.shape[-1])).indices == targets[:, None]  # (num_masked, 5), best first
    per_token = torch.stack([losses, torch.ones_like(losses), correct[:, 0].float(), correct.any(1).float()], dim=1)
    rows = labelled.nonzero()[:, 0]
    return torch.zeros(len(labelled), len(STATISTICS), device=losses.device).index_add_(0, rows, per_token)


@functools.cache
def with_sparse_head(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class with `SparseHead` mixed in, under the same name: a checkpoint names Hugging Face's class."""
    return type(model_class.__name__, (SparseHead, model_class), {"__module__": model_class.__module__})


def build_model(config: PretrainedConfig) -> PreTrainedModel:
    """A masked LM with fresh weights for a configuration of Hugging Face's, ready to pretrain."""
    if config.model_type not in _HEADS:
        raise UserError(
            f"--model_type/--config_name: {config.model_type!r} is not a model that can be pretrained here; "
            f"possible: {', '.join(sorted(_HEADS))}"
        )
    # Built whole on every rank, not by `from_config`: that partitions under ZeRO-3 while it draws the weights, and the
    # same seed then gives another model than at the other stages. ZeRO-3 partitions it afterwards.
    return with_sparse_head(MODEL_FOR_MASKED_LM_MAPPING[type(config)])(config)
