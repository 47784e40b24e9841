"""The last encoder layer on chosen positions only: nothing else of its output is ever looked at.

Keys and values are needed of every position; queries, attention's output and the feed-forward layer of the chosen ones
only. The parameters, their names and the result at those positions are those of transformers' layer. Chosen are the
masked positions of a masked LM (`Selection`), or each sequence's first (`nlp_adan.modeling.first_token`).

Shape legend: B batch, S sequence, D hidden, M masked positions of the batch, Q queries of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert import modeling_bert
from transformers.models.camembert.modeling_camembert import CamembertLayer
from transformers.models.modernbert import modeling_modernbert
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from nlp_adan.modeling.queries import Chosen, queries_of

# `bert.flops` counts what these save.
_MODEL_TYPES = ("bert", "camembert", "modernbert", "roberta", "xlm-roberta")


class Choice(Protocol):
    """What a sparse layer asks at each forward pass."""

    def for_layer(self) -> Chosen | None:
        """The positions to compute; None: all."""


class Selection:
    """The positions that the forward pass at hand is asked about, known to the model's last layer and to its head.

    `positions_M` are ascending indices into the flattened B x S; B * S itself is padding. None: all positions count.
    """

    def __init__(self) -> None:
        self.positions_M: Tensor | None = None
        self.applied = False  # whether the last layer has left out the others already

    def begin(self, positions_M: Tensor | None) -> None:
        """Set the positions of a forward pass, or take them back after it."""
        self.positions_M = positions_M
        self.applied = False

    def for_layer(self) -> Tensor | None:
        """See `Choice`: the layer leaves out the others."""
        if self.positions_M is not None:
            self.applied = True
        return self.positions_M

    def take_from(self, hidden_BSD: Tensor) -> Tensor:
        """The selected positions, (1, M, D)."""
        assert self.positions_M is not None
        rows_M = self.positions_M.clamp(max=hidden_BSD.shape[0] * hidden_BSD.shape[1] - 1)
        return hidden_BSD.flatten(0, 1).index_select(0, rows_M)[None]

    def shorten_output(self, base_model: nn.Module, inputs: Any, output: Any) -> Any:
        """Forward hook of the model below the head: of its last hidden state, the selected positions."""
        if self.positions_M is None or self.applied:
            return output
        selected = self.take_from(output[0])
        if isinstance(output, tuple):
            return (selected, *output[1:])
        output["last_hidden_state"] = selected
        return output


class SparseLayer:
    """Mixed into an encoder layer of transformers, for the last of a model: see `SparseBertLayer`."""

    selection: Choice

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The choice becomes an argument: a checkpointed layer runs again when `selection` has moved on."""
        chosen = self.selection.for_layer()
        if chosen is not None:
            kwargs["chosen"] = chosen
        return super().__call__(hidden_states, *args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickle, which would look this class up by its name and find transformers'."""
        _, _, *state = cast(tuple[Any, ...], super().__reduce_ex__(protocol))
        return (_new_sparse, (_dense(type(self)),), *state)


class SparseBertLayer(SparseLayer):
    """BERT's layer and its copies."""

    attention: Any
    feed_forward_chunk: Callable[[Tensor], Tensor]

    def forward(
        self,
        hidden_BSD: Tensor,
        attention_mask: Any = None,
        *args: Any,
        chosen: Chosen | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, S, D); of chosen positions (1, M, D), or (B, 1, D)."""
        if chosen is None:
            return cast(Tensor, super().forward(hidden_BSD, attention_mask, *args, **kwargs))  # type: ignore[misc]
        attention = self.attention.self
        queries = queries_of(chosen, hidden_BSD, attention.config)
        rows = queries.select(hidden_BSD)

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, modeling_bert.eager_attention_forward
        )
        context, _ = attend(
            attention,
            heads(queries.spread(attention.query(rows))),
            heads(attention.key(hidden_BSD)),
            heads(attention.value(hidden_BSD)),
            queries.mask_rows(attention_mask),
            dropout=attention.dropout.p if attention.training else 0.0,
            scaling=attention.scaling,
            **kwargs,
        )
        rows = self.attention.output(queries.collect(context.flatten(2)), rows)
        return queries.as_output(self.feed_forward_chunk(rows))


class SparseModernBertLayer(SparseLayer):
    """ModernBERT's layer. Its queries, keys and values are one projection, which runs on every position."""

    attn: Any
    attn_norm: nn.Module
    mlp: nn.Module
    mlp_norm: nn.Module

    def forward(
        self,
        hidden_BSD: Tensor,
        attention_mask: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        chosen: Chosen | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, S, D); of chosen positions (1, M, D), or (B, 1, D)."""
        if chosen is None:
            dense = super().forward  # type: ignore[misc]
            return cast(Tensor, dense(hidden_BSD, attention_mask, position_embeddings, **kwargs))
        attn = self.attn
        queries = queries_of(chosen, hidden_BSD, attn.config)
        projected = attn.Wqkv(self.attn_norm(hidden_BSD)).unflatten(-1, (3, -1, attn.head_dim))
        query, key, value = (each.transpose(1, 2) for each in projected.unbind(-3))  # each (B, heads, S, head_dim)
        assert position_embeddings is not None
        query, key = modeling_modernbert.apply_rotary_pos_emb(query, key, *position_embeddings)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attn.config._attn_implementation, modeling_modernbert.eager_attention_forward
        )
        context, _ = attend(
            attn,
            queries.trim(query),
            key,
            value,
            queries.mask_rows(attention_mask),
            dropout=attn.attention_dropout if attn.training else 0.0,
            scaling=attn.head_dim**-0.5,
            sliding_window=attn.sliding_window,
            deterministic=attn.deterministic_flash_attn,
            **kwargs,
        )
        rows = queries.select(hidden_BSD) + attn.out_drop(attn.Wo(queries.collect(context.flatten(2))))
        return queries.as_output(rows + self.mlp(self.mlp_norm(rows)))


_MIXINS: dict[type[nn.Module], type[SparseLayer]] = {
    modeling_bert.BertLayer: SparseBertLayer,
    RobertaLayer: SparseBertLayer,
    XLMRobertaLayer: SparseBertLayer,
    CamembertLayer: SparseBertLayer,
    modeling_modernbert.ModernBertEncoderLayer: SparseModernBertLayer,
}
# transformers' class to the sparse one of the same name.
_SPARSE = {
    dense: type(dense.__name__, (mixin, dense), {"__module__": dense.__module__}) for dense, mixin in _MIXINS.items()
}


def last_layer(model: PreTrainedModel) -> nn.Module | None:
    """The last encoder layer, where it is one that is known here and the model is no decoder."""
    if model.config.model_type not in _MODEL_TYPES or getattr(model.config, "is_decoder", False):
        return None
    layers = [
        module for module in model.base_model.modules() if type(module) in _SPARSE or isinstance(module, SparseLayer)
    ]
    return layers[-1] if layers else None


def make_sparse(layer: nn.Module, selection: Choice) -> None:
    """Let a layer compute the chosen positions only. Only its class changes, which keeps its name."""
    layer.__class__ = _SPARSE[type(layer)]
    cast(SparseLayer, layer).selection = selection


def make_dense(layer: nn.Module) -> None:
    """Undo `make_sparse`."""
    layer.__class__ = _dense(type(layer))


def _dense(sparse: type) -> type[nn.Module]:
    return next(dense for dense, each in _SPARSE.items() if each is sparse)


def _new_sparse(dense: type[nn.Module]) -> nn.Module:
    """An empty layer, for unpickling."""
    return cast(nn.Module, object.__new__(_SPARSE[dense]))
