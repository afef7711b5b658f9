"""The Step-Video-T2V video autoencoder (versions 1 and 2) in plain PyTorch."""

from vae.autoencoder import AutoencoderKL
from vae.checkpoint import checkpoint_encoder_sha256, encoder_sha256
from vae.config import VAEConfig
from vae.cost import Cost
from vae.detect import detect_config
from vae.frames import (
    COMPRESSIONS,
    WINDOW_FRAMES,
    Compression,
    decoded_frames,
    fit_frames,
    latent_frames,
)
from vae.loading import check_shapes, load_encoder
from vae.memory import MemoryPlan, encoding_cost
from vae.posterior import DiagonalGaussian
from vae.random_weights import seeded_state_dict, state_dict_shapes
from vae.safetensors_file import CheckpointError, SafetensorsFile, open_safetensors

__all__ = [
    "COMPRESSIONS",
    "WINDOW_FRAMES",
    "AutoencoderKL",
    "CheckpointError",
    "Compression",
    "Cost",
    "DiagonalGaussian",
    "MemoryPlan",
    "SafetensorsFile",
    "VAEConfig",
    "check_shapes",
    "checkpoint_encoder_sha256",
    "decoded_frames",
    "detect_config",
    "encoder_sha256",
    "encoding_cost",
    "fit_frames",
    "latent_frames",
    "load_encoder",
    "open_safetensors",
    "seeded_state_dict",
    "state_dict_shapes",
]
