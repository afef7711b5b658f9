"""The Step-Video-T2V video autoencoder (versions 1 and 2) in plain PyTorch."""

from vae.autoencoder import AutoencoderKL, check_checkpoint
from vae.checkpoint import CheckpointError, checkpoint_encoder_sha256, encoder_sha256
from vae.config import VAEConfig
from vae.frames import (
    COMPRESSIONS,
    WINDOW_FRAMES,
    Compression,
    decoded_frames,
    fit_frames,
    latent_frames,
)
from vae.posterior import DiagonalGaussian
from vae.random_weights import seeded_state_dict, state_dict_shapes

__all__ = [
    "COMPRESSIONS",
    "WINDOW_FRAMES",
    "AutoencoderKL",
    "CheckpointError",
    "Compression",
    "DiagonalGaussian",
    "VAEConfig",
    "check_checkpoint",
    "checkpoint_encoder_sha256",
    "decoded_frames",
    "encoder_sha256",
    "fit_frames",
    "latent_frames",
    "seeded_state_dict",
    "state_dict_shapes",
]
