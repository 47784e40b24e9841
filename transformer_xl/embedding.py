"""The adaptive embedding (Baevski and Auli 2019): clusters of rarer tokens may have narrower vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import TransformerXLConfig


class AdaptiveEmbedding(nn.Module):
    """Tokens to vectors, times sqrt(d_model).

    With div_val 1, `weight_0` is the table of all tokens and `proj_0` its projection, if d_embed is not d_model. Else
    cluster i has `weight_i` (tokens, d_embed / div_val^i) and `proj_i` (d_model, d_embed / div_val^i). The module holds
    them all itself, and uses them all in every forward: ZeRO-3 gathers what a module holds, on all ranks alike.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.scale = config.d_model**0.5
        self.ends = [config.vocab_size] if config.div_val == 1 else config.cluster_ends
        start = 0
        for i, end in enumerate(self.ends):
            width = config.cluster_width(i)
            setattr(self, f"weight_{i}", nn.Parameter(torch.empty(end - start, width)))
            if config.div_val != 1 or width != config.d_model:
                setattr(self, f"proj_{i}", nn.Parameter(torch.empty(config.d_model, width)))
            start = end

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, seq) int64 to (batch, seq, d_model)."""
        found = self._embed(input_ids, 0) if len(self.ends) == 1 else self._embed_by_cluster(input_ids)
        # In autocast a projection gives half the precision; the residual stream has the parameters'.
        return found.to(self.weight_0.dtype) * self.scale

    @torch.compiler.disable  # a cluster has another number of tokens in each batch
    def _embed_by_cluster(self, input_ids: Tensor) -> Tensor:
        ids = input_ids.flatten().contiguous()
        # A token outside the vocabulary is one of the last or of the first cluster, where looking it up fails.
        cluster_of = torch.bucketize(ids, torch.tensor(self.ends[:-1], device=ids.device), right=True)
        rows, vectors = [], []
        for i, start in enumerate([0, *self.ends[:-1]]):
            rows.append((cluster_of == i).nonzero()[:, 0])
            vectors.append(self._embed(ids.index_select(0, rows[-1]) - start, i))
        together = torch.cat(vectors)
        in_order = torch.empty_like(together).index_copy(0, torch.cat(rows), together)
        return in_order.view(*input_ids.shape, -1)

    def _embed(self, ids: Tensor, cluster: int) -> Tensor:
        vectors = F.embedding(ids, getattr(self, f"weight_{cluster}"))
        proj = getattr(self, f"proj_{cluster}", None)
        return vectors if proj is None else F.linear(vectors, proj)
