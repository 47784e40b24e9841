"""What a masked LM computes: the floating-point operations of its matrix products, counted by hand.

A multiplication and its addition are two operations. Normalisation, activations, softmax, embedding look-ups and the
optimizer are left out.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig

# Query, key, value and output projections and two feed-forward matrices in each layer, one dense layer in the head.
_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
# Attention kernels that skip what lies outside a sliding window; the others compute it and mask it.
_WINDOWED_ATTENTION = ("flash_attention", "flex_attention")


def forward_flops_per_sequence(
    config: PretrainedConfig, block_size: int, mask_probability: float, sparse_last_layer: bool = False
) -> float:
    """Operations of one forward pass over one sequence; a training step takes
    `nlp_adan.pretraining.costs.TRAINING_PER_FORWARD` times as many.

    Args:
        config: of the model. Where its attention implementation is flash or flex attention, ModernBERT's local layers
            cost their window, otherwise the whole block. BERT, RoBERTa, their kin and ModernBERT are counted by
            formula, any other model by running it without data, or, where that cannot be, by its linear layers.
        block_size: tokens of the sequence, none of them padding.
        mask_probability: share of the tokens that the head runs on.
        sparse_last_layer: whether the last layer's queries, attention and feed-forward are needed of the masked
            positions only (`nlp_adan.modeling.sparse_layers`). Queries that only fill up a batch are no work.
    """
    masked = block_size * mask_probability
    if config.model_type != "modernbert" and config.model_type not in _BERT_LIKE:
        total = _counted_flops(config, block_size, masked)
    else:
        total = 2 * masked * config.hidden_size * (config.hidden_size + config.vocab_size)  # head: dense, decoder
        for layer in range(config.num_hidden_layers):
            total += 2 * block_size * (4 * config.hidden_size**2 + _feed_forward_parameters(config))
            total += _attention_flops(config, layer, block_size)
    return float(total - _spared_by_last_layer(config, block_size, masked) if sparse_last_layer else total)


def _spared_by_last_layer(config: PretrainedConfig, block_size: int, masked: float) -> float:
    """Operations that the last layer needs of all positions but not of the masked ones alone."""
    # Keys and values are needed of all; ModernBERT's queries come from the same product as these.
    projections = (1 if config.model_type == "modernbert" else 2) * config.hidden_size**2
    spared = 2 * block_size * (projections + _feed_forward_parameters(config))
    spared += _attention_flops(config, config.num_hidden_layers - 1, block_size)
    return spared * (1 - masked / block_size)


def _feed_forward_parameters(config: PretrainedConfig) -> int:
    """Of one layer, without biases. ModernBERT's has a gate: a third matrix."""
    width = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return config.hidden_size * int(width) * (3 if config.model_type == "modernbert" else 2)


def _attention_flops(config: PretrainedConfig, layer: int, block_size: int) -> float:
    """Of the scores, and of the sum of the values that they weight."""
    return 2 * 2 * block_size * _mean_keys(config, layer, block_size) * config.hidden_size


def _mean_keys(config: PretrainedConfig, layer: int, block_size: int) -> float:
    """Keys that a query of this layer is multiplied with, on average over the block."""
    if config.model_type != "modernbert" or config.layer_types[layer] != "sliding_attention":
        return block_size
    reach = config.sliding_window  # to either side
    implementation = config._attn_implementation or ""
    if not any(kernel in implementation for kernel in _WINDOWED_ATTENTION) or reach >= block_size:
        return block_size
    return 2 * reach + 1 - reach * (reach + 1) / block_size  # less what is missing at the ends of the block


def _counted_flops(config: PretrainedConfig, block_size: int, masked: float) -> float:
    """The base model's by torch's counter, on the meta device; of the rest, the linear layers on masked positions."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"  # matrix products that the counter knows on any device
    with torch.device("meta"):
        model = MODEL_FOR_MASKED_LM_MAPPING[type(config)](config)
        in_base = {id(module) for module in model.base_model.modules()}
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        try:
            with FlopCounterMode(display=False) as counter:
                model.base_model(torch.zeros(1, block_size, dtype=torch.long))
            total = float(counter.get_total_flops())
        except Exception:  # a model that looks at its data: there are none
            total = sum(2.0 * block_size * module.weight.numel() for module in linear if id(module) in in_base)
            total += sum(_attention_flops(config, layer, block_size) for layer in range(config.num_hidden_layers))
    return total + sum(2 * masked * module.weight.numel() for module in linear if id(module) not in in_base)
