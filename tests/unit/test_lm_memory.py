"""The language models' activations: the estimate of a plan against what autograd keeps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from nlp_adan.pretraining.peak_memory import peak_memory
from transformer_xl.configuration import TransformerXLConfig
from transformer_xl.lstm import AWDLSTMForCausalLM
from transformer_xl.lstm_configuration import AWDLSTMConfig
from transformer_xl.memory import activation_bytes
from transformer_xl.model import TransformerXLForCausalLM

NO_DROPOUT = dict.fromkeys(
    ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_dropout"), 0.0
)
VOCAB = 97


def transformer_xl(num_layers: int, **options: Any) -> TransformerXLConfig:
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB, "cutoffs": [], "d_model": 48, "n_head": 3, "d_head": 10, "d_inner": 160, "dropout": 0.0,
    }  # fmt: skip
    return TransformerXLConfig(n_layer=num_layers, **{**sizes, **options})


def lstm(num_layers: int) -> AWDLSTMConfig:
    return AWDLSTMConfig(
        vocab_size=VOCAB, embedding_size=64, hidden_size=64, num_layers=num_layers, alpha=2.0, beta=1.0, **NO_DROPOUT
    )


def kept_bytes(config: PretrainedConfig, batch: int, seq: int, mem: int, bf16: bool) -> int:
    """What autograd keeps for the backward pass, parameters and memory aside."""
    is_lstm = isinstance(config, AWDLSTMConfig)
    model = (AWDLSTMForCausalLM if is_lstm else TransformerXLForCausalLM)(config).train()
    mems = [] if is_lstm else [torch.randn(batch, mem, config.d_model) for _ in range(config.n_layer)]
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), *mems]}
    sizes: dict[int, int] = {}
    alive = []  # a freed tensor's address may be another's later

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, VOCAB, (batch, seq), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.backends.mkldnn.flags(enabled=False):
            model(ids, mems=tuple(mems), labels=ids)
    return sum(sizes.values())


def of_one_sequence(make: Callable[[int], PretrainedConfig], seq: int, mem: int, bf16: bool) -> int:
    """A layer's, by differences over layers and over the batch, which leave out what does not grow with both."""
    kept = {(layers, batch): kept_bytes(make(layers), batch, seq, mem, bf16) for layers in (1, 2) for batch in (2, 3)}
    return kept[2, 3] - kept[1, 3] - kept[2, 2] + kept[1, 2]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("pre_lnorm", [False, True], ids=["post-norm", "pre-norm"])
def test_a_layers_activations_are_what_autograd_keeps(pre_lnorm: bool, bf16: bool) -> None:
    """Of another memory and another length too, which tells the terms apart. Before a normalisation of the memory, its
    statistics are left out: 2 %."""

    def make(num_layers: int) -> TransformerXLConfig:
        return transformer_xl(num_layers, pre_lnorm=pre_lnorm)

    for seq, mem in ((16, 12), (24, 12), (16, 40)):
        of_layer = [activation_bytes(make(layers), seq, mem, bf16) for layers in (1, 2)]
        memory = 2 * 4 * mem * 48
        found = of_one_sequence(make, seq, mem, bf16)
        assert of_layer[1] - of_layer[0] - memory == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_an_lstms_activations_are_what_autograd_keeps(bf16: bool) -> None:
    """With torch's own kernel on the CPU; of two more layers and of the part that all have, but for single states."""
    found = of_one_sequence(lstm, 30, 0, bf16)
    estimate = [activation_bytes(lstm(layers), 30, bf16=bf16) for layers in (1, 2)]
    assert estimate[1] - estimate[0] == pytest.approx(found, rel=0.05)
    whole = kept_bytes(lstm(1), 3, 30, 0, bf16) - kept_bytes(lstm(1), 2, 30, 0, bf16)
    logarithms = 30 * 4 * VOCAB  # made of a few rows at a time: none is kept
    assert estimate[0] - logarithms == pytest.approx(whole, rel=0.05)


def test_dropout_memory_and_the_softmax_take_memory() -> None:
    plain = activation_bytes(transformer_xl(2), 16, 12)
    dropped = activation_bytes(transformer_xl(2, dropout=0.1, dropatt=0.1), 16, 12)
    assert dropped - plain == 2 * (16 * (2 * 48 + 5 * 160) + 3 * 16 * 28 * 5)
    wider = activation_bytes(transformer_xl(2, vocab_size=VOCAB + 100), 16, 12) - plain
    assert wider == 16 * 100 * (4 + 4)
    clusters = transformer_xl(2, cutoffs=[40])
    assert activation_bytes(clusters, 16, 12, tail_share=[0.25]) - plain == pytest.approx(
        16 * 8 * (40 + 1 + 0.25 * 57 - VOCAB)
    )
    checkpointed = activation_bytes(transformer_xl(2), 16, 12, activation_checkpointing=True)
    one, two = activation_bytes(transformer_xl(1), 16, 12), plain
    assert checkpointed == one + 2 * 4 * 16 * 48 + (2 * 4 * 12 * 48)
    assert checkpointed < two


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc to compare with")
def test_the_most_memory_of_a_process() -> None:
    """Against the kernel's other account of it, its high-water mark; the two are brought up to date apart."""
    (mark,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    found = peak_memory(torch.device("cpu"))
    assert found["peak_host_memory_bytes"] == pytest.approx(1024 * int(mark), rel=0.05)
    assert "peak_device_memory_bytes" not in found
