"""Transformer-XL (Dai et al. 2019) as a model of transformers', with the memory as an argument and a result.

Shape suffixes: B batch, T positions of the segment, M rows of the memory, C width of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple

from .adaptive_softmax import AdaptiveSoftmax
from .attention import RelativeAttention, attention_mask, position_vectors
from .configuration import TransformerXLConfig, check_config
from .cross_entropy import IGNORED_LABEL
from .embedding import AdaptiveEmbedding
from .outputs import LanguageModelOutput


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, residual connection and normalisation included."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.pre_norm, self.dropout = config.pre_lnorm, config.dropout
        self.inner = nn.Linear(config.d_model, config.d_inner)
        self.outer = nn.Linear(config.d_inner, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        inner = F.relu(self.inner(self.layer_norm(hidden) if self.pre_norm else hidden))
        outer = self.outer(F.dropout(inner, self.dropout, self.training))
        total = hidden + F.dropout(outer, self.dropout, self.training)
        return total if self.pre_norm else self.layer_norm(total)


class TransformerXLLayer(GradientCheckpointingLayer):
    """Attention, then the feed-forward part."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, memory: Tensor | None, *shared: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C); `shared`: what all layers have, see `RelativeAttention`."""
        return self.feed_forward(self.attention(hidden, memory, *shared))


class TransformerXLForCausalLM(PreTrainedModel):
    """A language model with a memory of `config.mem_len` positions in each layer.

    Labels are not shifted: `labels[:, t]` is the target of position t, against the habit of transformers, because the
    last target of a segment is the first token of the next.
    """

    config_class = TransformerXLConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _no_split_modules = ("TransformerXLLayer",)

    def __init__(self, config: TransformerXLConfig) -> None:
        check_config(config)
        super().__init__(config)
        self.loss_type = None  # by its name the Trainer would take it for one that shifts labels, and count fewer
        self.embedding = AdaptiveEmbedding(config)
        self.layers = nn.ModuleList(TransformerXLLayer(config) for _ in range(config.n_layer))
        # The biases of queries for content and for positions, of all layers and heads.
        self.r_w_bias = nn.Parameter(torch.empty(config.attention_width))
        self.r_r_bias = nn.Parameter(torch.empty(config.attention_width))
        self.softmax = AdaptiveSoftmax(config)
        self._tied_weights_keys = tied_parameters(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        mems: Sequence[Tensor] | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_logits: bool | None = None,
    ) -> LanguageModelOutput:
        """Read a segment.

        Args:
            input_ids: (batch, seq) int64.
            mems: what the segment before returned; none or None: nothing came before. `n_layer` tensors
                (batch, rows, d_model), the inputs of the layers.
            labels: (batch, seq) int64, the targets of the same positions; -100: no loss there.
            num_items_in_batch: what to divide the sum of the losses by; None: by the number of labels.
            output_logits: whether to return log-probabilities; None: if there are no labels.

        Raises:
            IndexError, RuntimeError: a token, a label that is not in the vocabulary.
        """
        config: TransformerXLConfig = self.config
        hidden_BTC = self.embedding(input_ids)
        hidden_BTC = F.dropout(hidden_BTC, config.dropout, self.training)
        num_memory = mems[0].shape[1] if mems else 0
        num_keys = num_memory + input_ids.shape[1]
        positions = position_vectors(num_keys, config.d_model, config.clamp_len, hidden_BTC)
        positions = F.dropout(positions, config.dropout, self.training)
        window = config.mem_len if config.same_length else None
        mask = attention_mask(input_ids.shape[1], num_memory, window, hidden_BTC)
        new_mems = []
        for i, layer in enumerate(self.layers):
            memory = mems[i].detach() if mems and num_memory else None
            if config.mem_len:
                new_mems.append(remembered(memory, hidden_BTC, config.mem_len))
            hidden_BTC = layer(hidden_BTC, memory, positions, self.r_w_bias, self.r_r_bias, mask)
        hidden_BTC = F.dropout(hidden_BTC, config.dropout, self.training)
        output_logits = labels is None if output_logits is None else output_logits
        losses, logits = self.softmax(hidden_BTC, labels, output_logits)
        loss = None
        if losses is not None and labels is not None:
            if num_items_in_batch is None:
                num_items_in_batch = (labels != IGNORED_LABEL).sum().clamp(min=1)
            loss = losses.sum() / num_items_in_batch
        return LanguageModelOutput(loss=loss, losses=losses, logits=logits, mems=tuple(new_mems))

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which parameters are which others; projections are tied whether or not the tables are."""
        return dict(self._tied_weights_keys)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of all clusters."""
        return self.embedding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the paper's code: normal weights and biases of attention, scales around 1, the other biases 0."""
        std = self.config.init_std
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("proj_"):
                init.normal_(parameter, std=self.config.proj_init_std)
            elif isinstance(module, nn.LayerNorm) and name == "weight":
                init.normal_(parameter, mean=1.0, std=std)
            elif name.startswith("bias") or name == "cluster_bias":
                init.zeros_(parameter)
            else:
                init.normal_(parameter, std=std)


def remembered(memory_BMC: Tensor | None, hidden_BTC: Tensor, mem_len: int) -> Tensor:
    """(B, rows, C): the last `mem_len` rows of memory and segment, or all where there are fewer, without gradient."""
    segment = hidden_BTC.detach()
    if segment.shape[1] > mem_len:
        return segment[:, -mem_len:].clone()  # a view would keep all of the segment in memory
    if memory_BMC is None:
        return segment
    return torch.cat([memory_BMC[:, max(0, memory_BMC.shape[1] + segment.shape[1] - mem_len) :], segment], dim=1)


def tied_parameters(config: TransformerXLConfig) -> dict[str, str]:
    """The parameters of the softmax that are the embedding's: their names, and those of the embedding's."""
    num_clusters = len(config.cutoffs) + 1
    num_tables = 1 if config.div_val == 1 else num_clusters
    tied = {}
    if config.tie_weight:
        tied = {f"softmax.weight_{i}": f"embedding.weight_{i}" for i in range(num_tables)}
    if config.div_val != 1 or config.d_embed != config.d_model:
        for i in range(num_clusters):
            if config.ties_projection(i):
                tied[f"softmax.proj_{i}"] = f"embedding.proj_{min(i, num_tables - 1)}"
    return tied
