"""The architecture of one autoencoder as a value: widths, levels, norms, version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vae.compression import COMPRESSIONS, Compression

LEVELS = 4
"""Resolution levels; the three resamplings between them give a factor of 8, and the patchify pair
of version 2 another 2."""

PATCH_WIDTH = 32
"""Channels of the patchified representation per latent channel (2048 for the published 64)."""

PUBLISHED_Z_CHANNELS = {1: 16, 2: 64}
"""Latent channels of the published models, by version."""


@dataclass(frozen=True)
class VAEConfig:
    """Everything that decides the structure (not the weights) of an autoencoder.

    The defaults describe the published full-size version 2 (``vae_v2.safetensors``, 498,818,819
    parameters); ``VAEConfig(version=1)`` is the published version 1 (``vae.safetensors``,
    258,828,195). Other widths keep the version's :attr:`compression`.

    Attributes:
        version: generation of the published VAE. 2 has a patchify pair around its latent and norms
            of single frames; 1 has neither: its norms span all frames of a window.
        in_channels: channels of the video that is encoded.
        out_channels: channels of the video that is decoded.
        z_channels: channels of the latent. 0, the default, becomes those of the published model of
            the version: 64 for 2, 16 for 1.
        num_res_blocks: residual blocks per encoder level; the decoder has one more per level.
        encoder_ch: width of the encoder's first convolution, the unit of ``encoder_ch_mult``.
        encoder_ch_mult: width of each of the four encoder levels in units of ``encoder_ch``.
        decoder_ch: unit of ``decoder_ch_mult``.
        decoder_ch_mult: width of each of the four decoder levels in units of ``decoder_ch``.
        encoder_spatiotemporal_down_levels: the two of the levels 0, 1, 2 whose downsampling
            halves time as well; the third halves height and width only.
        decoder_spatiotemporal_up_levels: the two of the levels 1, 2, 3 whose upsampling doubles
            time as well; the third doubles height and width only.
        norm_groups: groups of every group norm; divides every width.
        norm_eps: added to the variance in every group norm.

    Raises:
        ValueError: a field is outside its range; the message names the field, its value and
            what would be valid.
        TypeError: a field has the wrong type.
    """

    version: int = 2
    in_channels: int = 3
    out_channels: int = 3
    z_channels: int = 0
    num_res_blocks: int = 2
    encoder_ch: int = 32
    encoder_ch_mult: tuple[int, ...] = (4, 8, 16, 16)
    decoder_ch: int = 128
    decoder_ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    encoder_spatiotemporal_down_levels: tuple[int, ...] = (1, 2)
    decoder_spatiotemporal_up_levels: tuple[int, ...] = (2, 3)
    norm_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_positive_int("version", self.version)
        if self.version not in PUBLISHED_Z_CHANNELS:
            raise ValueError(
                f"VAEConfig.version={self.version} does not exist; pass version=2 for "
                "vae_v2.safetensors (64 latent channels) or version=1 for vae.safetensors (16)."
            )
        if self.z_channels == 0:
            object.__setattr__(self, "z_channels", PUBLISHED_Z_CHANNELS[self.version])
        for field in (
            "encoder_ch_mult",
            "decoder_ch_mult",
            "encoder_spatiotemporal_down_levels",
            "decoder_spatiotemporal_up_levels",
        ):
            object.__setattr__(self, field, _int_tuple(field, getattr(self, field)))
        for field in (
            "in_channels",
            "out_channels",
            "z_channels",
            "num_res_blocks",
            "encoder_ch",
            "decoder_ch",
            "norm_groups",
        ):
            _check_positive_int(field, getattr(self, field))
        if not 0.0 < self.norm_eps < 1.0:
            raise ValueError(
                f"VAEConfig.norm_eps={self.norm_eps} must lie between 0 and 1; "
                "the published models use 1e-5."
            )
        self._check_levels("encoder_spatiotemporal_down_levels", range(LEVELS - 1))
        self._check_levels("decoder_spatiotemporal_up_levels", range(1, LEVELS))
        self._check_widths("encoder")
        self._check_widths("decoder")

    @property
    def compression(self) -> Compression:
        """What a latent frame and a latent position stand for; the version decides it."""
        return COMPRESSIONS[self.version]

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Channels of the encoder's levels, the finest resolution first."""
        return tuple(self.encoder_ch * mult for mult in self.encoder_ch_mult)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of the decoder's levels, finest resolution first (run last to first)."""
        return tuple(self.decoder_ch * mult for mult in self.decoder_ch_mult)

    @property
    def patch_channels(self) -> int:
        """Channels between the patchify pair and the latent. Of version 2 alone."""
        return PATCH_WIDTH * self.z_channels

    def _check_levels(self, field: str, allowed: range) -> None:
        levels = getattr(self, field)
        if len(set(levels)) != 2 or len(levels) != 2 or not set(levels) <= set(allowed):
            raise ValueError(
                f"VAEConfig.{field}={levels} must be two different levels out of "
                f"{tuple(allowed)}, so that time is compressed by the version's factor of "
                f"{self.compression.temporal}."
            )

    def _check_widths(self, side: str) -> None:
        ch: int = getattr(self, f"{side}_ch")
        mult: tuple[int, ...] = getattr(self, f"{side}_ch_mult")
        if len(mult) != LEVELS:
            raise ValueError(
                f"VAEConfig.{side}_ch_mult={mult} must have {LEVELS} entries, one per level, "
                "so that height and width are compressed by the version's factor of "
                f"{self.compression.spatial}."
            )
        if min(mult) < 1:
            raise ValueError(f"VAEConfig.{side}_ch_mult={mult} must be positive integers.")
        widths = {f"{side}_ch * {m}": ch * m for m in mult}
        if side == "encoder":
            widths = {"encoder_ch": ch, **widths}
        for name, width in widths.items():
            if width % self.norm_groups:
                raise ValueError(
                    f"VAEConfig.{side}_ch={ch}, {side}_ch_mult={mult}: the width {name} = {width} "
                    f"must be a multiple of norm_groups={self.norm_groups}; choose {side}_ch as a "
                    "multiple of norm_groups, or a smaller norm_groups."
                )
        top = ch * mult[-1]
        if self.version == 2 and top % (PATCH_WIDTH // 8 * self.z_channels):
            raise ValueError(
                f"VAEConfig.{side}_ch={ch}, {side}_ch_mult={mult}: the last width {top} must be "
                f"divisible by 4 * z_channels = {4 * self.z_channels}; choose z_channels as a "
                f"divisor of {top // 4}, or a larger {side}_ch."
            )


def _int_tuple(field: str, value: object) -> tuple[int, ...]:
    """``value`` as a tuple of integers, for fields that JSON or YAML deliver as lists."""
    if not isinstance(value, Sequence) or not all(type(item) is int for item in value):
        raise TypeError(f"VAEConfig.{field}={value!r} must be a sequence of integers.")
    return tuple(value)


def _check_positive_int(field: str, value: object) -> None:
    if type(value) is not int:
        raise TypeError(f"VAEConfig.{field}={value!r} must be an integer.")
    if value < 1:
        raise ValueError(f"VAEConfig.{field}={value} must be at least 1.")
