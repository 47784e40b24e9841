"""What a masked language model of a configuration takes, for a plan."""

from __future__ import annotations

from transformers import PretrainedConfig

from bert.flops import forward_flops_per_sequence
from bert.memory import activation_bytes
from bert.model import shape_of_model
from nlp_adan.modeling.sparse_layers import last_layer
from nlp_adan.pretraining.costs import TRAINING_PER_FORWARD, ModelCosts

ASSUMED_MFU = 0.4  # what well-fed GPUs reach in bf16 with BERT-sized models


def masked_lm_costs(
    config: PretrainedConfig,
    block_size: int,
    mask_probability: float,
    bf16: bool = False,
    activation_checkpointing: bool = False,
) -> ModelCosts:
    """Parameters, work and memory; takes no memory for the model.

    Args:
        config: of the model.
        block_size: tokens of a sequence.
        mask_probability: share of the tokens that the head runs on.
        bf16: whether the run has --bf16 or --fp16.
        activation_checkpointing: whether it has that option.

    Raises: UserError where the model cannot be pretrained here.
    """
    model = shape_of_model(config)
    sparse = last_layer(model) is not None
    forward = forward_flops_per_sequence(config, block_size, mask_probability, sparse)
    return ModelCosts(
        model_type=config.model_type,
        num_parameters=model.num_parameters(),
        training_flops_per_sequence=TRAINING_PER_FORWARD * forward,
        flops_note=f"matrix products, {TRAINING_PER_FORWARD} x forward",
        activation_bytes_per_sequence=activation_bytes(
            config, block_size, mask_probability, bf16, activation_checkpointing
        ),
        activations_note="attention without stored scores",
        assumed_mfu=ASSUMED_MFU,
        smaller="`--activation_checkpointing true`, or a smaller --block_size",
    )
