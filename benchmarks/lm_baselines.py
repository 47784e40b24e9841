"""What the language models are measured against: straightforward ones, with the same weights and the same work.

A Transformer-XL as research code lays it out: time before batch, the scores by einsum with the batch inside, relative
positions by padding and viewing, the memory put before the segment in every layer, its queries computed too, the
probabilities of the whole vocabulary kept. An LSTM of torch's own layers. Both take (positions, batch) of tokens.

Suffixes of names are their axes: i queries, j keys, b batch, n heads, d width of a head.
"""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from transformer_xl import AWDLSTMForCausalLM, TransformerXLConfig, TransformerXLForCausalLM
from transformer_xl.lstm_configuration import AWDLSTMConfig

# Our names of what has another one here.
RENAMED = (
    (r"^embedding\.weight_0$", "table.weight"),
    (r"^softmax\.bias_0$", "softmax.bias"),
    (r"^layers\.(\d+)\.feed_forward\.inner\.", r"layers.\1.feed_forward.0."),
    (r"^layers\.(\d+)\.feed_forward\.outer\.", r"layers.\1.feed_forward.3."),
    (r"^layers\.(\d+)\.feed_forward\.layer_norm\.", r"layers.\1.feed_forward_norm."),
    (r"^layers\.(\d+)\.attention\.qkv_weight$", r"layers.\1.qkv_net.weight"),
    (r"^layers\.(\d+)\.attention\.", r"layers.\1."),
)


class ResearchLayer(nn.Module):
    """Relative attention and the feed-forward part, normalised after them."""

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        assert config.d_head is not None
        self.num_heads, self.head_width = config.n_head, config.d_head
        width = config.n_head * config.d_head
        self.qkv_net = nn.Linear(config.d_model, 3 * width, bias=False)
        self.r_net = nn.Linear(config.d_model, width, bias=False)
        self.o_net = nn.Linear(width, config.d_model, bias=False)
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.drop = nn.Dropout(config.dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.d_model, config.d_inner),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.d_inner, config.d_model),
            nn.Dropout(config.dropout),
        )
        self.feed_forward_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, hidden: Tensor, positions: Tensor, u_nd: Tensor, v_nd: Tensor, mask: Tensor, memory: Tensor
    ) -> Tensor:
        """hidden: (queries, batch, width); memory: (rows, batch, width); mask: (queries, keys, 1, 1), True: unseen."""
        num_queries, batch, _ = hidden.shape
        both = torch.cat([memory, hidden], dim=0)
        q, k, v = self.qkv_net(both).chunk(3, dim=-1)
        heads = (batch, self.num_heads, self.head_width)
        q_ibnd, k_jbnd, v_jbnd = q[-num_queries:].view(-1, *heads), k.view(-1, *heads), v.view(-1, *heads)
        r_jnd = self.r_net(positions).view(-1, *heads[1:])
        content = torch.einsum("ibnd,jbnd->ijbn", q_ibnd + u_nd, k_jbnd)
        position = relative_shift(torch.einsum("ibnd,jnd->ijbn", q_ibnd + v_nd, r_jnd))
        scores_ijbn = ((content + position) * self.head_width**-0.5).masked_fill(mask, -torch.inf)
        found = torch.einsum("ijbn,jbnd->ibnd", functional.softmax(scores_ijbn, dim=1), v_jbnd)
        hidden = self.layer_norm(hidden + self.drop(self.o_net(found.reshape(num_queries, batch, -1))))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


def relative_shift(scores_ijbn: Tensor) -> Tensor:
    """Column j of row i becomes that of the distance between them: one column of zeros, seen through another shape."""
    num_queries, num_keys = scores_ijbn.shape[:2]
    zeros = scores_ijbn.new_zeros(num_queries, 1, *scores_ijbn.shape[2:])
    padded = torch.cat([zeros, scores_ijbn], dim=1).view(num_keys + 1, num_queries, *scores_ijbn.shape[2:])
    return padded[1:].view_as(scores_ijbn)


