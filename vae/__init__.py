"""The Step-Video-T2V video autoencoder (version 2) in plain PyTorch."""

from vae.autoencoder import AutoencoderKL, check_checkpoint
from vae.checkpoint import CheckpointError, checkpoint_encoder_sha256, encoder_sha256
from vae.config import VAEConfig
from vae.frames import (
    SPATIAL_FACTOR,
    TEMPORAL_FACTOR,
    WINDOW_FRAMES,
    WINDOW_LATENTS,
    decoded_frames,
    fit_frames,
    latent_frames,
)
from vae.posterior import DiagonalGaussian
from vae.random_weights import seeded_state_dict, state_dict_shapes

__all__ = [
    "SPATIAL_FACTOR",
    "TEMPORAL_FACTOR",
    "WINDOW_FRAMES",
    "WINDOW_LATENTS",
    "AutoencoderKL",
    "CheckpointError",
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
