"""The positions that a layer is asked about, as the queries of its attention.

Shape legend: B batch, S sequence, D hidden, H heads, M masked positions of the batch, Q queries of a sequence.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

# Attention whose mask, if there is one, is a tensor with a row for each query: rows can be left out.
_MASK_IN_ROWS = ("sdpa", "eager")

Chosen: TypeAlias = Tensor | Literal["first"]
"""Ascending indices into the flattened B x S, (M,) int64, where B * S itself is padding; or each sequence's first."""


class MaskedQueries:
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

    def trim(self, query_BHSD: Tensor) -> Tensor:
        """Of every position's query, [B, H, S, D], the masked ones' at their places, [B, H, Q, D]."""
        if self.columns_BQ is None:
            return query_BHSD
        _, heads, _, size = query_BHSD.shape
        return query_BHSD.gather(2, self.columns_BQ[:, None, :, None].expand(-1, heads, -1, size))

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

    def as_output(self, rows_MD: Tensor) -> Tensor:
        """What the layer returns, [1, M, D]."""
        return rows_MD[None]


class FirstQueries:
    """The first position of each sequence as its only query.

    Without `trim` the others' queries are zeros whose results are dropped: any attention mask fits.
    """

    def __init__(self, length: int, *, trim: bool) -> None:
        self.num_dropped = 0 if trim else length - 1

    def select(self, hidden_BSD: Tensor) -> Tensor:
        """Rows of the first positions, [B, 1, D]."""
        return hidden_BSD[:, :1]

    def spread(self, rows_B1D: Tensor) -> Tensor:
        """With the queries to be dropped behind them, [B, Q, D]."""
        return nn.functional.pad(rows_B1D, (0, 0, 0, self.num_dropped)) if self.num_dropped else rows_B1D

    def trim(self, query_BHSD: Tensor) -> Tensor:
        """Of every position's query, [B, H, S, D], those to be computed, [B, H, Q, D]."""
        return query_BHSD if self.num_dropped else query_BHSD[:, :, :1]

    def collect(self, context_BQD: Tensor) -> Tensor:
        """The reverse of `spread`, [B, 1, D]."""
        return context_BQD[:, :1]

    def mask_rows(self, mask: Any) -> Any:
        """Of an attention mask, (B or 1, heads or 1, S or 1, S), the rows of the queries."""
        return mask if mask is None or self.num_dropped else mask[:, :, :1]

    def as_output(self, rows_B1D: Tensor) -> Tensor:
        """What the layer returns, [B, 1, D]."""
        return rows_B1D


def queries_of(chosen: Chosen, hidden_BSD: Tensor, config: Any) -> MaskedQueries | FirstQueries:
    """The queries of a layer with this input; config: of its model."""
    batch, length, _ = hidden_BSD.shape
    in_rows = config._attn_implementation in _MASK_IN_ROWS
    if isinstance(chosen, str):
        return FirstQueries(length, trim=in_rows)
    # The number of queries to trim to has to be known on the host, which on a GPU would wait for the device.
    on_host = hidden_BSD.device.type == "cpu" and not torch.compiler.is_compiling()
    return MaskedQueries(chosen, batch, length, trim=on_host and in_rows)
