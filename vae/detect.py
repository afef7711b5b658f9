"""What a checkpoint holds, told by the names and shapes of its tensors."""

from __future__ import annotations

import math

from vae.config import LEVELS, VAEConfig
from vae.safetensors_file import CheckpointError, Shapes

_LEVEL_WIDTH = "{side}.{level}.block.0.conv1.conv.weight"
_PATCHIFY = ("encoder.conv_patchify.", "decoder.conv_unpatchify.")


def detect_version(shapes: Shapes) -> int | None:
    """2 for weights with patchify layers, 1 without; None for no Step-Video VAE at all."""
    if any(key.startswith(_PATCHIFY) for key in shapes):
        return 2
    return 1 if any(key.startswith(("encoder.", "decoder.")) for key in shapes) else None


def detect_z_channels(shapes: Shapes) -> int | None:
    """Channels of the latent, of which the encoder gives two numbers; None if nothing tells."""
    moments = shapes.get("encoder.conv_out.conv.weight", ())
    if len(moments) == 5 and moments[0] % 2 == 0:
        return moments[0] // 2
    latent = shapes.get("decoder.conv_in.conv.weight", ())
    return latent[1] if len(latent) == 5 else None


def detect_config(
    shapes: Shapes, *, norm_groups: int = 32, source: str = "The checkpoint"
) -> VAEConfig:
    """The architecture whose weights have these names and shapes.

    Version, channels, widths, blocks and the levels that resample time all follow. The groups of
    the norms leave no trace: ``norm_groups`` is taken as given. Without ``decoder.*`` the decoder's
    widths are taken to be the encoder's. Whether the weights are complete is not looked at.

    Raises:
        CheckpointError: the weights are of something else; the message names the first tensor that
            shows it.
    """
    version, z_channels = detect_version(shapes), detect_z_channels(shapes)
    if version is None:
        raise CheckpointError(
            f"{source}: no name begins with 'encoder.' or 'decoder.': this is no Step-Video VAE."
        )
    first = _convolution(shapes, "encoder.conv_in.conv.weight", source)
    encoder = _level_widths(shapes, "encoder.down", source)
    down = _levels(shapes, "encoder.down.{}.downsample.conv.conv.weight")
    up, decoder, out_channels = tuple(level + 1 for level in down), encoder, first[1]
    if any(key.startswith("decoder.") for key in shapes):
        decoder = _level_widths(shapes, "decoder.up", source)
        up = _levels(shapes, "decoder.up.{}.upsample.conv3d.conv1.conv.weight")
        last = "decoder.conv_out.conv.weight"  # one of two spellings
        last = last if last in shapes else "decoder.conv_out.weight"
        out_channels = _convolution(shapes, last, source)[0]
    unit = math.gcd(*decoder)
    if any(width % first[0] for width in encoder):
        raise CheckpointError(
            f"{source}: the encoder's widths {encoder} are no multiples of {first[0]}, the "
            "channels of encoder.conv_in: this is no Step-Video VAE."
        )
    try:
        return VAEConfig(
            version=version,
            in_channels=first[1],
            out_channels=out_channels,
            z_channels=z_channels or 0,
            num_res_blocks=sum(
                key.startswith("encoder.down.0.block.") and key.endswith(".conv1.conv.weight")
                for key in shapes
            ),
            encoder_ch=first[0],
            encoder_ch_mult=tuple(width // first[0] for width in encoder),
            decoder_ch=unit,
            decoder_ch_mult=tuple(width // unit for width in decoder),
            encoder_spatiotemporal_down_levels=down,
            decoder_spatiotemporal_up_levels=up,
            norm_groups=norm_groups,
        )
    except ValueError as error:
        raise CheckpointError(
            f"{source} is not of a Step-Video VAE with {norm_groups} groups in its norms, which "
            f"nothing in the file tells: {error}"
        ) from error


def _convolution(shapes: Shapes, key: str, source: str) -> tuple[int, ...]:
    """Shape of a 3-D convolution's weight: output channels, input channels, and the kernel."""
    shape = shapes.get(key, ())
    if len(shape) != 5 or 0 in shape:
        found = f"has the shape {shape}" if key in shapes else "is missing"
        raise CheckpointError(
            f"{source}: {key} {found}, by which a Step-Video VAE is told; it must have five axes."
        )
    return shape


def _level_widths(shapes: Shapes, side: str, source: str) -> tuple[int, ...]:
    return tuple(
        _convolution(shapes, _LEVEL_WIDTH.format(side=side, level=level), source)[0]
        for level in range(LEVELS)
    )


def _levels(shapes: Shapes, key: str) -> tuple[int, ...]:
    return tuple(level for level in range(LEVELS) if key.format(level) in shapes)
