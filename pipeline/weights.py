"""The VAE that a configuration asks for: its architecture, its weights, and the contract."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fsspec.utils import tokenize

import vae
from pipeline.config import Config, LatentsConfig, StorageConfig, VAESection, WidthsConfig
from pipeline.contract import FORMAT_VERSION, Contract
from pipeline.errors import SourceError, UserError
from pipeline.reading import fetch_file, file_remedy, open_source, stat_source
from pipeline.storage import protocol_of
from pipeline.windows import WINDOW_FRAMES
from vae import VAEConfig

if TYPE_CHECKING:  # a driver does without
    import torch

    from vae import AutoencoderKL, SafetensorsFile

LAYOUT = "t,C,h,w"
"""Axes of one stored sample: latent frames, channels, rows, columns."""

DOWNLOADS = Path(tempfile.gettempdir()) / f"t2v-latents-weights-{os.getuid()}"
"""Where weights of object storage are kept on a node, by their version."""


def resolve_vae(section: VAESection, storage: StorageConfig) -> VAESection:
    """The section with version, channels and widths as numbers, as the checkpoint's header says.

    Raises ``UserError`` when the checkpoint cannot be read, is of another model than the section
    says, or has no complete encoder; the message says what to write.
    """
    if section.checkpoint is None:
        return _with_numbers(section, vae_config(section))
    with _explained(section), _open_header(section.checkpoint, storage) as file:
        groups = section.widths.norm_groups or VAEConfig.norm_groups
        found = vae.detect_config(file.shapes, norm_groups=groups)
        for key, asked, told in (
            ("version", section.version, found.version),
            ("z_channels", section.z_channels, found.z_channels),
        ):
            if asked not in (None, told):
                raise UserError(
                    f"vae.{key} is {asked}, but vae.checkpoint {section.checkpoint} is of version "
                    f"{found.version} with {found.z_channels} latent channels; set vae.{key}: "
                    f"{told}, or auto, which takes it from the file"
                )
        resolved = _with_numbers(section, found)
        vae.check_shapes(file.shapes, vae_config(resolved), "encoder")
    return resolved


def vae_config(section: VAESection) -> VAEConfig:
    """The model of a resolved section, or of one with random weights.

    Raises ``UserError`` when the numbers do not make a model.
    """
    if not _is_resolved(section):
        raise ValueError("the numbers are in the checkpoint: resolve_vae reads them")
    try:
        return VAEConfig(
            version=section.version or VAEConfig.version,
            z_channels=section.z_channels or 0,
            **section.widths.model_dump(exclude_none=True),
        )
    except ValueError as error:
        raise UserError(f"vae: {error}") from error


def load_encoder(
    section: VAESection, storage: StorageConfig, sha256: str | None = None
) -> AutoencoderKL:
    """The encoder alone, on its device in the compute dtype; ``decode`` raises.

    ``sha256`` is the hash that the contract promises. Raises ``UserError`` when the weights cannot
    be loaded, or are others than promised.
    """
    device, dtype = _place(section)
    if section.checkpoint is None:
        model = vae_config(section)
        return vae.AutoencoderKL.from_state_dict(
            model, random_weights(section), device=device, dtype=dtype, parts="encoder"
        )
    model = _model(section, storage)
    path = encoder_file(section.checkpoint, storage)
    with _explained(section):
        loaded, found = vae.load_encoder(path, model, device=device, dtype=dtype)
    if sha256 not in (None, found):
        raise UserError(
            f"vae.checkpoint {section.checkpoint}: the encoder in {path} has the SHA-256 {found}, "
            f"the contract {sha256}: it was replaced while the run was at work. Start the run "
            "again; if the checkpoint is the same, remove the file"
        )
    return loaded


def load_vae(section: VAESection, storage: StorageConfig) -> AutoencoderKL:
    """The whole VAE on its device in the compute dtype, for what decodes. Raises ``UserError``."""
    device, dtype = _place(section)
    if section.checkpoint is None:
        model = vae_config(section)
        weights = vae.seeded_state_dict(model, _seed(section))
        return vae.AutoencoderKL.from_state_dict(model, weights, device=device, dtype=dtype)
    model = _model(section, storage)
    path = fetch_file(section.checkpoint, storage, DOWNLOADS)
    with _explained(section):
        return vae.AutoencoderKL.from_file(path, model, device=device, dtype=dtype)


def random_weights(section: VAESection) -> dict[str, torch.Tensor]:
    """The encoder's weights that follow from ``vae.random_seed``, under the published names."""
    return vae.seeded_state_dict(vae_config(section), _seed(section), parts="encoder")


def weights_sha256(section: VAESection, storage: StorageConfig) -> str:
    """Hash of the encoder's weights as stored, without making the model. Raises ``UserError``."""
    if section.checkpoint is None:
        return vae.encoder_sha256(random_weights(section))
    path = encoder_file(section.checkpoint, storage)
    with _explained(section):
        return vae.checkpoint_encoder_sha256(path)


