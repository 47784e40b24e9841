"""A trained language model's folder: the model, its vocabulary, and how a text was made into tokens."""

from __future__ import annotations

from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adan.corpora.pretrained_tokenizer import num_token_ids, tokenizer_digest
from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.weights import only_weights

from .configuration import TransformerXLConfig, check_config
from .lstm_configuration import AWDLSTMConfig

# Options of a Transformer-XL that an evaluation may set otherwise than the training did.
OVERRIDES = ("mem_len", "clamp_len", "same_length")


def load_model(name_or_path: str, overrides: dict[str, Any] | None = None) -> PreTrainedModel:
    """A Transformer-XL or LSTM of a folder or of the hub, on this machine's accelerator if it has one, for evaluation.

    overrides: of OVERRIDES; an LSTM has none of these.

    Raises: UserError where there is no such model, or a value that it cannot have.
    """
    overrides = overrides or {}
    check_name(name_or_path, "--model")
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--model: {name_or_path!r} holds no model ({str(error).splitlines()[0]})") from error
    if not isinstance(config, (TransformerXLConfig, AWDLSTMConfig)):
        raise UserError(
            f"--model: {name_or_path!r} is a {config.model_type}; name a {TransformerXLConfig.model_type} or "
            f"{AWDLSTMConfig.model_type}"
        )
    if overrides and not isinstance(config, TransformerXLConfig):
        raise UserError(
            f"--{next(iter(overrides))}: {name_or_path!r} is an LSTM, whose memory has no length; leave it out"
        )
    for name, value in overrides.items():
        setattr(config, name, value)
    if isinstance(config, TransformerXLConfig):
        check_config(config, "--")
    return load_weights(name_or_path, config, "--model").to(accelerator()).eval()


def load_weights(name_or_path: str, config: PretrainedConfig, option: str) -> PreTrainedModel:
    """The model of a folder or of the hub, in float32.

    Raises: UserError where weights are missing, are of other shapes, or do not load.
    """
    try:
        with only_weights(name_or_path, option):
            model, info = AutoModelForCausalLM.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{option}: the weights of {name_or_path!r} do not load ({reason})") from error
    if wrong := sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]):
        raise UserError(
            f"{option}: {name_or_path!r} lacks the weights {', '.join(wrong[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}; name a whole model"
        )
    return cast(PreTrainedModel, model)


def load_vocabulary(name_or_path: str, option: str = "--model") -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder; `vocabulary.rules_of` tells how it makes a text into tokens.

    option: which named the folder.

    Raises: UserError where there is none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{option}: {name_or_path!r} holds no vocabulary ({str(error).partition(chr(10))[0]}); a converted "
            "checkpoint gets one by `python -m transformer_xl convert ... --vocab FILE`"
        ) from error
    return tokenizer


def check_vocabulary(name_or_path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: UserError where a folder's vocabulary is not that of its model."""
    if num_token_ids(tokenizer) != model.config.vocab_size:
        raise UserError(
            f"--model: {name_or_path!r} knows {model.config.vocab_size:,} tokens and its vocabulary has "
            f"{num_token_ids(tokenizer):,}: save, or convert, them together again"
        )


def check_same_vocabulary(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises: UserError where a text's tokens are not those of the model that training is to go on from."""
    option = "--model_name_or_path"
    if tokenizer_digest(load_vocabulary(name_or_path, option)) != tokenizer_digest(tokenizer):
        raise UserError(
            f"{option}: the text's vocabulary is not that of {name_or_path!r}; give the model's own with "
            f"`--tokenizer {name_or_path}`"
        )


def accelerator() -> torch.device:
    """The device that a single process takes."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def nominal_length(model: PreTrainedModel, given: int | None) -> int:
    """Tokens of a segment: as given, or as the model was trained with, as far as its configuration says."""
    return given or int(getattr(model.config, "tgt_len", None) or 128)
