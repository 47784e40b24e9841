"""The last encoder layer on the masked positions only: nothing else of its output is ever looked at.

Keys and values are needed of every position; queries, attention's output and the feed-forward layer of the masked ones
only. The parameters, their names and the result at those positions are those of transformers' layer.

Shape legend: B batch, S sequence, D hidden, M masked positions of the batch, Q queries of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert import modeling_bert
from transformers.models.camembert.modeling_camembert import CamembertLayer
from transformers.models.modernbert import modeling_modernbert
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

# Attention whose mask, if there is one, is a tensor with a row for each query: rows can be left out.
_MASK_IN_ROWS = ("sdpa", "eager")
# `bert.flops` counts what these save.
_MODEL_TYPES = ("bert", "camembert", "modernbert", "roberta", "xlm-roberta")


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


class Queries:
    """The masked positions as queries, Q to a sequence.

    Without `trim`, Q is S, and the queries of the other positions are zeros whose results are dropped: one shape for
    all batches, and any attention mask fits. With it, Q is the largest number of masked positions in a sequence.
    """

    def __init__(self, positions_M: Tensor, batch: int, length: int, *, trim: bool) -> None:
        self.batch, self.num_queries = batch, length
        self.rows_M = positions_M.clamp(max=batch * length - 1)
        # Where a position's query is among the B x Q; that of padding is B * Q, one behind the last.
        self.slots_M = positions_M
        self.columns_BQ: Tensor | None = None  # position in the sequence of each query
        if trim:
            counts = torch.bincount(positions_M // length, minlength=batch + 1)[:batch]
            self.num_queries = max(int(counts.max()), 1)
            first_of_row = torch.cat([counts.new_zeros(1), counts.cumsum(0)])  # and the number of all, for padding
            row_M = positions_M // length
            rank_M = torch.arange(len(positions_M), device=positions_M.device) - first_of_row[row_M]
            self.slots_M = (row_M * self.num_queries + rank_M).clamp(max=batch * self.num_queries)
            self.columns_BQ = self.spread((self.rows_M % length)[:, None])[..., 0]

    def select(self, hidden_BSD: Tensor) -> Tensor:
        """Rows of the masked positions, [M, D]."""
        return hidden_BSD.flatten(0, 1).index_select(0, self.rows_M)

    def spread(self, rows_MD: Tensor) -> Tensor:
        """Rows of the masked positions at their places among the queries, [B, Q, D], zeros elsewhere."""
        slots = rows_MD.new_zeros(self.batch * self.num_queries + 1, rows_MD.shape[1])
        return slots.index_copy(0, self.slots_M, rows_MD)[:-1].unflatten(0, (self.batch, self.num_queries))

    def collect(self, context_BQD: Tensor) -> Tensor:
        """The reverse of `spread`, [M, D]."""
        return context_BQD.flatten(0, 1).index_select(0, self.slots_M.clamp(max=self.batch * self.num_queries - 1))

    def mask_rows(self, mask: Any) -> Any:
        """Of an attention mask, (B or 1, heads or 1, S or 1, S), the rows of the queries."""
        if mask is None or self.columns_BQ is None or mask.shape[2] == 1:
            return mask
        mask = mask.expand(self.batch, -1, -1, -1)
        rows = self.columns_BQ[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        return mask.gather(2, rows)


class SparseLayer:
    """Mixed into an encoder layer of transformers, for the last of a model: see `SparseBertLayer`."""

    selection: Selection

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The positions become an argument: a checkpointed layer runs again when `selection` has moved on."""
        positions_M = self.selection.positions_M
        if positions_M is not None:
            self.selection.applied = True
            kwargs["positions_M"] = positions_M
        return super().__call__(hidden_states, *args, **kwargs)  # type: ignore[misc]


class SparseBertLayer(SparseLayer):
    """BERT's layer and its copies."""

    attention: Any
    feed_forward_chunk: Callable[[Tensor], Tensor]

    def forward(
        self,
        hidden_BSD: Tensor,
        attention_mask: Any = None,
        *args: Any,
        positions_M: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, S, D), or (1, M, D) where there are positions."""
        if positions_M is None:
            return cast(Tensor, super().forward(hidden_BSD, attention_mask, *args, **kwargs))  # type: ignore[misc]
        attention = self.attention.self
        queries = _queries(positions_M, hidden_BSD, attention.config)
        chosen_MD = queries.select(hidden_BSD)

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attention.config._attn_implementation, modeling_bert.eager_attention_forward
        )
        context, _ = attend(
            attention,
            heads(queries.spread(attention.query(chosen_MD))),
            heads(attention.key(hidden_BSD)),
            heads(attention.value(hidden_BSD)),
            queries.mask_rows(attention_mask),
            dropout=attention.dropout.p if attention.training else 0.0,
            scaling=attention.scaling,
            **kwargs,
        )
        chosen_MD = self.attention.output(queries.collect(context.flatten(2)), chosen_MD)
        return self.feed_forward_chunk(chosen_MD)[None]


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
        positions_M: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, S, D), or (1, M, D) where there are positions."""
        if positions_M is None:
            dense = super().forward  # type: ignore[misc]
            return cast(Tensor, dense(hidden_BSD, attention_mask, position_embeddings, **kwargs))
        attn = self.attn
        queries = _queries(positions_M, hidden_BSD, attn.config)
        projected = attn.Wqkv(self.attn_norm(hidden_BSD)).unflatten(-1, (3, -1, attn.head_dim))
        query, key, value = (each.transpose(1, 2) for each in projected.unbind(-3))  # each (B, heads, S, head_dim)
        assert position_embeddings is not None
        query, key = modeling_modernbert.apply_rotary_pos_emb(query, key, *position_embeddings)
        if queries.columns_BQ is not None:
            rows = queries.columns_BQ[:, None, :, None].expand(-1, query.shape[1], -1, attn.head_dim)
            query = query.gather(2, rows)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            attn.config._attn_implementation, modeling_modernbert.eager_attention_forward
        )
        context, _ = attend(
            attn,
            query,
            key,
            value,
            queries.mask_rows(attention_mask),
            dropout=attn.attention_dropout if attn.training else 0.0,
            scaling=attn.head_dim**-0.5,
            sliding_window=attn.sliding_window,
            deterministic=attn.deterministic_flash_attn,
            **kwargs,
        )
        chosen_MD = queries.select(hidden_BSD) + attn.out_drop(attn.Wo(queries.collect(context.flatten(2))))
        return cast(Tensor, chosen_MD + self.mlp(self.mlp_norm(chosen_MD)))[None]


def _queries(positions_M: Tensor, hidden_BSD: Tensor, config: Any) -> Queries:
    batch, length, _ = hidden_BSD.shape
    # The number of queries to trim to has to be known on the host, which on a GPU would wait for the device.
    trim = hidden_BSD.device.type == "cpu" and not torch.compiler.is_compiling()
    return Queries(positions_M, batch, length, trim=trim and config._attn_implementation in _MASK_IN_ROWS)


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
    layers = [module for module in model.base_model.modules() if type(module) in _SPARSE]
    return layers[-1] if layers else None


def make_sparse(layer: nn.Module, selection: Selection) -> None:
    """Let a layer compute the selected positions only. Only its class changes, which keeps its name."""
    layer.__class__ = _SPARSE[type(layer)]
    cast(SparseLayer, layer).selection = selection


def make_dense(layer: nn.Module) -> None:
    """Undo `make_sparse`."""
    layer.__class__ = next(dense for dense, sparse in _SPARSE.items() if sparse is type(layer))
