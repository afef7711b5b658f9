"""The decoder: the latents of one window to its frames."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vae.attention import MidBlock
from vae.compression import WINDOW_FRAMES
from vae.config import VAEConfig
from vae.layers import CausalConv3d, Conv, ResBlock
from vae.norms import NormFactory, norm_factory
from vae.patchify import R, channel_to_space, group_repeat
from vae.resample import SpaceTimeUpsample, SpatialUpsample
from vae.stream import LAYOUT, Stream, in_layout

SURPLUS_FRAMES = 3
"""Frames in front that doubling time twice gives beyond those of the window."""

Upsample = SpaceTimeUpsample | SpatialUpsample


class Decoder(nn.Module):
    """(B, z, k, h, w) → (B, out_channels, T, H, W), not clamped.

    T is 8(k-1) + 1 for k of 1 to 3 latents in version 2, 4(k-1) + 1 for k of 1 to 5 in version 1.

    The head of version 1 is one convolution. That of version 2 unfolds channels into 2x2x2 blocks,
    with two shortcuts that own no parameters:

        u = conv_in(z) + P(z),    h = D(conv_unpatchify(u)) + D(P(u))

    where D is :func:`~vae.patchify.channel_to_space` and P :func:`~vae.patchify.group_repeat`.
    The levels run from the coarsest to the finest, in version 2 in slices of time.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        norm = norm_factory(config)
        widths = config.decoder_widths
        self.causal = config.version == 2
        self.patch_channels = config.patch_channels
        if config.version == 2:
            self.conv_in = Conv(config.z_channels, self.patch_channels)
            self.conv_unpatchify = _Unpatchify(self.patch_channels, widths[-1])
        else:
            self.conv_in = Conv(config.z_channels, widths[-1])
        self.mid = MidBlock(widths[-1], norm)
        coarser = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            _UpLevel(level, in_channels, out_channels, config, norm)
            for level, (in_channels, out_channels) in enumerate(zip(coarser, widths, strict=True))
        )
        self.norm_out = norm(widths[0])
        self.conv_out = CausalConv3d(widths[0], config.out_channels)

    @torch.no_grad()
    def forward(self, z: Tensor, slice_frames: int | None = None) -> Tensor:
        """The frames of one window (or of a batch of windows).

        ``slice_frames``: frames that each level takes at a time; None: all. Fewer need less
        memory. Of no effect in version 1, whose norms need the whole window.
        """
        stream = Stream()
        h = self.conv_in.conv.convolve(z, stream)
        if self.causal:
            u = h.add_(group_repeat(z, self.patch_channels))
            folded = self.conv_unpatchify.conv.conv.convolve(u, stream)
            folded.add_(group_repeat(u, folded.shape[1]))
            h = channel_to_space(folded).contiguous(memory_format=LAYOUT)
            del u, folded
        h = self.mid(h, stream)
        frames: list[Tensor] = []
        size = slice_frames if self.causal and slice_frames else 4 * h.shape[2]
        self._rise(len(self.up) - 1, h, size, Stream(), True, frames)
        return torch.cat(frames, dim=2)[:, :, SURPLUS_FRAMES:]

    def _rise(
        self, level: int, h: Tensor, size: int, stream: Stream, last: bool, frames: list[Tensor]
    ) -> None:
        """A slice through this level and all finer ones, in smaller slices where it grew."""
        pieces = torch.split(h, size, dim=2)
        for index, piece in enumerate(pieces):
            stream.last = final = last and index == len(pieces) - 1
            up = cast(_UpLevel, self.up[level])
            y = in_layout(piece)
            for block in up.block:
                y = block(y, stream)
            if level == 0:
                buffer = self.conv_out.activated(self.norm_out, y, stream)
                frames.append(self.conv_out(buffer, stream))
            else:
                self._rise(level - 1, up.upsample(y, stream), size, stream, final, frames)


class _Unpatchify(nn.Module):
    """The convolution to eight times the channels that are wanted after unfolding."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv(in_channels, out_channels * R**3)


class _UpLevel(nn.Module):
    """The residual blocks of one resolution, and the resampling to the next but at the last."""

    def __init__(
        self,
        level: int,
        in_channels: int,
        out_channels: int,
        config: VAEConfig,
        norm: NormFactory,
    ):
        super().__init__()
        self.block = nn.ModuleList(
            ResBlock(in_channels if index == 0 else out_channels, out_channels, norm)
            for index in range(config.num_res_blocks + 1)
        )
        if level in config.decoder_spatiotemporal_up_levels:
            self.upsample: Upsample = SpaceTimeUpsample(out_channels, norm)
        elif level > 0:
            self.upsample = SpatialUpsample(out_channels)


def blend_borders(video: Tensor) -> Tensor:
    """Soften the borders of decoded windows in place: (B, T, C, H, W) → the same tensor.

    With a the last frame of a window and b the first of the next, in this order:
    b ← 0.6 b + 0.4 a, then a ← 0.6 a + 0.4 b. The second step uses the new b, so the result is
    not symmetric: a keeps 0.76 of itself, b 0.6.
    """
    for first in range(WINDOW_FRAMES, video.shape[1], WINDOW_FRAMES):
        a, b = video[:, first - 1], video[:, first]
        b.mul_(0.6).add_(a, alpha=0.4)
        a.mul_(0.6).add_(b, alpha=0.4)
    return video
