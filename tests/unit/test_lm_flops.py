"""The language models' operations, counted by hand, against torch's counter, which watches the models run."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from transformer_xl.configuration import TransformerXLConfig
from transformer_xl.flops import (
    counted_tail_share,
    forward_flops_per_segment,
    training_flops_per_segment,
    zipf_tail_share,
)
from transformer_xl.lstm import AWDLSTMForCausalLM
from transformer_xl.lstm_configuration import AWDLSTMConfig
from transformer_xl.model import TransformerXLForCausalLM
from transformer_xl.parameters import num_parameters, num_parameters_outside_embedding

BATCH, TGT, MEM, VOCAB = 3, 8, 5, 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": 16, "n_layer": 2, "n_head": 3, "d_head": 4, "d_inner": 24, "dropout": 0.0,
}  # fmt: skip
CONFIGS = {
    "plain softmax": TransformerXLConfig(**SIZES, cutoffs=[]),
    "clusters": TransformerXLConfig(**SIZES, cutoffs=[10, 20]),
    "pre-norm": TransformerXLConfig(**SIZES, cutoffs=[], pre_lnorm=True),
    "narrow embedding": TransformerXLConfig(**SIZES, cutoffs=[10], d_embed=8),
    "narrower clusters": TransformerXLConfig(**SIZES, cutoffs=[10, 20], div_val=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_transformer_xl_equals_what_the_counter_sees(name: str) -> None:
    """Inputs and labels have the same share of each cluster. The backward pass sums the gradient of each bias of the
    softmax by a product, which the count by hand leaves out."""
    config = CONFIGS[name]
    model = TransformerXLForCausalLM(config).train()
    ids = torch.arange(0, VOCAB, VOCAB // TGT).expand(BATCH, TGT)  # 0, 5, ...: 2 in [0, 10), 2 in [10, 20), 4 beyond
    mems = tuple(torch.randn(BATCH, MEM, config.d_model) for _ in range(config.n_layer))
    with FlopCounterMode(display=False) as forward:
        loss = model(ids, mems=mems, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    share = counted_tail_share(config, torch.bincount(ids[0], minlength=VOCAB).numpy())
    options: dict[str, Any] = {"micro_batch": BATCH, "tail_share": share}
    counted = forward.get_total_flops()
    assert counted == pytest.approx(BATCH * forward_flops_per_segment(config, TGT, MEM, **options), rel=1e-12)
    sizes = [end - start for start, end in itertools.pairwise([0, *config.cluster_ends])]
    sizes[0] += len(sizes) - 1
    of_biases = 2 * BATCH * TGT * sum(part * size for part, size in zip((1.0, *(share or [])), sizes, strict=True))
    counted += backward.get_total_flops() - of_biases
    assert counted == pytest.approx(BATCH * training_flops_per_segment(config, TGT, MEM, **options), rel=1e-12)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_an_lstm_equals_what_the_counter_sees(num_layers: int) -> None:
    """With torch's own LSTM on the CPU, since the counter does not look into oneDNN's. Its backward pass has one more
    product for the bias of the head, and none for the first state."""
    config = AWDLSTMConfig(vocab_size=VOCAB, embedding_size=8, hidden_size=12, num_layers=num_layers)
    model = AWDLSTMForCausalLM(config).train()
    ids = torch.randint(0, VOCAB, (BATCH, TGT), generator=torch.Generator().manual_seed(0))
    with torch.backends.mkldnn.flags(enabled=False):
        with FlopCounterMode(display=False) as forward:
            loss = model(ids, labels=ids).loss
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    assert forward.get_total_flops() == BATCH * forward_flops_per_segment(config, TGT)
    of_bias = 2 * BATCH * TGT * VOCAB
    first_states = sum(2 * BATCH * 4 * width * width for width in config.layer_widths[1:])
    counted = forward.get_total_flops() + backward.get_total_flops() - of_bias + first_states
    assert counted == BATCH * training_flops_per_segment(config, TGT)


def test_the_papers_transformer_xl_by_the_common_rule() -> None:
    """2 x 41.07 M parameters of the layers a token, less the projection of positions, of which 60 streams share one of
    301 for 150 tokens; the memory's keys and values; 3 x 300 scores and sums; the softmax."""
    config = TransformerXLConfig()
    per_token = forward_flops_per_segment(config, 150, 150, micro_batch=60) / 150
    layers = 16 * 2 * (410 * 1640 + 2 * 410 * 2100 + 410 * 410 * 301 / 150 / 60)
    attention = 16 * 2 * (410 * 820 + 410 * (3 * 300 + 1))
    tails = (0.0525 * 20_000, 0.1220 * 160_000, 0.0221 * 67_735)  # by 1 / rank
    softmax = 2 * 410 * (20_003 + sum(tails))
    assert per_token == pytest.approx(layers + attention + softmax, rel=2e-3)
    assert zipf_tail_share(config) == pytest.approx([0.0525, 0.1220, 0.0221], abs=2e-3)


@pytest.mark.parametrize(
    ("config", "total", "outside"),
    [
        (TransformerXLConfig(), 151_107_538, 41_066_400),
        (AWDLSTMConfig(num_layers=1), 5_293_200, 1_283_200),
        (AWDLSTMConfig(num_layers=2), 13_632_400, 9_622_400),
        (AWDLSTMConfig(num_layers=3), 24_221_600, 20_211_600),
    ],
    ids=["wt103-base", "ptb-1layer", "ptb-2layer", "ptb-3layer"],
)
def test_the_papers_models_have_so_many_parameters(config: Any, total: int, outside: int) -> None:
    """The LSTMs: less 10,000 x (400 + 1) of the tied table and the softmax's bias."""
    assert num_parameters(config) == total
    assert num_parameters_outside_embedding(config) == outside
