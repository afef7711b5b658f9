"""The decoder: the latents of one window to its frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vae.config import VAEConfig
from vae.layers import CausalConv3d, Conv, MidBlock, NormFactory, ResBlock, norm_factory
from vae.patchify import R, channel_to_space, group_repeat
from vae.resample import SpaceTimeUpsample, SpatialUpsample

SURPLUS_FRAMES = 3
"""Frames in front that doubling 2k-1 frames twice gives beyond 8(k-1) + 1."""


class Decoder(nn.Module):
    """(B, z, k, h, w) → (B, out_channels, 8(k-1) + 1, 16h, 16w) for k of 1, 2 or 3 latents.

    The head unfolds channels into 2x2x2 blocks, with two shortcuts that own no parameters:

        u = conv_in(z) + P(z),    h = D(conv_unpatchify(u)) + D(P(u))

    where D is :func:`~vae.patchify.channel_to_space` and P :func:`~vae.patchify.group_repeat`.
    The levels run from the coarsest to the finest. The output is not clamped.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        norm = norm_factory(config)
        widths = config.decoder_widths
        self.patch_channels = config.patch_channels
        self.conv_in = Conv(config.z_channels, self.patch_channels)
        self.conv_unpatchify = _Unpatchify(self.patch_channels, widths[-1])
        self.mid = MidBlock(widths[-1], norm)
        coarser = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            _UpLevel(level, in_channels, out_channels, config, norm)
            for level, (in_channels, out_channels) in enumerate(zip(coarser, widths, strict=True))
        )
        self.norm_out = norm(widths[0])
        self.conv_out = CausalConv3d(widths[0], config.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """The frames of one window (or of a batch of windows)."""
        h = self.conv_unpatchify(self.conv_in(z) + group_repeat(z, self.patch_channels))
        h = self.mid(h)
        for level in reversed(self.up):
            h = level(h)
        frames: Tensor = self.conv_out(F.silu(self.norm_out(h), inplace=True))
        return frames[:, :, SURPLUS_FRAMES:]


class _Unpatchify(nn.Module):
    """D(conv(u)) + D(P(u)): channels unfolded into twice the frames, height and width."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.folded_channels = out_channels * R**3
        self.conv = Conv(in_channels, self.folded_channels)

    def forward(self, u: Tensor) -> Tensor:
        return channel_to_space(self.conv(u).add_(group_repeat(u, self.folded_channels)))


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
            self.upsample: nn.Module = SpaceTimeUpsample(out_channels, norm)
        elif level > 0:
            self.upsample = SpatialUpsample(out_channels)
        else:
            self.upsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        out: Tensor = self.upsample(x)
        return out
