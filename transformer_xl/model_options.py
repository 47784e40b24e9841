"""The language model to train: from options to a configuration."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentTypeError
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.hf_argparser import string_to_bool

from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.integrations.deepspeed import whole_models
from nlp_adan.training.recipe import check_range

from .configuration import TransformerXLConfig, check_config
from .loading import load_weights
from .lstm_configuration import AWDLSTMConfig
from .lstm_configuration import check_config as check_lstm_config
from .stream import MIN_RANDOM_LENGTH

ANY_VOCABULARY = 2**31  # larger than any


@dataclasses.dataclass
class TransformerXLOptions:
    """A Transformer-XL's sizes; the defaults are the paper's base model for WikiText-103."""

    model_name_or_path: str | None = dataclasses.field(
        default=None, metadata={"help": "A model folder or hub model to go on from: its weights and sizes."}
    )
    d_model: int = dataclasses.field(default=410, metadata={"help": "Width."})
    n_layer: int = dataclasses.field(default=16, metadata={"help": "Layers."})
    n_head: int = dataclasses.field(default=10, metadata={"help": "Attention heads."})
    d_head: int | None = dataclasses.field(default=None, metadata={"help": "Width of a head; default: d_model/n_head."})
    d_inner: int = dataclasses.field(default=2100, metadata={"help": "Width of the feed-forward layers."})
    d_embed: int | None = dataclasses.field(default=None, metadata={"help": "Width of the embedding; default d_model."})
    cutoffs: list[int] | None = dataclasses.field(
        default=None,
        metadata={"help": "Where clusters of the vocabulary end, as 20000 40000 200000; default: one softmax."},
    )
    div_val: int = dataclasses.field(
        default=1, metadata={"help": "Each further cluster's embedding is narrower by this factor."}
    )
    tie_weight: bool = dataclasses.field(default=True, metadata={"help": "The softmax has the embedding's table."})
    tie_projs: list[str] | None = dataclasses.field(
        default=None,
        metadata={
            "help": "For each cluster, true or false: whether the softmax has the embedding's projection (where widths "
            "differ: d_embed, div_val); default: all but the first."
        },
    )
    pre_lnorm: bool = dataclasses.field(default=False, metadata={"help": "Normalise the input of a layer's parts."})
    tgt_len: int = dataclasses.field(default=150, metadata={"help": "Tokens of a segment."})
    mem_len: int = dataclasses.field(default=150, metadata={"help": "Positions that each layer remembers."})
    clamp_len: int = dataclasses.field(default=-1, metadata={"help": "Larger distances count as this one; -1: none."})
    same_length: bool = dataclasses.field(
        default=False, metadata={"help": "Every position sees mem_len positions, itself among them."}
    )
    dropout: float = dataclasses.field(default=0.1, metadata={"help": "Dropout of embedding, positions, parts."})
    dropatt: float = dataclasses.field(default=0.0, metadata={"help": "Dropout of the attention's probabilities."})
    init_std: float = dataclasses.field(default=0.02, metadata={"help": "Standard deviation of the fresh weights."})
    proj_init_std: float = dataclasses.field(
        default=0.01, metadata={"help": "The same of the fresh projections of embedding and softmax."}
    )

    @property
    def random_lengths(self) -> bool:
        """Whether segments have random lengths: never, a Transformer-XL's memory wants a grid."""
        return False

    def config(self, vocab_size: int | None) -> PretrainedConfig:
        """The configuration for a vocabulary of this size; None: it is not known yet, the rest is checked.

        Raises: UserError for values that no model can have, and for weights of another vocabulary.
        """
        if self.model_name_or_path is not None:
            return named_config(self.model_name_or_path, TransformerXLConfig, vocab_size, {
                "tgt_len": self.tgt_len, "mem_len": self.mem_len, "clamp_len": self.clamp_len,
                "same_length": self.same_length, "dropout": self.dropout, "dropatt": self.dropatt,
            })  # fmt: skip
        sizes = dataclasses.asdict(self)
        del sizes["model_name_or_path"]
        for name in ("n_head", "d_model"):
            check_range(name, sizes[name], 1)
        ties = None if self.tie_projs is None else [_is_true("tie_projs", word) for word in self.tie_projs]
        config = TransformerXLConfig(
            vocab_size=vocab_size or ANY_VOCABULARY, **{**sizes, "cutoffs": self.cutoffs or [], "tie_projs": ties}
        )
        check_config(config, "--")
        if config.div_val == 1 and config.d_embed == config.d_model:
            for name in ("tie_projs", "proj_init_std"):
                if getattr(self, name) != getattr(TransformerXLOptions(), name):
                    raise UserError(
                        f"--{name}: embedding and layers have one width, so there are no projections; leave it out, or "
                        "choose another `--d_embed` or `--div_val`"
                    )
        return config


