"""What a Transformer-XL is: its sizes, its memory, its vocabulary's clusters; and the values that cannot be."""

from __future__ import annotations

import itertools
from typing import Any

from transformers import PretrainedConfig

from nlp_adan.errors import UserError

# Option: the least value that it takes.
LEAST = {
    "vocab_size": 1, "d_model": 1, "n_layer": 1, "n_head": 1, "d_head": 1, "d_inner": 1, "d_embed": 1, "div_val": 1,
    "tgt_len": 1, "mem_len": 0, "clamp_len": -1,
}  # fmt: skip
MOST = 2**31  # that any of them takes: torch's sizes are of 64 bits


class TransformerXLConfig(PretrainedConfig):
    """A Transformer-XL (Dai et al. 2019). The defaults are the paper's base model for WikiText-103.

    Args:
        vocab_size: tokens of the vocabulary, the most frequent ones first where there are `cutoffs`.
        d_model: width of the layers; even, since half of a position's vector are sines and half cosines.
        n_layer, n_head: layers, and attention heads of each.
        d_head: width of a head; None: d_model / n_head.
        d_inner: width of the feed-forward layers.
        d_embed: width of the embedding; None: d_model. Another width goes through a projection.
        cutoffs: where the vocabulary's clusters end, the last one excepted; empty: one softmax over all of it.
        div_val: cluster i has an embedding of width d_embed / div_val ** i.
        tie_weight: whether the softmax has the embedding's table.
        tie_projs: for each cluster, whether the softmax has the embedding's projection too; None: for all clusters but
            the first, as the paper's models.
        pre_lnorm: whether a layer's parts normalise their input; else they normalise their sum with it.
        tgt_len: tokens of a segment in training.
        mem_len: positions of the past that a layer remembers; 0: none.
        clamp_len: distances beyond it count as it; 0 or -1: none is beyond.
        same_length: whether every position sees exactly `mem_len` positions, itself among them.
        dropout: of embedding, positions, and each part's output; dropatt: of the attention's probabilities.
        init_std: standard deviation of the fresh weights; proj_init_std: of the fresh projections.
        layer_norm_epsilon: added to a variance.
    """

    model_type = "transformer_xl"
    keys_to_ignore_at_inference = ("losses", "mems")
    attribute_map = {  # noqa: RUF012 - as in every configuration of transformers
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "d_inner",
        "tie_word_embeddings": "tie_weight",
    }

    vocab_size: int = 267735
    d_model: int = 410
    n_layer: int = 16
    n_head: int = 10
    d_head: int | None = None
    d_inner: int = 2100
    d_embed: int | None = None
    cutoffs: list[int] | tuple[int, ...] = (20000, 40000, 200000)
    div_val: int = 1
    tie_weight: bool = True
    tie_projs: list[bool] | None = None
    pre_lnorm: bool = False
    tgt_len: int = 150
    mem_len: int = 150
    clamp_len: int = -1
    same_length: bool = False
    dropout: float | int = 0.1
    dropatt: float | int = 0.0
    init_std: float = 0.02
    proj_init_std: float = 0.01
    layer_norm_epsilon: float = 1e-5
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.cutoffs = list(self.cutoffs)
        if self.d_head is None:
            if self.n_head > 0 and self.d_model % self.n_head:
                raise UserError(
                    f"d_head: {self.n_head} heads cannot share a width of {self.d_model} equally; "
                    "give `d_head`, or a `d_model` that `n_head` divides"
                )
            self.d_head = self.d_model // max(self.n_head, 1)
        if self.d_embed is None:
            self.d_embed = self.d_model
        super().__post_init__(**kwargs)

    @property
    def attention_width(self) -> int:
        """Width of all heads of a layer together."""
        assert self.d_head is not None
        return self.n_head * self.d_head

    @property
    def cluster_ends(self) -> list[int]:
        """Where each cluster of the vocabulary ends, the last one included."""
        return [*self.cutoffs, self.vocab_size]

    def cluster_width(self, cluster: int) -> int:
        """Width of the embedding of a cluster's tokens."""
        assert self.d_embed is not None
        return self.d_embed // self.div_val**cluster

    def ties_projection(self, cluster: int) -> bool:
        """Whether the softmax of a cluster has the embedding's projection."""
        if self.tie_projs is None:
            return cluster > 0
        return cluster < len(self.tie_projs) and self.tie_projs[cluster]


def check_config(config: TransformerXLConfig, prefix: str = "") -> None:
    """Refuse values that no model can have.

    Args:
        prefix: what stands before an option's name where the user wrote it, such as `--`.

    Raises: UserError that names the option.
    """
    for name, least in LEAST.items():
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= MOST:
            bounds = f"{least} to {MOST}" if type(value) is int and value > MOST else f"{least} or more"
            raise UserError(f"{prefix}{name}: {value!r} is out of range; give a whole number, {bounds}")
    for name in ("dropout", "dropatt"):
        if not 0 <= (value := getattr(config, name)) < 1:
            raise UserError(f"{prefix}{name}: {value:g} is out of range; give 0 or more and less than 1")
    for name in ("init_std", "proj_init_std", "layer_norm_epsilon"):
        if not 0 < (value := getattr(config, name)) < float("inf"):
            raise UserError(f"{prefix}{name}: {value:g} is out of range; give more than 0")
    if config.d_model % 2:
        raise UserError(
            f"{prefix}d_model: {config.d_model} is odd; give an even width, half of it for sines, half for cosines"
        )
    if config.same_length and config.mem_len == 0:
        raise UserError(
            f"{prefix}same_length: with mem_len 0 no position would see anything; "
            f"give `{prefix}mem_len` 1 or more, or leave `{prefix}same_length` out"
        )
    _check_clusters(config, prefix)


def _check_clusters(config: TransformerXLConfig, prefix: str) -> None:
    cutoffs = list(config.cutoffs)
    for first, second in itertools.pairwise([0, *cutoffs]):
        if second <= first:
            raise UserError(
                f"{prefix}cutoffs: {second} comes after {first} in {cutoffs}; give numbers of tokens that rise, from 1"
            )
    if cutoffs and cutoffs[-1] >= config.vocab_size:
        raise UserError(
            f"{prefix}cutoffs: {cutoffs[-1]} leaves no token for the last cluster of a vocabulary of "
            f"{config.vocab_size}; give cutoffs below that, or none for one softmax over all tokens"
        )
    if config.cluster_width(len(cutoffs)) < 1:
        raise UserError(
            f"{prefix}div_val: {config.div_val} leaves the last of {len(cutoffs) + 1} clusters no width "
            f"({config.d_embed} / {config.div_val}^{len(cutoffs)}); give a smaller one"
        )
    if config.tie_projs is not None and len(config.tie_projs) > len(cutoffs) + 1:
        raise UserError(
            f"{prefix}tie_projs: {len(config.tie_projs)} values for {len(cutoffs) + 1} clusters; "
            "give at most one for each cluster"
        )
