"""A plain Transformer-XL in the layout and with the parameter names of the research code, as an oracle.

Written from the equations of Dai et al. 2019 and Grave et al. 2017: time first, one einsum for each product, the shift
by padding and reshaping, a loop over clusters and masks. Nothing of it is shared with the package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The research code's option names, as its command line has them.
OPTIONS: dict[str, Any] = {
    "n_token": 50, "n_layer": 2, "n_head": 2, "d_model": 8, "d_head": 4, "d_inner": 12, "d_embed": 8, "cutoffs": [],
    "tie_projs": [False], "div_val": 1, "pre_lnorm": False, "tie_weight": True, "tgt_len": 5, "mem_len": 6,
    "same_length": False, "clamp_len": -1, "dropout": 0.0, "dropatt": 0.0,
}  # fmt: skip


class Embedding(nn.Module):
    """Looks tokens up, cluster by cluster, and scales by sqrt(d_model)."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.ends = [0, *options["cutoffs"], options["n_token"]]
        self.d_model, self.d_embed, self.div_val = options["d_model"], options["d_embed"], options["div_val"]
        self.emb_layers = nn.ModuleList()
        self.emb_projs = nn.ParameterList()
        if self.div_val == 1:
            self.emb_layers.append(nn.Embedding(options["n_token"], self.d_embed))
            if self.d_embed != self.d_model:
                self.emb_projs.append(nn.Parameter(torch.zeros(self.d_model, self.d_embed)))
        else:
            for i in range(len(self.ends) - 1):
                width = self.d_embed // self.div_val**i
                self.emb_layers.append(nn.Embedding(self.ends[i + 1] - self.ends[i], width))
                self.emb_projs.append(nn.Parameter(torch.zeros(self.d_model, width)))

    def forward(self, tokens: Tensor) -> Tensor:
        if self.div_val == 1:
            found = self.emb_layers[0](tokens)
            found = F.linear(found, self.emb_projs[0]) if len(self.emb_projs) else found
        else:
            weight = self.emb_projs[0]
            found = torch.zeros(*tokens.shape, self.d_model, dtype=weight.dtype)
            for i, (low, high) in enumerate(zip(self.ends, self.ends[1:], strict=False)):
                mask = (tokens >= low) & (tokens < high)
                if mask.any():
                    found[mask] = F.linear(self.emb_layers[i](tokens[mask] - low), self.emb_projs[i])
        return found * self.d_model**0.5


