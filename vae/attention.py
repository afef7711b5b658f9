"""Causal self-attention over all positions of a window, without ever holding all pairs at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)

from vae.layers import Pointwise, ResBlock
from vae.norms import NormFactory
from vae.stream import Stream, as_tokens

QUERY_BLOCK_BYTES = 64 * 2**20
"""Bound of the scores that the blockwise fallback holds at once."""


class AttentionBlock(nn.Module):
    """Self-attention with one head as wide as the channels.

    y = x + proj_out(softmax(q k^T / sqrt(C) + M) v) with q, k, v from norm(x). Positions are
    ordered frame by frame, row by row, and M lets each see itself and those before it, inside its
    own frame too.
    """

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.norm = norm(channels)
        self.q = Pointwise(channels, channels)
        self.k = Pointwise(channels, channels)
        self.v = Pointwise(channels, channels)
        self.proj_out = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W), changed in place."""
        tokens = as_tokens(self.norm(x))
        mixed = causal_attention(self.q(tokens), self.k(tokens), self.v(tokens))
        as_tokens(x).add_(self.proj_out(mixed))
        return x


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest resolution; shape is kept."""

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, norm)
        self.attn_1 = AttentionBlock(channels, norm)
        self.block_2 = ResBlock(channels, channels, norm)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """The block's output for whole windows, which attention needs."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x, stream)), stream)
        return out


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C) + M) v for (B, n, C), where M hides later positions.

    A fused kernel of torch where the device has one for these tensors, else blocks of queries;
    memory grows with n, not with n².
    """
    if has_fused_attention(q, k, v):
        heads = (q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
        return F.scaled_dot_product_attention(*heads, is_causal=True).squeeze(1)
    return blockwise_attention(q, k, v)


def has_fused_attention(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch's attention of (B, n, C) takes a kernel that does not hold all pairs.

    On the CPU it does whenever channels are contiguous, as ours are. CUDA's kernels have limits
    of their own (flash: 256 channels), and without one torch falls back to the n x n matrix.
    """
    if q.device.type in ("cpu", "meta"):
        return True
    if q.device.type != "cuda":
        return False
    heads = (q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1))
    params = SDPAParams(*heads, None, 0.0, True, False)
    return (
        can_use_flash_attention(params)
        or can_use_efficient_attention(params)
        or can_use_cudnn_attention(params)
    )


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`causal_attention` in plain operators, a block of queries at a time.

    Scores and their softmax are float32 whatever the input.
    """
    batch, n, channels = q.shape
    block = max(1, QUERY_BLOCK_BYTES // (4 * batch * n))
    out = torch.empty_like(v)
    for first in range(0, n, block):
        stop = min(first + block, n)
        scores = torch.matmul(q[:, first:stop], k[:, :stop].transpose(1, 2)).float()
        scores.mul_(1 / math.sqrt(channels))
        later = torch.ones(stop - first, stop, dtype=torch.bool, device=q.device)
        scores.masked_fill_(later.triu_(first + 1), -math.inf)
        out[:, first:stop] = torch.matmul(scores.softmax(-1).to(v.dtype), v[:, :stop])
    return out
