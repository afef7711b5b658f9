"""Building blocks of the published Step-Video-T2V VAE. Activations are (B, C, T, H, W).

Module and parameter names are those of the published checkpoint, which is why some convolutions
sit one or two levels deep under the name ``conv``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from vae.config import VAEConfig

NormFactory = Callable[[int], nn.Module]
"""Makes the group norm of one model for a number of channels."""


class CausalConv3d(nn.Conv3d):
    """3-D convolution that sees no later frame: (B, Cin, T, H, W) → (B, Cout, T', H', W').

    All padding is zeros: ``kernel - 1`` frames in front and none behind, ``kernel // 2`` pixels on
    every spatial side, also with stride 2. So T' = ceil(T / stride), H' = ceil(H / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1):
        side = kernel // 2
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, padding=(0, side, side), bias=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pad in front and convolve."""
        front = self.kernel_size[0] - 1
        return super().forward(F.pad(x, (0, 0, 0, 0, front, 0)) if front else x)


class Conv(nn.Module):
    """A :class:`CausalConv3d` under the name ``conv``, as most of the checkpoint's are."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution's output."""
        out: Tensor = self.conv(x)
        return out


class FrameGroupNorm(nn.GroupNorm):
    """Group norm whose statistics cover one frame: (C / groups, H, W), biased variance, affine.

    Version 2 norms every frame by itself, which keeps the model causal in time.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """(B, C, T, H, W) → the same shape."""
        b, c, t, h, w = input.shape
        frames = super().forward(input.transpose(1, 2).reshape(b * t, c, h, w))
        return frames.reshape(b, t, c, h, w).transpose(1, 2)


def norm_factory(config: VAEConfig) -> NormFactory:
    """The norm of this version, a choice of each model: two models never share it."""
    return partial(FrameGroupNorm, config.norm_groups, eps=config.norm_eps)


class ResBlock(nn.Module):
    """Residual block: y = s(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))).

    (B, Cin, T, H, W) → (B, Cout, T, H, W); s is the identity, or a 1x1x1 convolution where the
    widths differ.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = Conv(in_channels, out_channels)
        self.norm2 = norm(out_channels)
        self.conv2 = Conv(out_channels, out_channels)
        self.nin_shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else Conv(in_channels, out_channels, kernel=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        out: Tensor = h.add_(self.nin_shortcut(x))
        return out


class AttentionBlock(nn.Module):
    """Self-attention over all positions of a window, one head as wide as the channels.

    y = x + proj_out(softmax(q k^T / sqrt(C) + M) v) with q, k, v from norm(x). Positions are
    ordered frame by frame, row by row, and M lets each see itself and those before it, inside its
    own frame too.
    """

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.norm = norm(channels)
        self.q = Conv(channels, channels, kernel=1)
        self.k = Conv(channels, channels, kernel=1)
        self.v = Conv(channels, channels, kernel=1)
        self.proj_out = Conv(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → the same shape."""
        h = self.norm(x)
        q, k, v = (_tokens(proj(h)) for proj in (self.q, self.k, self.v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = x + self.proj_out(o.squeeze(1).transpose(1, 2).reshape(x.shape))
        return out


def _tokens(x: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B, 1, T*H*W, C), contiguous, which the fused attention kernels need."""
    return x.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest resolution; shape is kept."""

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, norm)
        self.attn_1 = AttentionBlock(channels, norm)
        self.block_2 = ResBlock(channels, channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out
