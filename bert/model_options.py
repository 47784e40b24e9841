"""The architecture to pretrain: from options, or from a configuration of Hugging Face's, to a model configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from nlp_adan.corpora.pretrained_tokenizer import num_token_ids
from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.training.recipe import check_range

# Positions of a model with rotary ones (ModernBERT): more than a block has cost nothing and serve fine-tuning.
MIN_ROTARY_POSITIONS = 512
# More are a slip, and beyond what can be planned.
MOST_LAYERS = 10_000
MOST_WIDTH = 1_000_000
RELATIVE_POSITIONS = 2**20  # stands for: any number
# The first position has the number behind the padding token's.
COUNTS_FROM_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


@dataclasses.dataclass
class ModelOptions:
    """The architecture, and the weights to begin with: fresh ones, unless a model is named."""

    model_type: str = dataclasses.field(
        default="roberta",
        metadata={"help": "What the sizes below build.", "choices": ["bert", "roberta", "modernbert"]},
    )
    config_name: str | None = dataclasses.field(
        default=None, metadata={"help": "A model folder or hub model whose config.json to take instead of the sizes."}
    )
    model_name_or_path: str | None = dataclasses.field(
        default=None,
        metadata={"help": "A model folder or hub model to go on from: its weights, sizes and, by default, tokenizer."},
    )
    attn_implementation: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Attention as transformers names it: sdpa, eager, flash_attention_2, ...; default: its choice."
        },
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
        UserError: no such configuration, sizes that do not fit each other, fewer positions than a block has tokens, or
            weights for fewer tokens than the tokenizer has.
    """
    special: dict[str, int] = {
        name: getattr(tokenizer, name) for name in SPECIAL_TOKENS if getattr(tokenizer, name, None) is not None
    }
    if options.model_name_or_path is not None or options.config_name is not None:
        config = _named_config(options, tokenizer, special)
        if num_positions(config) < block_size:
            raise UserError(
                f"--block_size: {block_size} tokens, but {config.name_or_path} has {num_positions(config)} positions; "
                f"choose `--block_size {num_positions(config)}` or less"
            )
    else:
        config = _sized_config(options, num_token_ids(tokenizer), special, block_size)
    if options.attn_implementation is not None:
        config._attn_implementation = options.attn_implementation
    return config


def _named_config(
    options: ModelOptions, tokenizer: PreTrainedTokenizerBase, special: dict[str, int]
) -> PretrainedConfig:
    if options.model_name_or_path is None:
        assert options.config_name is not None
        config = load_config(options.config_name)
        config.vocab_size = num_token_ids(tokenizer)
    else:
        if options.config_name is not None:
            raise UserError(
                f"--config_name: {options.config_name!r} beside `--model_name_or_path {options.model_name_or_path}`, "
                f"which has a configuration of its own; leave one of them out"
            )
        config = load_config(options.model_name_or_path, "--model_name_or_path")
        if num_token_ids(tokenizer) > config.vocab_size:
            raise UserError(
                f"--model_name_or_path: {options.model_name_or_path!r} knows {config.vocab_size:,} tokens, the "
                f"tokenizer has {num_token_ids(tokenizer):,}; leave --tokenizer out to take the model's own"
            )
    for name, value in special.items():
        setattr(config, name, value)
    if getattr(config, "mask_token_id", 0) is None:  # ESM's embedding asks for it
        config.mask_token_id = tokenizer.mask_token_id
    return config


def _sized_config(options: ModelOptions, vocab_size: int, special: dict[str, int], block_size: int) -> PretrainedConfig:
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        check_range(name, getattr(options, name), 1, MOST_LAYERS if name == "num_hidden_layers" else MOST_WIDTH)
    check_range("initializer_range", options.initializer_range, 0)
    check_range("dropout", options.dropout, 0, 1)
    if options.hidden_size % options.num_attention_heads:
        raise UserError(
            f"--hidden_size: {options.hidden_size} is not a multiple of --num_attention_heads "
            f"{options.num_attention_heads}; choose one that is"
        )
    return AutoConfig.for_model(
        options.model_type,
        vocab_size=vocab_size,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        intermediate_size=options.intermediate_size,
        initializer_range=options.initializer_range,
        **_family_options(options, block_size, special),
    )


def _family_options(options: ModelOptions, block_size: int, special: dict[str, int]) -> dict[str, Any]:
    """What the families name differently: special tokens, dropout, positions and segments."""
    if options.model_type == "modernbert":
        names = ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout")
        return {
            **special,
            **dict.fromkeys(names, options.dropout),
            # As ModernBERT has them; its defaults are tokens of its own vocabulary.
            "bos_token_id": special.get("bos_token_id", special.get("cls_token_id")),
            "eos_token_id": special.get("eos_token_id", special.get("sep_token_id")),
            "max_position_embeddings": max(block_size, MIN_ROTARY_POSITIONS),
        }
    if options.model_type == "roberta" and "pad_token_id" not in special:
        raise UserError(
            "--model_type: 'roberta' numbers positions from the padding token on, and the tokenizer has none; choose "
            "`--model_type bert` or `--model_type modernbert`, or another tokenizer"
        )
    offset = special["pad_token_id"] + 1 if options.model_type == "roberta" else 0
    return {
        **special,
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.dropout,
        "max_position_embeddings": block_size + offset,
        "type_vocab_size": 1 if options.model_type == "roberta" else 2,
    }


def num_positions(config: PretrainedConfig) -> int:
    """Tokens that a sequence of this model may have."""
    num_embeddings = getattr(config, "max_position_embeddings", None)
    if num_embeddings is None:  # relative positions only
        return RELATIVE_POSITIONS
    return int(num_embeddings) - (config.pad_token_id + 1 if config.model_type in COUNTS_FROM_PADDING else 0)


def load_config(name_or_path: str, option: str = "--config_name") -> PretrainedConfig:
    """The configuration of a model folder or of a hub model; `option` is what named it."""
    check_name(name_or_path, option)
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{option}: no model configuration {name_or_path!r}; name a folder with a config.json, "
            f"or a model on the hub ({str(error).splitlines()[0]})"
        ) from error
