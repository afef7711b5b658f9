"""The Step-Video-T2V video autoencoder (versions 1 and 2) in plain PyTorch.

Names are imported when they are first asked for: what needs no torch does not load it.
"""

from typing import TYPE_CHECKING

from vae.lazy import lazy

if TYPE_CHECKING:
    from vae.autoencoder import AutoencoderKL
    from vae.checkpoint import checkpoint_encoder_sha256, encoder_sha256
    from vae.compression import COMPRESSIONS, WINDOW_FRAMES, Compression
    from vae.config import VAEConfig
    from vae.cost import Cost
    from vae.detect import detect_config
    from vae.flops import encoding_flops
    from vae.frames import decoded_frames, fit_frames, latent_frames
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
    "encoding_flops",
    "fit_frames",
    "latent_frames",
    "load_encoder",
    "open_safetensors",
    "seeded_state_dict",
    "state_dict_shapes",
]

_HOMES = {
    "AutoencoderKL": "vae.autoencoder",
    "checkpoint_encoder_sha256": "vae.checkpoint",
    "encoder_sha256": "vae.checkpoint",
    "COMPRESSIONS": "vae.compression",
    "Compression": "vae.compression",
    "WINDOW_FRAMES": "vae.compression",
    "VAEConfig": "vae.config",
    "Cost": "vae.cost",
    "detect_config": "vae.detect",
    "encoding_flops": "vae.flops",
    "decoded_frames": "vae.frames",
    "fit_frames": "vae.frames",
    "latent_frames": "vae.frames",
    "check_shapes": "vae.loading",
    "load_encoder": "vae.loading",
    "MemoryPlan": "vae.memory",
    "encoding_cost": "vae.memory",
    "DiagonalGaussian": "vae.posterior",
    "seeded_state_dict": "vae.random_weights",
    "state_dict_shapes": "vae.random_weights",
    "CheckpointError": "vae.safetensors_file",
    "SafetensorsFile": "vae.safetensors_file",
    "open_safetensors": "vae.safetensors_file",
}


if not TYPE_CHECKING:  # what is misspelt is to be an error of the type checker
    __getattr__ = lazy(__name__, _HOMES)
