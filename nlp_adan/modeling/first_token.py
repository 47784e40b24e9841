"""Sequence classifiers that look at the first position only: their last encoder layer computes no other.

Shape legend: B batch, S sequence, D hidden.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from nlp_adan.modeling.sparse_layers import SparseLayer, last_layer, make_dense, make_sparse
from nlp_adan.modeling.trial import TRIAL_TOLERANCE, on_trial

TRIAL_LENGTH = 8  # tokens of each of two sequences
_SHOWN = ("output_hidden_states", "output_attentions")


class FirstPosition:
    """Whether the forward pass at hand looks at the first position only: that of the classifier, as a whole."""

    def __init__(self) -> None:
        self.alone = False

    def begin(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the classifier: states and attention that are to be shown are needed of all positions."""
        config: Any = model.config
        self.alone = True
        for name in _SHOWN:
            asked = kwargs.get(name)
            if getattr(config, name, False) if asked is None else asked:
                self.alone = False

    def end(self, *args: Any) -> None:
        """Forward hook of the classifier: the model below its head, called by itself, computes all positions."""
        self.alone = False

    def for_layer(self) -> Literal["first"] | None:
        """See `sparse_layers.Choice`."""
        return "first" if self.alone else None


def compute_first_only(model: PreTrainedModel) -> bool:
    """Let the last layer of a classifier compute the first position only, where its head looks at no other.

    Within the classifier's forward pass the last hidden state is then (B, 1, D). Loss, gradients, weights and what is
    saved are those of the model as it was; a pickled one wants this package. BERT, RoBERTa, XLM-R, CamemBERT and
    ModernBERT that pools its first token are known; a trial on a small batch with padding confirms it.

    Returns: whether it does; a model of which that is not known or not true is left as it is.
    """
    config = model.config
    layer = last_layer(model)
    if isinstance(layer, SparseLayer):
        return isinstance(layer.selection, FirstPosition)
    if layer is None or not _is_classifier(model) or getattr(config, "classifier_pooling", "cls") != "cls":
        return False
    expected = _trial_logits(model)
    first = FirstPosition()
    hooks = [
        model.register_forward_pre_hook(first.begin, with_kwargs=True),
        model.register_forward_hook(first.end, always_call=True),
    ]
    make_sparse(layer, first)
    if _equal(_trial_logits(model), expected):
        return True
    make_dense(layer)
    for hook in hooks:
        hook.remove()
    return False


def _is_classifier(model: PreTrainedModel) -> bool:
    known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    return known is not None and isinstance(model, known)


def _trial_logits(model: PreTrainedModel) -> Tensor | None:
    """Of two short sequences, the second one padded; None where the model cannot run, as one in parts on ranks."""
    ids = torch.arange(2 * TRIAL_LENGTH, device=model.device).reshape(2, -1) * 7 % (model.config.vocab_size - 1) + 1
    mask = torch.ones_like(ids)
    mask[1, TRIAL_LENGTH // 2 :] = 0
    with on_trial(model):
        try:
            logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        except Exception:  # whatever a model makes of it
            return None
    return logits


def _equal(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None or found.shape != expected.shape:
        return False
    tolerance = max(TRIAL_TOLERANCE, 8 * torch.finfo(found.dtype).eps)
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
