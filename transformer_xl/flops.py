"""What a language model computes: the floating-point operations of its matrix products, counted by hand.

A multiplication and its addition are two operations. Normalisation, activations, softmax, embedding look-ups and the
optimizer are left out. A segment is of `tgt_len` tokens, with all of its memory: the first ones of a text have less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PretrainedConfig

from nlp_adan.pretraining.costs import TRAINING_PER_FORWARD

from .configuration import TransformerXLConfig
from .lstm_configuration import AWDLSTMConfig
from .stream import mean_random_length


def forward_flops_per_segment(
    config: PretrainedConfig,
    tgt_len: float,
    mem_len: int = 0,
    *,
    micro_batch: int = 1,
    tail_share: Sequence[float] | None = None,
) -> float:
    """Operations of one forward pass over one segment of one stream, masked ones included.

    Args:
        config: of a Transformer-XL or an LSTM.
        tgt_len: tokens of the segment.
        mem_len: positions that a Transformer-XL's layer remembers; an LSTM has none.
        micro_batch: streams that a device takes at a time; the positions are projected once for all of them.
        tail_share: of an adaptive softmax, the share of the tokens in each cluster but the first; None: by
            `zipf_tail_share`. The head scores every token, a tail those of its cluster.
    """
    if isinstance(config, AWDLSTMConfig):
        widths = config.layer_widths
        gates = sum(4 * after * (before + after) for before, after in itertools.pairwise(widths))
        return 2.0 * tgt_len * (gates + widths[-1] * config.vocab_size)
    assert isinstance(config, TransformerXLConfig) and config.d_head is not None
    shares = zipf_tail_share(config) if tail_share is None else tail_share
    width, keys = config.n_head * config.d_head, mem_len + tgt_len
    layer = _memory_flops(config, mem_len) + _position_flops(config, keys) / micro_batch
    layer += 2.0 * tgt_len * config.d_model * (3 * width + width + 2 * config.d_inner)  # qkv, output, feed-forward
    layer += 2.0 * tgt_len * width * (keys + (keys + 1) + keys)  # scores of content and of positions, values
    return config.n_layer * layer + tgt_len * (_embedding_flops(config, shares) + _softmax_flops(config, shares))


def training_flops_per_segment(
    config: PretrainedConfig,
    tgt_len: float,
    mem_len: int = 0,
    *,
    micro_batch: int = 1,
    tail_share: Sequence[float] | None = None,
) -> float:
    """Operations of a training step on one segment of one stream; the arguments are `forward_flops_per_segment`'s."""
    total = TRAINING_PER_FORWARD * forward_flops_per_segment(
        config, tgt_len, mem_len, micro_batch=micro_batch, tail_share=tail_share
    )
    if not isinstance(config, TransformerXLConfig):
        return total
    # Positions and memory get no gradient; where the memory is normalised anew, the normalisation's weights want it.
    spared = _position_flops(config, mem_len + tgt_len) / micro_batch
    spared += 0.0 if config.pre_lnorm else _memory_flops(config, mem_len)
    return total - config.n_layer * spared


def mean_segment_length(tgt_len: int, random_lengths: bool) -> float:
    """Tokens of a segment on average.

    random_lengths: whether segments are drawn around `tgt_len`, as `stream.random_lengths` draws them.
    """
    return mean_random_length(tgt_len) if random_lengths else float(tgt_len)


def zipf_tail_share(config: TransformerXLConfig) -> list[float]:
    """The share of a text's tokens in each cluster but the first, if their frequency falls as 1 / rank.

    An assumption, for text that is not counted yet. In WikiText-2 with cutoffs 2,000 and 10,000 the shares are 15.6 %
    and 7.1 %; this gives 14.5 % and 10.8 %.
    """
    # The sum of 1 / rank over the ranks a+1, ..., b is about ln((b + 1/2) / (a + 1/2)).
    logs = [math.log(end + 0.5) for end in (0, *config.cluster_ends)]
    return [(after - before) / (logs[-1] - logs[0]) for before, after in itertools.pairwise(logs[1:])]


def counted_tail_share(config: PretrainedConfig, counts: npt.NDArray[np.int64]) -> list[float] | None:
    """The share of a text's tokens in each cluster but the first; None for a model without clusters.

    counts: (vocab,) int64, how often each token occurs.
    """
    if not isinstance(config, TransformerXLConfig):
        return None
    return [float(counts[start:end].sum() / counts.sum()) for start, end in itertools.pairwise(config.cluster_ends)]


def _memory_flops(config: TransformerXLConfig, mem_len: int) -> float:
    """Of one layer: keys and values of the memory."""
    assert config.d_head is not None
    return 2.0 * mem_len * config.d_model * 2 * config.n_head * config.d_head


def _position_flops(config: TransformerXLConfig, num_keys: float) -> float:
    """Of one layer: the projection of the distances' vectors, of which there is one more than keys."""
    assert config.d_head is not None
    return 2.0 * (num_keys + 1) * config.d_model * config.n_head * config.d_head


def _embedding_flops(config: TransformerXLConfig, tail_share: Sequence[float]) -> float:
    """Of one token's projection, on average."""
    if config.div_val == 1:
        return 0.0 if config.d_embed == config.d_model else 2.0 * config.cluster_width(0) * config.d_model
    shares = (1 - sum(tail_share), *tail_share)
    return sum(2.0 * share * config.cluster_width(i) * config.d_model for i, share in enumerate(shares))


def _softmax_flops(config: TransformerXLConfig, tail_share: Sequence[float]) -> float:
    """Of one token's loss, on average."""
    ends = config.cluster_ends
    sizes = [ends[0] + len(ends) - 1, *(end - start for start, end in itertools.pairwise(ends))]
    total = 0.0
    for i, (share, size) in enumerate(zip((1.0, *tail_share), sizes, strict=True)):
        width = config.cluster_width(i)
        is_projected = config.div_val != 1 or width != config.d_model
        total += 2.0 * share * (width * size + (config.d_model * width if is_projected else 0))
    return total
