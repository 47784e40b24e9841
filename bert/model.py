"""The masked language model: any of Hugging Face's, with its head on the masked positions only.

With 15 % of the positions masked, the projection to the vocabulary costs 1/6 of what it costs on every position; in
small models that is half of all the work. The last layer is spared most of its work too
(`nlp_adan.modeling.sparse_layers`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig, PreTrainedModel

from bert.masking import IGNORED_LABEL
from bert.model_options import num_positions
from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.integrations.deepspeed import whole_models
from nlp_adan.modeling.sparse_layers import Selection, last_layer, make_dense, make_sparse
from nlp_adan.modeling.trial import TRIAL_TOLERANCE, on_trial
from nlp_adan.weights import only_weights

# Columns of `token_statistics`.
STATISTICS = ("loss_sum", "num_masked", "num_top1_correct", "num_top5_correct")
TRIAL_LENGTH = 16  # tokens of each of two sequences


class SparseHead:
    """Mixed into a Hugging Face masked LM: given labels, the head runs on the labelled positions only.

    The loss is the sum over the labelled tokens divided by `num_items_in_batch`. In evaluation the output also has
    `token_statistics`, (batch, 4) float32: `STATISTICS` summed over each sequence.
    """

    accepts_loss_kwargs = True
    # What `compute_masked_only` found to be possible.
    selection: Selection | None = None
    sparse_last_layer = False
    config: PretrainedConfig
    training: bool
    base_model: nn.Module

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        masked_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model's own forward without labels; with them `loss` and, in evaluation, `token_statistics`.

        Args:
            input_ids, attention_mask, labels: (batch, seq) int64.
            num_items_in_batch: labelled tokens of the whole optimizer step; None: of this batch.
            masked_positions: (num_masked,) int64, of `bert.masking.MaskingCollator`; without it, it is found from the
                labels, for which a GPU has to be waited for.
        """
        if attention_mask is not None:
            kwargs["attention_mask"] = attention_mask
        if labels is None:
            return super().forward(input_ids, **kwargs)  # type: ignore[misc]
        if masked_positions is None:
            masked_positions = (labels.flatten() != IGNORED_LABEL).nonzero()[:, 0]
        rows = masked_positions.clamp(max=labels.numel() - 1)
        targets = labels.flatten().index_select(0, rows)
        targets = torch.where(masked_positions < labels.numel(), targets, IGNORED_LABEL)  # padding asks nothing
        logits = self._logits(input_ids, masked_positions, rows, kwargs).float()  # (num_masked, vocab)
        losses = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED_LABEL, reduction="none")
        if num_items_in_batch is None:
            num_items_in_batch = (targets != IGNORED_LABEL).sum().clamp(min=1)
        output = {"loss": losses.sum() / num_items_in_batch}
        if not self.training:
            batch, length = labels.shape
            output["token_statistics"] = _token_statistics(losses, logits, targets, rows // length, batch)
        return output

    def _logits(self, input_ids: Tensor | None, positions: Tensor, rows: Tensor, kwargs: dict[str, Any]) -> Tensor:
        if self.selection is None:
            logits = super().forward(input_ids, **kwargs).logits  # type: ignore[misc]
            return cast(Tensor, logits.flatten(0, 1).index_select(0, rows))
        self.selection.begin(positions)
        try:
            return cast(Tensor, super().forward(input_ids, **kwargs).logits[0])  # type: ignore[misc]
        finally:
            self.selection.begin(None)


def _token_statistics(losses: Tensor, logits: Tensor, targets: Tensor, rows: Tensor, batch: int) -> Tensor:
    """`STATISTICS` of each sequence; all arguments have an entry for each masked position, `rows` its sequence."""
    correct = logits.topk(min(5, logits.shape[-1])).indices == targets[:, None]  # (num_masked, 5), best first
    asked = (targets != IGNORED_LABEL).float()
    per_token = torch.stack([losses, asked, correct[:, 0].float(), correct.any(1).float()], dim=1)
    return torch.zeros(batch, len(STATISTICS), device=losses.device).index_add_(0, rows, per_token)


@functools.cache
def with_sparse_head(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class with `SparseHead` mixed in, under the same name: a checkpoint names Hugging Face's class."""
    return type(model_class.__name__, (SparseHead, model_class), {"__module__": model_class.__module__})


def build_model(config: PretrainedConfig, weights: str | None = None) -> PreTrainedModel:
    """A masked LM ready to pretrain, in float32 and whole on every rank.

    Args:
        config: of any model that transformers has as a masked LM.
        weights: a model's folder or hub name, whose weights to go on from; None: fresh ones.

    Raises:
        UserError: no masked LM of this type, an attention implementation that it or this machine has not, no weights.
    """
    model_class = masked_lm_class(config)
    # Not by `from_config`: under ZeRO-3 that partitions while it draws the weights, and the same seed then gives
    # another model than at the other stages. ZeRO-3 partitions it afterwards.
    with _told_of_attention(config):
        model = model_class(config) if weights is None else _load(model_class, config, weights)
    compute_masked_only(model)
    return model


def shape_of_model(config: PretrainedConfig) -> PreTrainedModel:
    """A masked LM without memory for its weights. Raises UserError as `build_model`."""
    with torch.device("meta"), _told_of_attention(config):
        return masked_lm_class(config)(config)


@contextlib.contextmanager
def _told_of_attention(config: PretrainedConfig) -> Iterator[None]:
    implementation = config._attn_implementation
    try:
        yield
    except (ValueError, ImportError) as error:
        if implementation is None:
            raise
        raise UserError(
            f"--attn_implementation: {config.model_type} cannot run with {implementation!r} here; "
            f"leave the option out to have the fastest that can ({str(error).partition(chr(10))[0]})"
        ) from error


def _load(model_class: type[PreTrainedModel], config: PretrainedConfig, name_or_path: str) -> PreTrainedModel:
    check_name(name_or_path, "--model_name_or_path")
    try:
        with whole_models(), only_weights(name_or_path, "--model_name_or_path"):
            model, info = model_class.from_pretrained(
                name_or_path,
                config=config,
                dtype=torch.float32,
                attn_implementation=config._attn_implementation,
                output_loading_info=True,
            )
    except OSError as error:
        raise UserError(
            f"--model_name_or_path: no weights to load in {name_or_path!r}; name a folder with a model.safetensors, "
            f"or a model on the hub ({str(error).partition(chr(10))[0]})"
        ) from error
    if info["missing_keys"]:
        _warn(f"{name_or_path} has no weights for {', '.join(sorted(info['missing_keys']))}: these start fresh")
    return model


def _warn(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        warnings.warn(text, stacklevel=3)


def masked_lm_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The masked LM of a configuration, with `SparseHead`; a UserError where there is none."""
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        possible = sorted(known.model_type for known in MODEL_FOR_MASKED_LM_MAPPING)
        raise UserError(
            f"--config_name: transformers has no masked language model of type {config.model_type!r}; "
            f"possible: {', '.join(possible)}"
        )
    return with_sparse_head(MODEL_FOR_MASKED_LM_MAPPING[type(config)])


def compute_masked_only(model: PreTrainedModel) -> None:
    """Let a model of a class with `SparseHead` run head and last layer on the masked positions only.

    A trial on a small batch decides: what gives other logits than the model's own forward is left as it is, with a
    warning where that is the head.
    """
    selection = Selection()
    layer = last_layer(model)
    if layer is not None:
        make_sparse(layer, selection)
    hook = model.base_model.register_forward_hook(selection.shorten_output)
    problem = _problem(model, selection)
    if problem and layer is not None:
        make_dense(layer)
        layer, problem = None, _problem(model, selection)
    if not problem:
        model.selection = selection
        model.sparse_last_layer = layer is not None
        return
    hook.remove()
    _warn(
        f"{type(model).__name__} computes its head on all positions, not on the masked ones alone, which is slower: "
        f"{problem}"
    )


def _problem(model: PreTrainedModel, selection: Selection) -> str | None:
    """Why the logits of selected positions are not those of the model's own forward; None where they are."""
    if model.base_model is model:
        return "it has no part below the head"
    config = model.config
    length = min(TRIAL_LENGTH, num_positions(config))
    ids = torch.arange(2 * length).reshape(2, -1) * 7 % (config.vocab_size - 1) + 1
    positions = torch.arange(0, ids.numel(), 3)[:-2]  # more of them in the first sequence
    own_forward = super(SparseHead, model).forward
    try:
        with on_trial(model):
            torch.manual_seed(0)
            expected = own_forward(ids).logits.flatten(0, 1)[positions]
            torch.manual_seed(0)
            selection.begin(positions)
            found = own_forward(ids).logits
    except Exception as error:  # whatever a model of any kind makes of it
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        selection.begin(None)
    if found.shape != (1, *expected.shape):
        return f"its logits have shape {tuple(found.shape)} instead of {(1, *expected.shape)}"
    difference = (found[0] - expected).abs().max() / expected.abs().max()
    return None if difference < TRIAL_TOLERANCE else f"its logits are off by {difference:.1e}"
