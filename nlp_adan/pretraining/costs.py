"""What a model takes of work and of memory, as a plan is told it."""

from __future__ import annotations

from dataclasses import dataclass

# A training step in units of its forward pass: backward multiplies twice, for the inputs' and the weights' gradients.
TRAINING_PER_FORWARD = 3


@dataclass(frozen=True)
class ModelCosts:
    """What a model takes, whether or not it exists yet.

    Args:
        model_type: of its configuration.
        num_parameters: each shared one once.
        training_flops_per_sequence: of the matrix products of a training step.
        flops_note: what they count.
        activation_bytes_per_sequence: at the peak, an estimate.
        activations_note: what the estimate assumes.
        assumed_mfu: share of a GPU's peak that such models reach in bf16, where no rate is given; None: none is
            assumed.
        smaller: what to give where not one sequence fits, the end of a sentence.
        num_outside_embedding: parameters outside of embedding and softmax; None: not told.
        vocabulary: the number of tokens in words, and where it is from; "": not told.
    """

    model_type: str
    num_parameters: int
    training_flops_per_sequence: float
    flops_note: str
    activation_bytes_per_sequence: float
    activations_note: str
    assumed_mfu: float | None
    smaller: str
    num_outside_embedding: int | None = None
    vocabulary: str = ""