def make_contract(config: Config) -> Contract:
    """The contract that a cache made with this configuration keeps."""
    model = _model(config.vae, config.storage)
    return contract_for(model, config.latents, weights_sha256(config.vae, config.storage))


def contract_for(model: VAEConfig, latents: LatentsConfig, sha256: str) -> Contract:
    """The contract of what a model of this architecture makes, its encoder having this hash."""
    return Contract(
        format_version=FORMAT_VERSION,
        vae_version=model.version,
        z_channels=model.z_channels,
        encoder_sha256=sha256,
        value_range=(-1.0, 1.0),
        layout=LAYOUT,
        statistic=latents.statistic,
        dtype=latents.dtype,
        scale=1.0,
        shift=0.0,
        window_frames=WINDOW_FRAMES,
        latent_frames=vae.latent_frames(WINDOW_FRAMES, compression=model.compression),
    )


def encoder_file(uri: str, storage: StorageConfig) -> Path:
    """A local safetensors file with the encoder of ``uri``: itself if local.

    Of any other the header and ``encoder.*`` are read, by range, once for each node and version;
    processes that ask at the same time wait for the first. Raises ``UserError``.
    """
    if protocol_of(uri) == "file":
        return fetch_file(uri, storage, DOWNLOADS)
    try:
        version, _ = stat_source(uri, storage)
        target = DOWNLOADS / f"{tokenize(uri, version)}.encoder.safetensors"
        DOWNLOADS.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(target.with_suffix(".lock")):
            if not target.exists():
                _fetch_encoder(uri, version, storage, target)
    except SourceError as error:
        raise UserError(f"{error.message}; {file_remedy(error)}") from error
    except vae.CheckpointError as error:
        raise UserError(f"vae.checkpoint {uri}: {error}") from error
    except OSError as error:
        raise UserError(
            f"vae.checkpoint {uri}: its encoder cannot be kept in {DOWNLOADS} ({error}); make "
            "room there, or set TMPDIR to another folder"
        ) from error
    return target


def _fetch_encoder(uri: str, version: str, storage: StorageConfig, target: Path) -> None:
    part = target.with_suffix(".part")
    with open_source(uri, version, storage, "weights") as source, part.open("wb") as sink:
        with vae.open_safetensors(source) as file:
            file.copy((key for key in file.tensors if key.startswith("encoder.")), sink)
        source.verify()
    part.replace(target)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time; a killed one lets go."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _open_header(uri: str, storage: StorageConfig) -> Iterator[SafetensorsFile]:
    if protocol_of(uri) == "file":
        with vae.open_safetensors(fetch_file(uri, storage, DOWNLOADS)) as file:
            yield file
        return
    try:
        with (
            open_source(uri, None, storage, "weights") as source,
            vae.open_safetensors(source) as file,
        ):
            yield file
    except SourceError as error:
        raise UserError(f"{error.message}; {file_remedy(error)}") from error


@contextmanager
def _explained(section: VAESection) -> Iterator[None]:
    """A checkpoint's errors as the user's, with the key that names it."""
    try:
        yield
    except vae.CheckpointError as error:
        raise UserError(f"vae.checkpoint {section.checkpoint}: {error}") from error


def _is_resolved(section: VAESection) -> bool:
    numbers = (section.version, section.z_channels, *section.widths.model_dump().values())
    return section.checkpoint is None or None not in numbers


def _with_numbers(section: VAESection, model: VAEConfig) -> VAESection:
    """The section with what it leaves open taken from ``model``."""
    widths = {name: getattr(model, name) for name in WidthsConfig.model_fields}
    widths |= section.widths.model_dump(exclude_none=True)
    return section.model_copy(
        update={
            "version": model.version,
            "z_channels": model.z_channels,
            "widths": WidthsConfig(**widths),
        }
    )


def _model(section: VAESection, storage: StorageConfig) -> VAEConfig:
    return vae_config(section if _is_resolved(section) else resolve_vae(section, storage))


def _seed(section: VAESection) -> int:
    if section.random_seed is None:
        raise ValueError("the configuration names a checkpoint, not a seed")
    return section.random_seed


def _place(section: VAESection) -> tuple[str, torch.dtype]:
    """Device and compute dtype. Raises ``UserError`` when there is no such device.

    Where float32 is asked for it is meant: this process's convolutions on CUDA then do not round
    their input to the ten bits of TF32, as torch has them do.
    """
    import torch

    device: str = section.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "vae.device is cuda, but torch finds no CUDA device here; set vae.device: auto"
        )
    if section.compute_dtype == "float32":
        torch.backends.cudnn.allow_tf32 = False
    return device, getattr(torch, section.compute_dtype)
