"""Language models with a memory: Transformer-XL and LSTM; an import makes them known to transformers' Auto classes."""

from transformers import AutoConfig

from .configuration import TransformerXLConfig, check_config
from .outputs import LanguageModelOutput

AutoConfig.register(TransformerXLConfig.model_type, TransformerXLConfig)

__all__ = ["LanguageModelOutput", "TransformerXLConfig", "check_config"]
