"""The encoder: one window of frames to the moments of its latent."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vae.config import LEVELS, VAEConfig
from vae.layers import Conv, MidBlock, NormFactory, ResBlock, norm_factory
from vae.patchify import R, group_average, space_to_channel
from vae.resample import SpaceTimeDownsample, SpatialDownsample


class Encoder(nn.Module):
    """(B, in_channels, T, H, W) → moments (B, 2z, t, H/16, W/16), the mean first, then the logvar.

    T is 17 (t = 3), 9 (t = 2) or 1 (t = 1). Strictly causal: latent j depends on the frames up to
    8j alone.

    Four levels of residual blocks bring the window to T/4, H/8, W/8. The tail then folds 2x2x2
    blocks into channels, with two shortcuts that own no parameters, h being the normed body:

        u = S(conv_patchify(h)) + A(S(h)),    moments = conv_out(u) + A(u)

    where S is :func:`~vae.patchify.space_to_channel` and A :func:`~vae.patchify.group_average`.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        norm = norm_factory(config)
        widths = config.encoder_widths
        self.patch_channels = config.patch_channels
        self.moment_channels = 2 * config.z_channels
        self.conv_in = Conv(config.in_channels, config.encoder_ch)
        self.down = nn.ModuleList(
            _DownLevel(level, in_channels, out_channels, config, norm)
            for level, (in_channels, out_channels) in enumerate(
                pairwise((config.encoder_ch, *widths))
            )
        )
        self.mid = MidBlock(widths[-1], norm)
        self.norm_out = norm(widths[-1])
        self.conv_patchify = _Patchify(widths[-1], self.patch_channels)
        self.conv_out = Conv(self.patch_channels, self.moment_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The moments of one window (or of a batch of windows)."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        h = F.silu(self.norm_out(self.mid(h)), inplace=True)
        u = self.conv_patchify(h).add_(group_average(space_to_channel(h), self.patch_channels))
        moments: Tensor = self.conv_out(u) + group_average(u, self.moment_channels)
        return moments


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
            self.downsample: nn.Module = SpaceTimeDownsample(out_channels)
        elif level < LEVELS - 1:
            self.downsample = SpatialDownsample(out_channels)
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        out: Tensor = self.downsample(x)
        return out


class _Patchify(nn.Module):
    """S(conv(h)): a causal convolution to an eighth of the channels, folded into channels."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = Conv(in_channels, out_channels // R**3)

    def forward(self, x: Tensor) -> Tensor:
        return space_to_channel(self.conv(x))
