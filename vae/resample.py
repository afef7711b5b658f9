"""The four resamplers between resolution levels. Activations are (B, C, T, H, W)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vae.layers import Conv, NormFactory


class SpatialDownsample(nn.Module):
    """Halves height and width: (B, C, T, H, W) → (B, C, T, floor(H/2), floor(W/2)).

    Each frame gets one zero column right and one zero row below, then a 3x3 convolution, stride 2.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """The downsampled frames."""
        return _per_frame(self.conv, F.pad(x, (0, 1, 0, 1)))


class SpaceTimeDownsample(nn.Module):
    """Halves time, height and width by a causal 3x3x3 convolution of stride 2, rounding up."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C, ceil(T/2), ceil(H/2), ceil(W/2))."""
        out: Tensor = self.conv(x)
        return out


class SpatialUpsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3x3 convolution of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, C, T, 2H, 2W)."""
        return _per_frame(self.conv, _nearest(x, time=1))


class SpaceTimeUpsample(nn.Module):
    """Doubles time, height and width: (B, C, T, H, W) → (B, C, 2T, 2H, 2W).

    x is repeated twice along each axis (the first frame too), then
    y = silu(norm2(conv2(silu(norm1(conv1(x))))) + x) + x.
    """

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.conv3d = _ConvPair(channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """The upsampled activations."""
        x = _nearest(x, time=2)
        out = F.silu(self.conv3d(x).add_(x), inplace=True).add_(x)
        return out


class _ConvPair(nn.Module):
    """norm2(conv2(silu(norm1(conv1(x))))): here each norm follows its convolution."""

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.conv1 = Conv(channels, channels)
        self.norm1 = norm(channels)
        self.conv2 = Conv(channels, channels)
        self.norm2 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)), inplace=True)))
        return out


def _nearest(x: Tensor, time: int) -> Tensor:
    """Repeat every pixel 2x2 times, and every frame ``time`` times."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t, 1, h, 1, w, 1).expand(b, c, t, time, h, 2, w, 2)
    return x.reshape(b, c, t * time, h * 2, w * 2)


def _per_frame(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 2-D convolution to every frame of (B, C, T, H, W)."""
    b, c, t, h, w = x.shape
    frames: Tensor = conv(x.transpose(1, 2).reshape(b * t, c, h, w))
    return frames.reshape(b, t, *frames.shape[1:]).transpose(1, 2)
