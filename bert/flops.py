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

# A training step in units of its forward pass: backward multiplies twice, for the inputs' and the weights' gradients.
TRAINING_PER_FORWARD = 3
# Query, key, value and output projections and two feed-forward matrices in each layer, one dense layer in the head.
_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
# Attention kernels that skip what lies outside a sliding window; the others compute it and mask it.
_WINDOWED_ATTENTION = ("flash_attention", "flex_attention")


def forward_flops_per_sequence(
    config: PretrainedConfig, block_size: int, mask_probability: float, sparse_last_layer: bool = False
) -> float:
    """Operations of one forward pass over one sequence; a training step takes `TRAINING_PER_FORWARD` times as many.

    Args:
        config: of the model. Where its attention implementation is flash or flex attention, ModernBERT's local layers
            cost their window, otherwise the whole block. BERT, RoBERTa, their kin and ModernBERT are counted by
            formula, any other model by running it without data.
        block_size: tokens of the sequence, none of them padding.
        mask_probability: share of the tokens that the head runs on.
        sparse_last_layer: whether queries, output projection and feed-forward of the last layer run on the masked
            positions only; its keys and values run on all.
    """
    masked = block_size * mask_probability
    if config.model_type != "modernbert" and config.model_type not in _BERT_LIKE:
        if sparse_last_layer:
            raise ValueError(f"no count of a sparse last layer for {config.model_type!r}")
        return _counted_flops(config, block_size, masked)
    hidden = config.hidden_size
    feed_forward = _feed_forward_parameters(config)
    total = 2 * masked * (hidden * hidden + hidden * config.vocab_size)  # the head's dense layer and its decoder
    for layer in range(config.num_hidden_layers):
        is_sparse = sparse_last_layer and layer == config.num_hidden_layers - 1
        queries = masked if is_sparse else block_size
        total += 2 * block_size * 2 * hidden * hidden  # keys and values
        total += 2 * queries * (2 * hidden * hidden + feed_forward)  # queries and output projection, feed-forward
        total += 2 * 2 * queries * _mean_keys(config, layer, block_size) * hidden  # scores, and the sum of the values
    return float(total)


def _feed_forward_parameters(config: PretrainedConfig) -> int:
    """Of one layer, without biases. ModernBERT's has a gate: a third matrix."""
    width = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return config.hidden_size * int(width) * (3 if config.model_type == "modernbert" else 2)


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
        with FlopCounterMode(display=False) as counter:
            model.base_model(torch.zeros(1, block_size, dtype=torch.long))
    in_base = {id(module) for module in model.base_model.modules()}
    head = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in in_base]
    return counter.get_total_flops() + sum(2 * masked * module.weight.numel() for module in head)
