"""What a masked LM's activations take of a device's memory while it trains. Arithmetic, for a plan."""

from __future__ import annotations

from transformers import PretrainedConfig

# Bytes per token and layer, as (times hidden_size, times intermediate_size), that autograd keeps for the backward
# pass in float32 and under bf16 autocast, with an attention kernel that keeps no scores. tests/unit/test_plan.py counts
# them: eight tensors of the hidden size in BERT, its two feed-forward ones, ten and four in ModernBERT; under autocast
# the two inputs of the normalisations stay float32 and their outputs are kept twice.
_ACTIVATION_BYTES = {False: {"bert": (32, 8), "modernbert": (40, 16)}, True: {"bert": (24, 4), "modernbert": (24, 8)}}
# A byte for each element that dropout may zero, as above.
_DROPOUT_BYTES = {"bert": (2, 0), "modernbert": (1, 1)}
# Per masked token and vocabulary entry: logits, their logarithms, the gradient, and under bf16 the logits as float32.
_LOGIT_BYTES = {False: 12, True: 14}


def activation_bytes(
    config: PretrainedConfig,
    block_size: int,
    mask_probability: float,
    bf16: bool = False,
    activation_checkpointing: bool = False,
) -> float:
    """Estimated bytes of one sequence's activations at the peak, when the loss is computed.

    Counted as a BERT or a ModernBERT, whichever the model is nearer to. Left out: embeddings, workspaces of kernels,
    and what is short-lived in the backward pass.
    """
    family = "modernbert" if config.model_type == "modernbert" else "bert"
    hidden, intermediate = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    of_hidden, of_intermediate = _ACTIVATION_BYTES[bf16][family]
    if getattr(config, "hidden_dropout_prob", 0.0) or getattr(config, "mlp_dropout", 0.0):
        more_hidden, more_intermediate = _DROPOUT_BYTES[family]
        of_hidden, of_intermediate = of_hidden + more_hidden, of_intermediate + more_intermediate
    per_layer = block_size * (of_hidden * hidden + of_intermediate * intermediate)
    layers = config.num_hidden_layers * per_layer
    if activation_checkpointing:  # each layer's float32 input, and all of the layer that is computed again
        layers = config.num_hidden_layers * block_size * 4 * hidden + per_layer
    return layers + block_size * mask_probability * config.vocab_size * _LOGIT_BYTES[bf16]