class ResearchSoftmax(nn.Module):
    """Softmax of a vocabulary in clusters, or whole; its log-probabilities are kept and one of each row is taken."""

    def __init__(self, config: TransformerXLConfig, table: nn.Parameter) -> None:
        super().__init__()
        self.ends = [0, *config.cutoffs, config.vocab_size]
        self.table = table
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if config.cutoffs:
            self.cluster_weight = nn.Parameter(torch.zeros(len(config.cutoffs), config.d_model))
            self.cluster_bias = nn.Parameter(torch.zeros(len(config.cutoffs)))

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        """(tokens, width) and (tokens,) int64 to losses, (tokens,)."""
        if len(self.ends) == 2:
            log_probs = functional.log_softmax(functional.linear(hidden, self.table, self.bias), dim=-1)
            return -log_probs.gather(1, target[:, None])[:, 0]
        losses = torch.zeros_like(target, dtype=hidden.dtype)
        head_log_probs: Tensor
        for number, (begin, end) in enumerate(itertools.pairwise(self.ends)):
            weight, bias = self.table[begin:end], self.bias[begin:end]
            chosen = ((target >= begin) & (target < end)).nonzero()[:, 0]
            if number == 0:
                weight, bias = torch.cat([weight, self.cluster_weight]), torch.cat([bias, self.cluster_bias])
                head_log_probs = functional.log_softmax(functional.linear(hidden, weight, bias), dim=1)
            if chosen.numel() == 0:
                continue
            in_cluster = (target.index_select(0, chosen) - begin)[:, None]
            head = head_log_probs.index_select(0, chosen)
            if number == 0:
                log_p = head.gather(1, in_cluster)[:, 0]
            else:
                tail = functional.log_softmax(functional.linear(hidden.index_select(0, chosen), weight, bias), dim=1)
                log_p = head[:, -number] + tail.gather(1, in_cluster)[:, 0]
            losses.index_copy_(0, chosen, -log_p)
        return losses


class ResearchTransformerXL(nn.Module):
    """Of a post-norm model with div_val 1, tied tables and no projections, as the paper's."""

    def __init__(self, ours: TransformerXLForCausalLM) -> None:
        super().__init__()
        config = self.config = ours.config
        self.table = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(ResearchLayer(config) for _ in range(config.n_layer))
        self.r_w_bias = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.r_r_bias = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.softmax = ResearchSoftmax(config, self.table.weight)
        self.drop = nn.Dropout(config.dropout)
        frequency = 1 / 10000 ** (torch.arange(0.0, config.d_model, 2.0) / config.d_model)
        self.register_buffer("frequency", frequency, persistent=False)
        self.load_state_dict(renamed(ours.state_dict(), self.state_dict()))

    def forward(self, ids: Tensor, labels: Tensor, mems: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Losses, (positions, batch), and the next memory: the inputs of the layers and the last one's output."""
        num_queries, batch = ids.shape
        if mems is None:
            mems = [self.table.weight.new_empty(0, batch, self.config.d_model)] * (len(self.layers) + 1)
        num_keys = len(mems[0]) + num_queries
        mask = torch.triu(torch.ones(num_queries, num_keys, device=ids.device), diagonal=1 + len(mems[0])).bool()
        hidden = self.drop(self.table(ids) * self.config.d_model**0.5)
        distance = torch.arange(num_keys - 1, -1, -1.0, device=ids.device, dtype=hidden.dtype)
        angle = torch.outer(distance, self.frequency)
        positions = self.drop(torch.cat([angle.sin(), angle.cos()], dim=-1))
        states = [hidden]
        for layer, memory in zip(self.layers, mems[:-1], strict=True):
            hidden = layer(hidden, positions, self.r_w_bias, self.r_r_bias, mask[:, :, None, None], memory)
            states.append(hidden)
        losses = self.softmax(self.drop(hidden).flatten(0, 1), labels.flatten()).view_as(labels)
        with torch.no_grad():
            pairs = zip(mems, states, strict=True)
            kept = [torch.cat(pair, dim=0)[-self.config.mem_len :].detach() for pair in pairs]
        return losses, kept


class TorchLSTM(nn.Module):
    """An embedding, `nn.LSTM` and a tied linear layer: what one writes with torch, without the regularisation."""

    def __init__(self, ours: AWDLSTMForCausalLM) -> None:
        super().__init__()
        config: AWDLSTMConfig = ours.config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.layers = nn.ModuleList(nn.LSTM(before, after) for before, after in itertools.pairwise(config.layer_widths))
        self.head = nn.Linear(config.embedding_size, config.vocab_size)
        self.head.weight = self.embedding.weight
        state = ours.state_dict()
        for name in [name for name in state if re.search(r"\.(weight|bias)_[ih]h$", name)]:
            state[f"{name}_l0"] = state.pop(name)
        self.load_state_dict(state)

    def forward(self, ids: Tensor, labels: Tensor, mems: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Losses, (positions, batch), and the state of the layers: h and c of each."""
        hidden, after = self.embedding(ids), []
        for number, layer in enumerate(self.layers):
            hidden, state = layer(hidden, None if mems is None else (mems[2 * number], mems[2 * number + 1]))
            after += [part.detach() for part in state]
        losses = functional.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view_as(labels), after


def renamed(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the baseline's names and in its shapes."""
    found = {}
    for name, tensor in ours.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if name != "softmax.weight_0":  # the table
            found[name] = tensor.view(theirs[name].shape) if name in theirs else tensor
    found["softmax.table"] = found["table.weight"]
    return found
