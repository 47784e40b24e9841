"""What a language model's activations take of a device's memory while it trains. Arithmetic, for a plan.

Shape letters: T tokens of a segment, M rows of the memory, K = M + T keys, C width of the layers, W = H x D width of
all heads, I width of the feed-forward layer, V classes of the softmax.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from transformers import PretrainedConfig

from .configuration import TransformerXLConfig
from .flops import zipf_tail_share
from .lstm_configuration import AWDLSTMConfig


def activation_bytes(
    config: PretrainedConfig,
    tgt_len: int,
    mem_len: int = 0,
    bf16: bool = False,
    activation_checkpointing: bool = False,
    tail_share: Sequence[float] | None = None,
) -> float:
    """Estimated bytes of one segment of one stream at the peak, when the loss is computed; its memory is among them.

    What autograd keeps is counted (tests/unit/test_lm_memory.py); masks of dropout take a byte an element, as on a GPU.
    Left out: embeddings, the attention's mask, what does not grow with the batch, such as positions and dropped
    weights, workspaces of kernels, and what is short-lived in the backward pass.

    Args:
        config: of a Transformer-XL or an LSTM.
        tgt_len, mem_len: as the run has them.
        tail_share: as in `flops.forward_flops_per_segment`.
    """
    float_bytes = 2 if bf16 else 4
    if isinstance(config, AWDLSTMConfig):
        return tgt_len * (_lstm_bytes(config, float_bytes) + (float_bytes + 4) * config.vocab_size)
    assert isinstance(config, TransformerXLConfig)
    layers = config.n_layer * _layer_bytes(config, tgt_len, mem_len, float_bytes)
    if activation_checkpointing:  # each layer's float32 input, and all of the layer that is computed again
        layers = layers / config.n_layer + config.n_layer * 4 * tgt_len * config.d_model
    memory = config.n_layer * 2 * 4 * mem_len * config.d_model  # of the segment before, and the new one
    shares = zipf_tail_share(config) if tail_share is None else tail_share
    sizes = [end - start for start, end in itertools.pairwise([0, *config.cluster_ends])]
    classes = len(shares) + sum(share * size for share, size in zip((1.0, *shares), sizes, strict=True))
    # The scores, which become their gradient in place, and at most as many logarithms as float32.
    return layers + memory + tgt_len * (float_bytes + 4) * classes


def _layer_bytes(config: TransformerXLConfig, tgt_len: int, mem_len: int, float_bytes: int) -> float:
    """Of one layer of a Transformer-XL."""
    assert config.d_head is not None
    width, keys = config.n_head * config.d_head, mem_len + tgt_len
    # Two inputs of products, and what two normalisations take in, float32 with their two statistics.
    kept = tgt_len * ((2 * float_bytes + 8) * config.d_model + 16)
    # Queries for content and for positions, and what attention gives: W; the ReLU's output: I; keys, values: K x W.
    kept += tgt_len * float_bytes * (3 * width + config.d_inner) + 2 * keys * float_bytes * width
    kept += config.n_head * tgt_len * keys * float_bytes  # probabilities
    if float_bytes == 2 or config.pre_lnorm:  # the memory as the product takes it: cast, or normalised
        kept += mem_len * float_bytes * config.d_model
    if config.dropout:  # two masks of C; one of I, and its output besides
        kept += tgt_len * (2 * config.d_model + (1 + float_bytes) * config.d_inner)
    if config.dropatt:
        kept += config.n_head * tgt_len * keys * (1 + float_bytes)
    return float(kept)


def _lstm_bytes(config: AWDLSTMConfig, float_bytes: int) -> float:
    """Of one token in all layers of an LSTM, as torch's own kernel keeps them: eight numbers an output.

    oneDNN's kernel on a CPU keeps 2.3 times as much. Under autocast the cells and their outputs stay float32.
    """
    per_output = 32 if float_bytes == 4 else 20
    around = 8 if float_bytes == 4 else 10  # of the last layer's outputs: for the softmax and the two penalties
    return float(per_output * sum(config.layer_widths[1:]) + around * config.layer_widths[-1])
