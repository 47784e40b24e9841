"""What a language model of a configuration takes, for a plan."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from nlp_adan.pretraining.costs import ModelCosts

from .configuration import TransformerXLConfig
from .flops import training_flops_per_segment
from .memory import activation_bytes
from .parameters import num_parameters, num_parameters_outside_embedding

# Of a Transformer-XL: NVIDIA's own, of about this size, is published with 59,961 tokens/s on one A100; by this count
# that is 10 % of its peak. Of an LSTM, whose steps follow each other, nothing is assumed.
ASSUMED_MFU = 0.1


def language_model_costs(
    config: PretrainedConfig,
    tgt_len: int,
    mem_len: int,
    *,
    mean_length: float | None = None,
    micro_batch: int = 1,
    bf16: bool = False,
    activation_checkpointing: bool = False,
    tail_share: Sequence[float] | None = None,
    vocabulary: str = "",
) -> ModelCosts:
    """Parameters, work and memory; takes no memory for the model.

    Args:
        config: of a Transformer-XL or an LSTM.
        tgt_len: tokens of a segment.
        mean_length: where they are drawn around that, on average; None: none is.
        mem_len, micro_batch, tail_share: as in `flops.forward_flops_per_segment`.
        bf16: whether the run has --bf16 or --fp16.
        activation_checkpointing: whether it has that option.
        vocabulary: the number of tokens in words, and where it is from.
    """
    is_transformer_xl = isinstance(config, TransformerXLConfig)
    checkpointing = "`--activation_checkpointing true`, or " if is_transformer_xl else ""
    return ModelCosts(
        model_type=config.model_type,
        num_parameters=num_parameters(config),
        num_outside_embedding=num_parameters_outside_embedding(config),
        training_flops_per_sequence=training_flops_per_segment(
            config, mean_length or tgt_len, mem_len, micro_batch=micro_batch, tail_share=tail_share
        ),
        flops_note="matrix products, forward and backward",
        activation_bytes_per_sequence=activation_bytes(
            config, tgt_len, mem_len, bf16, activation_checkpointing, tail_share
        ),
        activations_note="the attention's scores and the memory are in it"
        if is_transformer_xl
        else "oneDNN's kernel on a CPU takes 2.3 times as much",
        assumed_mfu=ASSUMED_MFU if is_transformer_xl else None,
        smaller=f"{checkpointing}a smaller --tgt_len",
        vocabulary=vocabulary,
    )
