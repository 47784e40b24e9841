"""The adaptive softmax (Grave et al. 2017): a head of frequent tokens and clusters, and a tail for each cluster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import TransformerXLConfig
from .cross_entropy import linear_cross_entropy


class AdaptiveSoftmax(nn.Module):
    """Losses of labels, and log-probabilities of all tokens; without cutoffs a softmax like any other.

    The head scores the tokens below the first cutoff and, after them, the clusters in reverse order: cluster i, from 1,
    has the head's column -i. p(token) = p_head(cluster i) x p_tail(token | cluster i).

    Parameters: `weight_i`, `bias_i` and, where widths differ, `proj_i` (d_model, width) as in `AdaptiveEmbedding`;
    with div_val 1 there is one `weight_0` and one `bias_0`, of which each cluster takes its rows, and a `proj_i` for
    each cluster. `cluster_weight` (clusters - 1, d_embed), `cluster_bias`. All of them are held by the module itself
    and used in every forward, whatever the labels, as ZeRO-3 and DDP want it.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.ends = config.cluster_ends
        self.num_tails = len(self.ends) - 1
        self.one_table = config.div_val == 1
        start = 0
        for i, end in enumerate(self.ends):
            width = config.cluster_width(i)
            if not self.one_table or width != config.d_model:
                setattr(self, f"proj_{i}", nn.Parameter(torch.empty(config.d_model, width)))
            if not self.one_table:
                setattr(self, f"weight_{i}", nn.Parameter(torch.empty(end - start, width)))
                setattr(self, f"bias_{i}", nn.Parameter(torch.empty(end - start)))
            start = end
        if self.one_table:
            self.weight_0 = nn.Parameter(torch.empty(config.vocab_size, config.cluster_width(0)))
            self.bias_0 = nn.Parameter(torch.empty(config.vocab_size))
        if self.num_tails:
            self.cluster_weight = nn.Parameter(torch.empty(self.num_tails, config.cluster_width(0)))
            self.cluster_bias = nn.Parameter(torch.empty(self.num_tails))

    def forward(
        self, hidden: Tensor, labels: Tensor | None, output_logits: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Losses and log-probabilities.

        Args:
            hidden: (..., d_model).
            labels: (...) int64, -100: no loss there; None: no losses.

        Returns: losses (...) float32 or None, log-probabilities (..., vocab) float32 or None.

        Raises:
            RuntimeError: a label that is no token.
        """
        rows = hidden.flatten(0, -2)
        losses = None
        if labels is not None:
            score = self._adaptive_losses if self.num_tails else self._plain_losses
            losses = score(rows, labels.flatten().contiguous()).view_as(labels)
        logits = self._log_probabilities(rows).view(*hidden.shape[:-1], -1) if output_logits else None
        return losses, logits

    def _plain_losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """(n,): -log p of each row's target."""
        return linear_cross_entropy(self._project(rows, 0), *self._layers()[0], targets)

    @torch.compiler.disable  # a tail has another number of rows in each batch
    def _adaptive_losses(self, rows: Tensor, targets: Tensor) -> Tensor:
        """(n,): -log p of each row's target."""
        layers = self._layers()
        # A target outside the vocabulary is one of the last or of the first cluster, which has no such token.
        cutoffs = torch.tensor(self.ends[:-1], device=targets.device)
        cluster = torch.bucketize(targets, cutoffs, right=True)
        head_target = torch.where(cluster > 0, self.ends[0] + self.num_tails - cluster, targets)
        losses = linear_cross_entropy(self._project(rows, 0), *layers[0], head_target)
        by_cluster = cluster.argsort(stable=True)
        # The one time that the host waits for the device.
        in_clusters = by_cluster.split(torch.bincount(cluster, minlength=len(self.ends)).tolist())
        for i in range(1, len(self.ends)):
            chosen = in_clusters[i]
            tail = self._project(rows.index_select(0, chosen), i)
            tail_targets = targets.index_select(0, chosen) - self.ends[i - 1]
            losses = losses.index_add(0, chosen, linear_cross_entropy(tail, *layers[i], tail_targets))
        return losses

    def _log_probabilities(self, rows: Tensor) -> Tensor:
        """(n, vocab)."""
        parts = []
        for i, (weight, bias) in enumerate(self._layers()):
            scores = F.linear(self._project(rows, i), weight, bias)
            log_p = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
            if i == 0:
                head = log_p
                log_p = head[:, : self.ends[0]]
            else:
                log_p = log_p + head[:, -i, None]
            parts.append(log_p)
        return torch.cat(parts, dim=1)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (classes, width) and bias (classes,) of the head and of each tail."""
        if self.one_table:
            sizes = [end - start for start, end in zip([0, *self.ends], self.ends, strict=False)]
            # Split and not sliced: the gradients of all parts then make the table's in one piece.
            weights, biases = list(self.weight_0.split(sizes)), list(self.bias_0.split(sizes))
        else:
            weights = [getattr(self, f"weight_{i}") for i in range(self.num_tails + 1)]
            biases = [getattr(self, f"bias_{i}") for i in range(self.num_tails + 1)]
        if self.num_tails:
            weights[0] = torch.cat([weights[0], self.cluster_weight])
            biases[0] = torch.cat([biases[0], self.cluster_bias])
        return list(zip(weights, biases, strict=True))

    def _project(self, rows: Tensor, cluster: int) -> Tensor:
        proj = getattr(self, f"proj_{cluster}", None)
        return rows if proj is None else F.linear(rows, proj.t())