def _is_true(option: str, word: str) -> bool:
    try:
        return bool(string_to_bool(word))
    except ArgumentTypeError as error:
        raise UserError(f"--{option}: {word!r} is neither `true` nor `false`; give one of them a cluster") from error


@dataclasses.dataclass
class LSTMOptions:
    """An LSTM of the AWD kind; the defaults are three layers for the Penn Treebank."""

    model_name_or_path: str | None = dataclasses.field(
        default=None, metadata={"help": "A model folder or hub model to go on from: its weights and sizes."}
    )
    embedding_size: int = dataclasses.field(default=400, metadata={"help": "Width of embedding and last layer."})
    hidden_size: int = dataclasses.field(default=1150, metadata={"help": "Width of the other layers."})
    num_layers: int = dataclasses.field(default=3, metadata={"help": "Layers."})
    embedding_dropout: float = dataclasses.field(default=0.1, metadata={"help": "Share of words dropped everywhere."})
    input_dropout: float = dataclasses.field(default=0.4, metadata={"help": "Variational dropout of the embedding."})
    hidden_dropout: float = dataclasses.field(default=0.25, metadata={"help": "Variational dropout between layers."})
    output_dropout: float = dataclasses.field(default=0.4, metadata={"help": "Variational dropout of the last layer."})
    weight_dropout: float = dataclasses.field(default=0.5, metadata={"help": "DropConnect of the recurrent weights."})
    alpha: float = dataclasses.field(default=2.0, metadata={"help": "Activation regularisation."})
    beta: float = dataclasses.field(default=1.0, metadata={"help": "Temporal activation regularisation."})
    tgt_len: int = dataclasses.field(default=70, metadata={"help": "Tokens of a segment (bptt)."})
    random_lengths: bool = dataclasses.field(
        default=True, metadata={"help": "Segments of random length around tgt_len; the learning rate follows it."}
    )

    @property
    def mem_len(self) -> int:
        """An LSTM's memory is its state."""
        return 0

    def config(self, vocab_size: int | None) -> PretrainedConfig:
        """The configuration for a vocabulary of this size; None: it is not known yet, the rest is checked.

        Raises: UserError for values that no model can have, and for weights of another vocabulary.
        """
        check_range("tgt_len", self.tgt_len, 1)
        if self.random_lengths and self.tgt_len < 2 * MIN_RANDOM_LENGTH:
            raise UserError(
                f"--tgt_len: {self.tgt_len} is too short for random lengths, of which some are half of it and none is "
                f"below {MIN_RANDOM_LENGTH}; give {2 * MIN_RANDOM_LENGTH} or more, or `--random_lengths false`"
            )
        values = dataclasses.asdict(self)
        name = values.pop("model_name_or_path")
        for name_of_run in ("tgt_len", "random_lengths"):
            del values[name_of_run]
        if name is not None:
            for size in ("embedding_size", "hidden_size", "num_layers"):
                del values[size]
            return named_config(name, AWDLSTMConfig, vocab_size, values)
        config = AWDLSTMConfig(vocab_size=vocab_size or ANY_VOCABULARY, **values)
        check_lstm_config(config, "--")
        return config


Family = TransformerXLOptions | LSTMOptions


def named_config(
    name: str, kind: type[PretrainedConfig], vocab_size: int | None, overrides: dict[str, Any]
) -> PretrainedConfig:
    """The configuration of a model folder or of a hub model, with other values for what training may change.

    Raises: UserError where there is none, where it is of another family or for another vocabulary.
    """
    option = "--model_name_or_path"
    check_name(name, option)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **overrides)
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: no model configuration {name!r} ({str(error).splitlines()[0]})") from error
    if not isinstance(config, kind):
        raise UserError(f"{option}: {name!r} is a {config.model_type}, not a {kind.model_type}; name one of these")
    if vocab_size is not None and config.vocab_size != vocab_size:
        raise UserError(
            f"{option}: {name!r} knows {config.vocab_size:,} tokens, the text's vocabulary has {vocab_size:,}; give "
            f"the model's own vocabulary with `--tokenizer {name}`"
        )
    return config


def build_model(config: PretrainedConfig, name_or_path: str | None = None) -> PreTrainedModel:
    """The model: fresh weights by torch's random state, or those of a folder or of the hub."""
    with whole_models():
        if name_or_path is None:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        else:
            model = load_weights(name_or_path, config, "--model_name_or_path")
    return model


def segments_before(config: PretrainedConfig, length: int) -> int | None:
    """How many segments of `length` tokens before its own one a token's loss depends on; None: all.

    A level's memory reaches ceil(mem_len / length) segments back, and each of those needs as many for the level below.
    """
    if isinstance(config, TransformerXLConfig):
        return int(config.n_layer) * -(-int(config.mem_len) // length)
    return None
