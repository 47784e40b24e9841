"""Relative multi-head attention over a segment and its memory (Dai et al. 2019, section 3.3).

Shape suffixes: B batch, H heads, T positions of the segment, M rows of the memory, K = M + T positions that keys and
values have, D width of a head, W = H x D, C width of the layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import TransformerXLConfig


def position_vectors(num_keys: int, width: int, clamp_len: int, like: Tensor) -> Tensor:
    """The vectors of the distances K-1, ..., 0 and one more that nobody sees, (K + 1, width), in `like`'s dtype.

    First the sines, then the cosines, of distance / 10000^(2i / width). `clamp_len`: distances beyond it count as it;
    0 or less: none is.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    distance = torch.arange(num_keys - 1, -2, -1, device=like.device, dtype=dtype)
    if clamp_len > 0:
        distance = distance.clamp(max=clamp_len)
    frequency = 10000 ** (torch.arange(0, width, 2, device=like.device, dtype=dtype) / -width)
    angle = distance[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def attention_mask(num_queries: int, num_memory: int, window: int | None, like: Tensor) -> Tensor:
    """(T, K) of `like`'s dtype: 0 where query i sees key j, else -inf.

    With the distance d = M + i - j it sees 0 <= d, and with a `window` (same_length) 0 <= d < window.
    """
    num_keys = num_memory + num_queries
    query = torch.arange(num_memory, num_keys, device=like.device)[:, None]
    distance = query - torch.arange(num_keys, device=like.device)
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(num_queries, num_keys, device=like.device, dtype=like.dtype).masked_fill(hidden, -torch.inf)


def relative_attention(
    q_BTHD: Tensor,
    k_HBKD: Tensor,
    v_HBKD: Tensor,
    r_HKD: Tensor,
    content_bias_W: Tensor,
    position_bias_W: Tensor,
    mask_TK: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """softmax((q_i + u) . k_j + (q_i + v) . r_(i-j)) / sqrt(D)) applied to the values: (B, T, W).

    Args:
        r_HKD: (H, K + 1, D), the projected vectors of the distances K-1, ..., 0 and of one more, of which no score is
            used.
        content_bias_W, position_bias_W: the paper's u and v, of all heads.
        mask_TK: 0 or -inf, added to the scores.
        dropout: share of the probabilities that are dropped.
    """
    B, T, H, D = q_BTHD.shape
    K = mask_TK.shape[1]
    q_HBTD = q_BTHD.permute(2, 0, 1, 3)
    scale = D**-0.5
    content_q = torch.add(content_bias_W.view(H, 1, 1, D) * scale, q_HBTD, alpha=scale).reshape(H * B, T, D)
    position_q = torch.add(position_bias_W.view(H, 1, 1, D) * scale, q_HBTD, alpha=scale).reshape(H, B * T, D)
    # Query i wants column T-1-i+j of its row for key j. Rows are K+1 long, so that this is element
    # i (K+1) + T-1-i+j = i K + j + T-1 of the flat scores: from T-1 on they are the shifted ones, no copy made.
    # Where j is in the future of i, what stands there is masked.
    scores = torch.bmm(position_q, r_HKD.transpose(1, 2)).view(H * B, T * (K + 1))
    shifted = scores.narrow(1, T - 1, T * K).view(H * B, T, K) + mask_TK.to(scores.dtype)
    scores = torch.baddbmm(shifted, content_q, k_HBKD.reshape(H * B, K, D).transpose(1, 2))
    p_HBTK = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    found = torch.bmm(p_HBTK, v_HBKD.reshape(H * B, K, D))
    return found.view(H, B, T, D).permute(1, 2, 0, 3).reshape(B, T, H * D)


class RelativeAttention(nn.Module):
    """Attention of a segment over its memory and itself, residual connection and normalisation included.

    The weight of queries, keys and values is held by the module itself, which uses parts of it.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        assert config.d_head is not None
        self.num_heads, self.head_width = config.n_head, config.d_head
        width = config.attention_width
        self.pre_norm, self.dropout, self.dropatt = config.pre_lnorm, config.dropout, config.dropatt
        self.qkv_weight = nn.Parameter(torch.empty(3 * width, config.d_model))
        self.r_net = nn.Linear(config.d_model, width, bias=False)
        self.o_net = nn.Linear(width, config.d_model, bias=False)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(
        self,
        hidden_BTC: Tensor,
        memory_BMC: Tensor | None,
        positions: Tensor,
        r_w_bias: Tensor,
        r_r_bias: Tensor,
        mask_TK: Tensor,
    ) -> Tensor:
        """(B, T, C); positions: (K + 1, C) of `position_vectors`; memory: without gradient, None for an empty one."""
        B, T, _ = hidden_BTC.shape
        H, D = self.num_heads, self.head_width
        normed = self.layer_norm(hidden_BTC) if self.pre_norm else hidden_BTC
        qkv = F.linear(normed, self.qkv_weight).view(B, T, 3, H, D)
        q_BTHD, *keys_and_values = qkv.unbind(2)
        k_HBKD, v_HBKD = (part.permute(2, 0, 1, 3) for part in keys_and_values)
        if memory_BMC is not None:
            # Apart from the segment's: the memory asks for no queries, and for no gradient of its own.
            past = self.layer_norm(memory_BMC) if self.pre_norm else memory_BMC
            kv_memory = F.linear(past, self.qkv_weight[H * D :]).view(B, -1, 2, H, D)
            past_k, past_v = (part.permute(2, 0, 1, 3) for part in kv_memory.unbind(2))
            k_HBKD, v_HBKD = torch.cat([past_k, k_HBKD], dim=2), torch.cat([past_v, v_HBKD], dim=2)
        r_HKD = self.r_net(positions).view(-1, H, D).transpose(0, 1)
        dropatt = self.dropatt if self.training else 0.0
        found = relative_attention(q_BTHD, k_HBKD, v_HBKD, r_HKD, r_w_bias, r_r_bias, mask_TK, dropatt)
        total = hidden_BTC + F.dropout(self.o_net(found), self.dropout, self.training)
        return total if self.pre_norm else self.layer_norm(total)