class Softmax(nn.Module):
    """-log p of each target: head first, then a tail for each cluster; the clusters' columns in reverse order."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.ends = [0, *options["cutoffs"], options["n_token"]]
        self.num_tails = len(options["cutoffs"])
        d_model, d_embed, self.div_val = options["d_model"], options["d_embed"], options["div_val"]
        if self.num_tails:
            self.cluster_weight = nn.Parameter(torch.zeros(self.num_tails, d_embed))
            self.cluster_bias = nn.Parameter(torch.zeros(self.num_tails))
        self.out_layers = nn.ModuleList()
        self.out_projs = nn.ParameterList()
        for i in range(self.num_tails + 1):
            width = d_embed // self.div_val**i
            if self.div_val != 1 or d_model != d_embed:
                self.out_projs.append(nn.Parameter(torch.zeros(d_model, width)))
            if self.div_val != 1:
                self.out_layers.append(nn.Linear(width, self.ends[i + 1] - self.ends[i]))
        if self.div_val == 1:
            self.out_layers.append(nn.Linear(d_embed, options["n_token"]))

    def _scores(self, hidden: Tensor, i: int) -> Tensor:
        if self.div_val == 1:
            weight = self.out_layers[0].weight[self.ends[i] : self.ends[i + 1]]
            bias = self.out_layers[0].bias[self.ends[i] : self.ends[i + 1]]
        else:
            weight, bias = self.out_layers[i].weight, self.out_layers[i].bias
        if i == 0 and self.num_tails:
            weight, bias = torch.cat([weight, self.cluster_weight]), torch.cat([bias, self.cluster_bias])
        if len(self.out_projs):
            hidden = F.linear(hidden, self.out_projs[i].t())
        return F.linear(hidden, weight, bias)

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        head = F.log_softmax(self._scores(hidden, 0), dim=-1)
        if not self.num_tails:
            return -head.gather(1, target[:, None])[:, 0]
        losses = torch.zeros_like(target, dtype=head.dtype)
        for i in range(self.num_tails + 1):
            rows = ((target >= self.ends[i]) & (target < self.ends[i + 1])).nonzero()[:, 0]
            if rows.numel() == 0:
                continue
            column = (target[rows] - self.ends[i])[:, None]
            if i == 0:
                log_p = head[rows].gather(1, column)[:, 0]
            else:
                tail = F.log_softmax(self._scores(hidden[rows], i), dim=1)
                log_p = head[rows, -i] + tail.gather(1, column)[:, 0]
            losses = losses.index_copy(0, rows, -log_p)
        return losses


class Attention(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.n_head, self.d_head, self.pre_lnorm = options["n_head"], options["d_head"], options["pre_lnorm"]
        d_model, width = options["d_model"], self.n_head * self.d_head
        self.qkv_net = nn.Linear(d_model, 3 * width, bias=False)
        self.r_net = nn.Linear(d_model, width, bias=False)
        self.o_net = nn.Linear(width, d_model, bias=False)
        self.layer_norm = nn.LayerNorm(d_model)
        self.drop, self.dropatt = nn.Dropout(options["dropout"]), nn.Dropout(options["dropatt"])

    def forward(self, w: Tensor, r: Tensor, u: Tensor, v: Tensor, mask: Tensor, memory: Tensor) -> Tensor:
        (qlen, batch), klen = w.shape[:2], r.shape[0]
        both = torch.cat([memory, w])
        heads = self.qkv_net(self.layer_norm(both) if self.pre_lnorm else both)
        query, key, value = heads.view(klen, batch, 3, self.n_head, self.d_head).unbind(2)
        query = query[-qlen:]
        position = self.r_net(r).view(klen, self.n_head, self.d_head)
        content_score = torch.einsum("ibnd,jbnd->ijbn", query + u, key)
        position_score = torch.einsum("ibnd,jnd->ijbn", query + v, position)
        # Row i one step further to the left than row i + 1: a column of zeros, then other rows' lengths.
        padded = torch.cat([position_score.new_zeros(qlen, 1, batch, self.n_head), position_score], dim=1)
        position_score = padded.view(klen + 1, qlen, batch, self.n_head)[1:].view_as(position_score)
        score = (content_score + position_score) * (1 / self.d_head**0.5)
        p = self.dropatt(F.softmax(score.masked_fill(mask[:, :, None, None], -float("inf")), dim=1))
        found = torch.einsum("ijbn,jbnd->ibnd", p, value).reshape(qlen, batch, -1)
        total = w + self.drop(self.o_net(found))
        return total if self.pre_lnorm else self.layer_norm(total)


class FeedForward(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        d_model, d_inner = options["d_model"], options["d_inner"]
        self.pre_lnorm = options["pre_lnorm"]
        drop = nn.Dropout(options["dropout"])
        self.CoreNet = nn.Sequential(
            nn.Linear(d_model, d_inner), nn.ReLU(inplace=True), drop, nn.Linear(d_inner, d_model), drop
        )
        self.layer_norm = nn.LayerNorm(d_model)

    def forward(self, w: Tensor) -> Tensor:
        if self.pre_lnorm:
            return w + self.CoreNet(self.layer_norm(w))
        return self.layer_norm(w + self.CoreNet(w))


class Layer(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.dec_attn, self.pos_ff = Attention(options), FeedForward(options)


class Positions(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1 / (10000 ** (torch.arange(0.0, d_model, 2.0) / d_model)))


class Original(nn.Module):
    """forward(tokens (seq, batch), targets (seq, batch), memories) -> losses (seq, batch), new memories.

    memories: n_layer + 1 tensors (rows, batch, d_model), the last of which no layer reads; none: an empty past.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options = {**OPTIONS, **options}
        d_model = options["d_model"]
        self.word_emb, self.pos_emb = Embedding(options), Positions(d_model)
        self.r_w_bias = nn.Parameter(torch.zeros(options["n_head"], options["d_head"]))
        self.r_r_bias = nn.Parameter(torch.zeros(options["n_head"], options["d_head"]))
        self.layers = nn.ModuleList(Layer(options) for _ in range(options["n_layer"]))
        self.crit = Softmax(options)
        self.drop = nn.Dropout(options["dropout"])
        if options["tie_weight"]:
            for ours, theirs in zip(self.crit.out_layers, self.word_emb.emb_layers, strict=True):
                ours.weight = theirs.weight
        for i, tied in enumerate(options["tie_projs"]):
            if tied and len(self.crit.out_projs):
                self.crit.out_projs[i] = self.word_emb.emb_projs[0 if options["div_val"] == 1 else i]

    def randomize(self, std: float = 0.3) -> Original:
        """Every parameter drawn anew, biases and scales too, so that none of them can be mistaken."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.normal_(1.0 if name.endswith("layer_norm.weight") else 0.0, std)
        return self

    def masked(self, qlen: int, mlen: int) -> Tensor:
        """(qlen, klen) bool, true where position i may not see j."""
        klen, mem_len = qlen + mlen, self.options["mem_len"]
        ones = torch.ones(qlen, klen, dtype=torch.bool)
        future = torch.triu(ones, diagonal=1 + mlen)
        if not self.options["same_length"]:
            return future
        excess = klen - mem_len
        return future | torch.tril(ones, -(qlen - excess if excess > 0 else qlen))

    def forward(self, tokens: Tensor, targets: Tensor, *memories: Tensor) -> tuple[Tensor, list[Tensor]]:
        (qlen, batch), mem_len = tokens.shape, self.options["mem_len"]
        word = self.word_emb(tokens)
        if not memories:
            memories = (word.new_zeros(0, batch, word.shape[-1]),) * (len(self.layers) + 1)
        mlen = memories[0].shape[0]
        distance = torch.arange(mlen + qlen - 1, -1, -1.0, dtype=word.dtype)
        if self.options["clamp_len"] > 0:
            distance = distance.clamp(max=self.options["clamp_len"])
        angle = torch.outer(distance, self.pos_emb.inv_freq.to(word.dtype))
        r = self.drop(torch.cat([angle.sin(), angle.cos()], dim=-1))
        mask = self.masked(qlen, mlen)
        states = [self.drop(word)]
        for layer, memory in zip(self.layers, memories, strict=False):
            state = layer.dec_attn(states[-1], r, self.r_w_bias, self.r_r_bias, mask, memory)
            states.append(layer.pos_ff(state))
        new = []
        for memory, state in zip(memories, states, strict=True):
            rows = torch.cat([memory, state]).detach()
            new.append(rows[max(0, len(rows) - mem_len) :])
        losses = self.crit(self.drop(states[-1]).flatten(0, 1), targets.flatten())
        return losses.view(qlen, batch), new
