"""The four resamplers between resolution levels. Activations are as in :mod:`vae.layers`.

A downsampler opens the buffer that it will convolve, so that the block before it writes there.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from vae.layers import CausalConv3d, Conv, convolution
from vae.norms import GroupNorm, NormFactory
from vae.stream import Stream, as_frames, empty, in_layout


class SpatialDownsample(nn.Module):
    """Halves height and width: (B, C, T, H, W) → (B, C, T, floor(H/2), floor(W/2)).

    Each frame gets one zero column right and one zero row below, then a 3x3 convolution, stride 2.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def open(self, shape: tuple[int, ...], like: Tensor, _stream: Stream) -> tuple[Tensor, Tensor]:
        """The padded buffer for frames of ``shape``, and its part to be filled."""
        *outer, height, width = shape
        buffer = empty((*outer, height + 1, width + 1), like)
        buffer[..., height:, :].zero_()
        buffer[..., :height, width:].zero_()
        return buffer, buffer[..., :height, :width]

    def forward(self, buffer: Tensor, _stream: Stream) -> Tensor:
        """The downsampled frames of an opened and filled buffer."""
        return _per_frame(self.conv, buffer)


class SpaceTimeDownsample(nn.Module):
    """Halves time, height and width by a causal 3x3x3 convolution of stride 2, rounding up."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv(channels, channels, stride=2)

    def open(self, shape: tuple[int, ...], like: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """As :meth:`CausalConv3d.open`."""
        return self.conv.conv.open(shape, like, stream)

    def forward(self, buffer: Tensor, stream: Stream) -> Tensor:
        """(B, C, T, H, W) → (B, C, ceil(T/2), ceil(H/2), ceil(W/2)), over all slices together."""
        out: Tensor = self.conv.conv(buffer, stream)
        return out


class SpatialUpsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3x3 convolution of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, _stream: Stream) -> Tensor:
        """(B, C, T, H, W) → (B, C, T, 2H, 2W)."""
        b, c, t, h, w = x.shape
        larger = empty((b, c, t, 2 * h, 2 * w), x)
        _repeat_into(x, larger, time=1)
        return _per_frame(self.conv, larger)


class SpaceTimeUpsample(nn.Module):
    """Doubles time, height and width: (B, C, T, H, W) → (B, C, 2T, 2H, 2W).

    x is repeated twice along each axis (the first frame too), then
    y = silu(norm2(conv2(silu(norm1(conv1(x))))) + x) + x.
    """

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.conv3d = _ConvPair(channels, norm)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """The upsampled activations."""
        out: Tensor = self.conv3d(x, stream)
        return out


class _ConvPair(nn.Module):
    """The two convolutions, each with its norm behind it."""

    def __init__(self, channels: int, norm: NormFactory):
        super().__init__()
        self.conv1 = Conv(channels, channels)
        self.norm1: GroupNorm = norm(channels)
        self.conv2 = Conv(channels, channels)
        self.norm2: GroupNorm = norm(channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        b, c, t, h, w = x.shape
        first: CausalConv3d = self.conv1.conv
        buffer, repeated = first.open((b, c, 2 * t, 2 * h, 2 * w), x, stream)
        _repeat_into(x, repeated, time=2)
        h1 = first(buffer, stream)
        inner = self.conv2.conv.activated(self.norm1, h1, stream)
        del h1
        out: Tensor = self.conv2.conv(inner, stream)
        del inner
        self.norm2.write(out, out)
        return F.silu(out.add_(repeated), inplace=True).add_(repeated)


def _repeat_into(x: Tensor, out: Tensor, time: int) -> None:
    """Write every pixel of x 2x2 times, and every frame ``time`` times."""
    b, c, t, h, w = x.shape
    blocks = out.view(b, c, t, time, h, 2, w, 2)
    blocks.copy_(x[:, :, :, None, :, None, :, None])


def _per_frame(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 2-D convolution to every frame of (B, C, T, H, W)."""
    bias, step, side = cast(Tensor, conv.bias), conv.stride[0], int(conv.padding[0])
    frames = convolution(as_frames(x), conv.weight, bias, step, side)
    return in_layout(frames.view(x.shape[0], x.shape[2], *frames.shape[1:]).transpose(1, 2))
