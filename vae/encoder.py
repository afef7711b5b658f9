"""The encoder: one window of frames to the moments of its latent."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from vae.attention import MidBlock
from vae.config import LEVELS, VAEConfig
from vae.layers import CausalConv3d, Conv, ResBlock
from vae.norms import NormFactory, norm_factory
from vae.patchify import R, group_average, space_to_channel
from vae.resample import SpaceTimeDownsample, SpatialDownsample
from vae.stream import Stream, time_slices

Downsample = SpaceTimeDownsample | SpatialDownsample


class Encoder(nn.Module):
    """(B, in_channels, T, H, W) → moments (B, 2z, t, h, w), the mean first, then the logvar.

    T is 1 or up to 17. Four levels of residual blocks bring the window to T/4, H/8, W/8.

    The tail of version 1 is one convolution. That of version 2 folds 2x2x2 blocks into channels,
    with two shortcuts that own no parameters, h being the normed body:

        u = S(conv_patchify(h)) + A(S(h)),    moments = conv_out(u) + A(u)

    where S is :func:`~vae.patchify.space_to_channel` and A :func:`~vae.patchify.group_average`.
    Version 2 is strictly causal: latent j depends on the frames up to 8j alone. So its levels but
    the last, where nearly all of the memory is, take the frames in slices of time.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        norm = norm_factory(config)
        widths = config.encoder_widths
        self.causal = config.version == 2
        self.z_channels = config.z_channels
        self.conv_in = Conv(config.in_channels, config.encoder_ch)
        self.down = nn.ModuleList(
            _DownLevel(level, in_channels, out_channels, config, norm)
            for level, (in_channels, out_channels) in enumerate(
                pairwise((config.encoder_ch, *widths))
            )
        )
        self.mid = MidBlock(widths[-1], norm)
        self.norm_out = norm(widths[-1])
        if config.version == 2:
            self.conv_patchify = _Patchify(widths[-1], config.patch_channels)
        last = config.patch_channels if config.version == 2 else widths[-1]
        self.conv_out = Conv(last, 2 * config.z_channels)

    @torch.no_grad()
    def forward(
        self, x: Tensor, slice_frames: int | None = None, mean_only: bool = False
    ) -> Tensor:
        """The moments of one window (or of a batch of windows).

        Args:
            x: the frames.
            slice_frames: frames that the first levels take at a time after the first frame, which
                comes alone; None: all. Fewer need less memory. Of no effect in version 1, whose
                norms need the whole window.
            mean_only: return the mean alone, (B, z, t, h, w), and skip half of the last
                convolution.
        """
        h = self._upper_levels(x, slice_frames)
        stream = Stream()
        levels = cast(list[_DownLevel], self.down)
        for block in levels[-1].block:
            h = block(h, stream)
        h = self.mid(h, stream)
        channels = self.z_channels * (1 if mean_only else 2)
        return (self._folded_tail if self.causal else self._plain_tail)(h, channels)

    def _plain_tail(self, h: Tensor, channels: int) -> Tensor:
        stream = Stream()
        buffer = self.conv_out.conv.activated(self.norm_out, h, stream)
        moments: Tensor = self.conv_out.conv(buffer, stream, channels=channels)
        return moments

    def _folded_tail(self, h: Tensor, channels: int) -> Tensor:
        stream = Stream()
        patchify: CausalConv3d = self.conv_patchify.conv.conv
        buffer, normed = patchify.open(tuple(h.shape), h, stream)
        self.norm_out.write(h, normed, silu=True)
        main = space_to_channel(patchify(buffer, stream))
        skip = group_average(space_to_channel(normed), main.shape[1])
        buffer, u = self.conv_out.conv.open(tuple(main.shape), h, stream)
        torch.add(main, skip, out=u)
        moments: Tensor = self.conv_out.conv(buffer, stream, channels=channels)
        share = u.shape[1] * channels // (2 * self.z_channels)
        return moments.add_(group_average(u[:, :share], channels))

    def _upper_levels(self, x: Tensor, slice_frames: int | None) -> Tensor:
        """All levels but the last, slice by slice, joined again."""
        stream = Stream()
        if not self.causal:
            return self._slice(x, stream)
        made = []
        for place in time_slices(x.shape[2], slice_frames):
            stream.last = place.stop == x.shape[2]
            h = self._slice(x[:, :, place], stream)
            if h.shape[2]:
                made.append(h)
        return made[0] if len(made) == 1 else torch.cat(made, dim=2)

    def _slice(self, x: Tensor, stream: Stream) -> Tensor:
        """The next frames through all levels but the last; of a short slice may come none.

        One frame of Python holds the activation, so that nothing keeps an earlier one alive.
        """
        h: Tensor = self.conv_in.conv.convolve(x, stream)
        for level in cast(list[_DownLevel], self.down[:-1]):
            *blocks, final = level.block
            for block in blocks:
                h = block(h, stream)
            h = level.downsample(final(h, stream, into=level.downsample), stream)
            if h.shape[2] == 0:
                break
        return h


class _DownLevel(nn.Module):
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
            for index in range(config.num_res_blocks)
        )
        if level in config.encoder_spatiotemporal_down_levels:
            self.downsample: Downsample = SpaceTimeDownsample(out_channels)
        elif level < LEVELS - 1:
            self.downsample = SpatialDownsample(out_channels)


class _Patchify(nn.Module):
    """The convolution to an eighth of the channels that are wanted after folding."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv(in_channels, out_channels // R**3)
