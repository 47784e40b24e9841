"""Trials of a model that computes less against the model's own forward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

# Two orders of the same float32 sums. Measured: 2e-6; what mixes positions is off by 1.
TRIAL_TOLERANCE = 1e-3


@contextlib.contextmanager
def on_trial(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, gradients and a trace in model and random numbers; with attention that any device has.

    A model that ZeRO-3 has partitioned is whole meanwhile: every rank has to call this.
    """
    config, was_training = model.config, model.training
    implementation = config._attn_implementation
    if implementation not in (None, "eager", "sdpa"):
        config._attn_implementation = "sdpa"  # the others want a GPU
    model.eval()
    try:
        with _whole(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.train(was_training)
        config._attn_implementation = implementation
        if config.model_type == "big_bird":  # a short sequence makes it leave its sparse attention for good
            model.base_model.set_attention_type(config.attention_type)


def _whole(model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    parts = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not parts:
        return contextlib.nullcontext()
    import deepspeed

    gathered: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(parts)
    return gathered
