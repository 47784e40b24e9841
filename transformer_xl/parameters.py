"""How many parameters a language model of a configuration has, counted without taking memory for them."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .configuration import TransformerXLConfig
from .lstm import AWDLSTMForCausalLM
from .model import TransformerXLForCausalLM


def num_parameters(config: PretrainedConfig) -> int:
    """All, each shared one once. config: of a Transformer-XL or an LSTM."""
    return int(_without_memory(config).num_parameters())


def num_parameters_outside_embedding(config: PretrainedConfig) -> int:
    """Those of the layers: without embedding and softmax, and without the attention biases that all layers share."""
    return sum(parameter.numel() for parameter in _without_memory(config).layers.parameters())


def _without_memory(config: PretrainedConfig) -> PreTrainedModel:
    kind = TransformerXLForCausalLM if isinstance(config, TransformerXLConfig) else AWDLSTMForCausalLM
    with torch.device("meta"):
        return kind(config)
