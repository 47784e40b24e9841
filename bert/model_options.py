"""The architecture to pretrain: from options, or from a configuration of Hugging Face's, to a model configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.training.recipe import check_range

# Positions of a model with rotary ones (ModernBERT): more than a block has cost nothing and serve fine-tuning.
MIN_ROTARY_POSITIONS = 512
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


@dataclasses.dataclass
class ModelOptions:
    """The architecture; the weights start fresh."""

    model_type: str = dataclasses.field(
        default="roberta",
        metadata={"help": "What the sizes below build.", "choices": ["bert", "roberta", "modernbert"]},
    )
    config_name: str | None = dataclasses.field(
        default=None, metadata={"help": "A model folder or hub model whose config.json to take instead of the sizes."}
    )
    hidden_size: int = dataclasses.field(default=768, metadata={"help": "Width."})
    num_hidden_layers: int = dataclasses.field(default=12, metadata={"help": "Layers."})
    num_attention_heads: int = dataclasses.field(default=12, metadata={"help": "Attention heads."})
    intermediate_size: int = dataclasses.field(default=3072, metadata={"help": "Width of the feed-forward layers."})
    initializer_range: float = dataclasses.field(
        default=0.02, metadata={"help": "Standard deviation of the fresh weights; narrow models want more."}
    )
    dropout: float = dataclasses.field(default=0.1, metadata={"help": "Dropout of hidden states and of attention."})


def model_config(options: ModelOptions, tokenizer: PreTrainedTokenizerBase, block_size: int) -> PretrainedConfig:
    """The configuration of the model to build, fitted to the tokenizer and the block.

    Raises:
        UserError: no such configuration, sizes that do not fit each other, or fewer positions than a block has tokens.
    """
    special: dict[str, int] = {
        name: getattr(tokenizer, name) for name in SPECIAL_TOKENS if getattr(tokenizer, name, None) is not None
    }
    if options.config_name is not None:
        config = load_config(options.config_name)
        for name, value in {"vocab_size": len(tokenizer), **special}.items():
            setattr(config, name, value)
        if num_positions(config) < block_size:
            raise UserError(
                f"--block_size: {block_size} tokens, but {options.config_name} has {num_positions(config)} positions; "
                f"choose `--block_size {num_positions(config)}` or less"
            )
        return config
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        check_range(name, getattr(options, name), 1)
    check_range("initializer_range", options.initializer_range, 0)
    check_range("dropout", options.dropout, 0, 1)
    if options.hidden_size % options.num_attention_heads:
        raise UserError(
            f"--hidden_size: {options.hidden_size} is not a multiple of --num_attention_heads "
            f"{options.num_attention_heads}; choose one that is"
        )
    return AutoConfig.for_model(
        options.model_type,
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        intermediate_size=options.intermediate_size,
        initializer_range=options.initializer_range,
        **_family_options(options, block_size, special),
        **special,
    )


def _family_options(options: ModelOptions, block_size: int, special: dict[str, int]) -> dict[str, Any]:
    """What the families name differently: dropout, positions and segments."""
    if options.model_type == "modernbert":
        names = ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")
        return {
            **dict.fromkeys(names, options.dropout),
            "max_position_embeddings": max(block_size, MIN_ROTARY_POSITIONS),
        }
    offset = special["pad_token_id"] + 1 if options.model_type == "roberta" else 0  # RoBERTa counts on from there
    return {
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.dropout,
        "max_position_embeddings": block_size + offset,
        "type_vocab_size": 1 if options.model_type == "roberta" else 2,
    }


def num_positions(config: PretrainedConfig) -> int:
    """Tokens that a sequence of this model may have."""
    counts_from_padding = config.model_type in ("roberta", "xlm-roberta", "camembert")
    return int(config.max_position_embeddings) - (config.pad_token_id + 1 if counts_from_padding else 0)


def load_config(name_or_path: str) -> PretrainedConfig:
    """The configuration of a model folder or of a hub model."""
    check_name(name_or_path, "--config_name")
    try:
        return AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--config_name: no model configuration {name_or_path!r}; name a folder with a config.json, "
            f"or a model on the hub ({str(error).splitlines()[0]})"
        ) from error
