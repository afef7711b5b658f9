"""The encoder of a file, and whether a file fits, without building more than is asked for."""

from __future__ import annotations

import torch

from vae import checkpoint
from vae.autoencoder import AutoencoderKL
from vae.checkpoint import EncoderDigest, Parts
from vae.config import VAEConfig
from vae.safetensors_file import Readable, Shapes


def load_encoder(
    source: Readable,
    config: VAEConfig | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[AutoencoderKL, str]:
    """The encoder of a file, and its :func:`vae.encoder_sha256` as stored, in one reading.

    Of the file the header and ``encoder.*`` are read, by range, and nothing else is allocated: 22 %
    of the published model. Arguments are those of :meth:`AutoencoderKL.from_file`.

    Raises:
        CheckpointError: the file cannot be read or its encoder does not fit exactly.
    """
    digest = EncoderDigest()
    model = AutoencoderKL.from_file(
        source, config, device=device, dtype=dtype, parts="encoder", digest=digest
    )
    return model, digest.hexdigest()


def check_shapes(
    shapes: Shapes, config: VAEConfig, parts: Parts = "all", source: str = "The checkpoint"
) -> None:
    """Whether weights of these names and shapes fit a model, which nothing is allocated for.

    Raises:
        CheckpointError: they do not; the message says why, and what to do.
    """
    model = AutoencoderKL.from_config(config, device="meta", parts=parts)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    checkpoint.match(shapes, config, expected, source, parts)
