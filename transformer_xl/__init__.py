"""Language models with a memory: Transformer-XL and LSTM; an import makes them known to transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration import TransformerXLConfig
from .lstm import AWDLSTMForCausalLM
from .lstm_configuration import AWDLSTMConfig
from .model import TransformerXLForCausalLM
from .outputs import LanguageModelOutput

for _config, _model in ((TransformerXLConfig, TransformerXLForCausalLM), (AWDLSTMConfig, AWDLSTMForCausalLM)):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForCausalLM.register(_config, _model)

__all__ = [
    "AWDLSTMConfig",
    "AWDLSTMForCausalLM",
    "LanguageModelOutput",
    "TransformerXLConfig",
    "TransformerXLForCausalLM",
]
