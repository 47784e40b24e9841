"""What an LSTM language model is: its sizes and what regularises it; and the values that cannot be."""

from __future__ import annotations

from transformers import PretrainedConfig

from nlp_adan.errors import UserError

SIZES = ("vocab_size", "embedding_size", "hidden_size", "num_layers")
DROPOUTS = ("embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "weight_dropout")
PENALTIES = ("alpha", "beta")


class AWDLSTMConfig(PretrainedConfig):
    """An LSTM of the AWD kind (Merity et al. 2017). The defaults are the Adan paper's three layers for Penn Treebank.

    Args:
        vocab_size: tokens of the vocabulary.
        embedding_size: width of the embedding.
        hidden_size: width of all layers but the last, whose width is the embedding's where the two tables are tied.
        num_layers: LSTM layers.
        embedding_dropout: share of the vocabulary's words that a forward pass reads as 0, wherever they stand.
        input_dropout, hidden_dropout, output_dropout: of the embedded text, between layers and of the last layer's
            output; variational: the same mask at every position of a sequence (Gal and Ghahramani 2016).
        weight_dropout: of the hidden-to-hidden weights (DropConnect), one mask a forward pass.
        alpha: weight of the activation regularisation; beta: of the temporal one (Merity et al. 2017b).
        tie_word_embeddings: whether the softmax has the embedding's table.
    """

    model_type = "awd_lstm"
    keys_to_ignore_at_inference = ("losses", "mems")
    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012 - as in every configuration of transformers

    vocab_size: int = 10000
    embedding_size: int = 400
    hidden_size: int = 1150
    num_layers: int = 3
    embedding_dropout: float | int = 0.1
    input_dropout: float | int = 0.4
    hidden_dropout: float | int = 0.25
    output_dropout: float | int = 0.4
    weight_dropout: float | int = 0.5
    alpha: float | int = 2.0
    beta: float | int = 1.0
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def layer_widths(self) -> list[int]:
        """Width of what enters each layer, and of what leaves the last one: num_layers + 1 numbers."""
        last = self.embedding_size if self.tie_word_embeddings else self.hidden_size
        return [self.embedding_size, *[self.hidden_size] * (self.num_layers - 1), last]


def check_config(config: AWDLSTMConfig, prefix: str = "") -> None:
    """Refuse values that no model can have.

    Args:
        prefix: what stands before an option's name where the user wrote it, such as `--`.

    Raises: UserError that names the option.
    """
    for name in SIZES:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise UserError(f"{prefix}{name}: {value!r} is out of range; give a whole number, 1 or more")
    for name in DROPOUTS:
        if not 0 <= (value := getattr(config, name)) < 1:
            raise UserError(f"{prefix}{name}: {value:g} is out of range; give 0 or more and less than 1")
    for name in PENALTIES:
        if not 0 <= (value := getattr(config, name)) < float("inf"):
            raise UserError(f"{prefix}{name}: {value:g} is out of range; give 0 or more")
