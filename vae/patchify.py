"""Parameter-free rearrangements around the latent: space-to-channel, group average, and inverses.

Shapes are (B, C, T, H, W); the factor is 2 on each of the three axes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

R = 2
"""Factor of the rearrangement per axis."""


def space_to_channel(x: Tensor) -> Tensor:
    """(B, C, T, H, W) with odd T and even H, W → (B, 8C, (T+1)/2, H/2, W/2).

    One zero frame is put in front, then each 2x2x2 block moves into the channel axis: channel
    ``c*8 + it*4 + ih*2 + iw`` holds offset (it, ih, iw) of input channel c. The frame in front
    keeps the pairing causal: output frame j holds the input frames 2j-1 and 2j.
    """
    x = F.pad(x, (0, 0, 0, 0, R - 1, 0))
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // R, R, h // R, R, w // R, R)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * R**3, t // R, h // R, w // R)


def channel_to_space(x: Tensor) -> Tensor:
    """(B, 8C, T, H, W) → (B, C, 2T-1, 2H, 2W): the inverse of :func:`space_to_channel`."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c // R**3, R, R, R, t, h, w)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // R**3, t * R, h * R, w * R)
    return x[:, :, R - 1 :]


def group_average(x: Tensor, channels: int) -> Tensor:
    """(B, C, ...) → (B, channels, ...): means of runs of C/channels consecutive channels."""
    b, c, *rest = x.shape
    return x.reshape(b, channels, c // channels, *rest).mean(dim=2)


def group_repeat(x: Tensor, channels: int) -> Tensor:
    """(B, C, ...) → (B, channels, ...): each channel repeated channels/C times in a row."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)
