"""The VAE that a configuration asks for, and the contract that follows from it."""

import tempfile
from pathlib import Path

import torch

from pipeline.config import Config, StorageConfig, VAESection
from pipeline.contract import FORMAT_VERSION, Contract
from pipeline.errors import UserError
from pipeline.reading import fetch_file
from pipeline.windows import WINDOW_FRAMES
from vae import (
    AutoencoderKL,
    CheckpointError,
    VAEConfig,
    check_checkpoint,
    checkpoint_encoder_sha256,
    encoder_sha256,
    latent_frames,
    seeded_state_dict,
)

LAYOUT = "t,C,h,w"
"""Axes of one stored sample: latent frames, channels, rows, columns."""

DOWNLOADS = Path(tempfile.gettempdir()) / "t2v-latents-checkpoints"
"""Where checkpoints of object storage are kept on a node, by their version."""


def vae_config(section: VAESection) -> VAEConfig:
    """The model's widths. Raises ``UserError`` when they do not make a model."""
    try:
        return VAEConfig(
            version=section.version, z_channels=section.z_channels, **section.widths.model_dump()
        )
    except ValueError as error:
        raise UserError(f"vae: {error}") from error


def random_weights(section: VAESection) -> dict[str, torch.Tensor]:
    """The weights that follow from ``vae.random_seed``, under the published names."""
    if section.random_seed is None:
        raise ValueError("the configuration names a checkpoint, not a seed")
    return seeded_state_dict(vae_config(section), section.random_seed)


def load_vae(section: VAESection, storage: StorageConfig) -> AutoencoderKL:
    """The VAE on its device, in the compute dtype, ready to encode. Raises ``UserError``."""
    device = section.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "vae.device is cuda, but torch finds no CUDA device here; set vae.device: auto"
        )
    dtype = getattr(torch, section.compute_dtype)
    widths = vae_config(section)
    if section.checkpoint is None:
        weights = random_weights(section)
        return AutoencoderKL.from_state_dict(widths, weights, device=device, dtype=dtype)
    path = fetch_file(section.checkpoint, storage, DOWNLOADS)
    try:
        return AutoencoderKL.from_file(path, widths, device=device, dtype=dtype)
    except CheckpointError as error:
        raise UserError(f"vae.checkpoint {section.checkpoint}: {error}") from error


def weights_sha256(section: VAESection, storage: StorageConfig) -> str:
    """Hash of the encoder's weights as stored, without making the model.

    Raises ``UserError``, also when the checkpoint does not fit the configured model.
    """
    if section.checkpoint is None:
        return encoder_sha256(random_weights(section))
    path = fetch_file(section.checkpoint, storage, DOWNLOADS)
    try:
        check_checkpoint(path, vae_config(section))
        return checkpoint_encoder_sha256(path)
    except CheckpointError as error:
        raise UserError(f"vae.checkpoint {section.checkpoint}: {error}") from error


def make_contract(config: Config) -> Contract:
    """The contract that a cache made with this configuration keeps."""
    return Contract(
        format_version=FORMAT_VERSION,
        vae_version=config.vae.version,
        z_channels=config.vae.z_channels,
        encoder_sha256=weights_sha256(config.vae, config.storage),
        value_range=(-1.0, 1.0),
        layout=LAYOUT,
        statistic=config.latents.statistic,
        dtype=config.latents.dtype,
        scale=1.0,
        shift=0.0,
        window_frames=WINDOW_FRAMES,
        latent_frames=latent_frames(WINDOW_FRAMES),
    )
