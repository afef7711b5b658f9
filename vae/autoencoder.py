"""The autoencoder as its users see it: construction, encode, posterior, decode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae import checkpoint
from vae.config import VAEConfig
from vae.decoder import Decoder
from vae.encoder import Encoder
from vae.frames import WINDOW_FRAMES, WINDOW_LATENTS, check_latent, check_video
from vae.posterior import DiagonalGaussian


class AutoencoderKL(nn.Module):
    """The published Step-Video-T2V VAE: video ↔ latent, 8 times in time, 16 in height and width.

    A clip is cut into windows of 17 frames that are encoded and decoded independently. ``encode``,
    ``posterior`` and ``decode`` run without autograd; the submodules ``encoder`` and ``decoder``
    (one window each, channels before time) can be differentiated.

    The state dict has the names of the published file. Nothing is shared between two models.
    """

    config: VAEConfig
    """What the model was built from."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        z_channels: int = 64,
        num_res_blocks: int = 2,
        model_path: str | Path | None = None,
        weight_dict: Mapping[str, Tensor] | None = None,
        world_size: int = 1,
        version: int = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build a model of the published widths; :meth:`from_config` builds any other.

        Args:
            in_channels: channels of the video to encode.
            out_channels: channels of the decoded video.
            z_channels: channels of the latent; the published version 2 has 64.
            num_res_blocks: residual blocks per encoder level.
            model_path: safetensors file to load. None, and no ``weight_dict``, leaves torch's
                ordinary random initialisation.
            weight_dict: weights to load in place of a file, copied; empty is none.
            world_size: 1; the work is spread over processes outside of the model.
            version: 2.
            device: where the weights go; torch's current default if None.
            dtype: of the weights, whatever the file's; torch's current default if None.

        Raises:
            CheckpointError: the weights cannot be read or do not fit exactly.
            ValueError: an argument is out of range or not supported.
        """
        config = VAEConfig(
            version=version,
            in_channels=in_channels,
            out_channels=out_channels,
            z_channels=z_channels,
            num_res_blocks=num_res_blocks,
        )
        if world_size != 1:
            raise ValueError(
                f"world_size={world_size} is not supported: a model works in one process. Leave "
                "world_size=1 and give each process its own windows."
            )
        if model_path is not None and weight_dict:
            raise ValueError("model_path and weight_dict are both given; pass only one of them.")
        self._build(
            config, weight_dict or None if model_path is None else model_path, device, dtype
        )

    @classmethod
    def from_config(
        cls,
        config: VAEConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AutoencoderKL:
        """A model of any widths with torch's ordinary random initialisation."""
        return cls.__new__(cls)._build(config, None, device, dtype)

    @classmethod
    def from_state_dict(
        cls,
        config: VAEConfig,
        weights: Mapping[str, Tensor],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AutoencoderKL:
        """A model of any widths with copies of ``weights``; strict, both spellings of names.

        Raises:
            CheckpointError: ``weights`` does not fit exactly.
        """
        return cls.__new__(cls)._build(config, weights, device, dtype)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        config: VAEConfig | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AutoencoderKL:
        """A model of any widths (the published ones if None) with the weights of a file.

        Raises:
            CheckpointError: the file cannot be read or does not fit exactly.
        """
        return cls.__new__(cls)._build(config or VAEConfig(), path, device, dtype)

    def _build(
        self,
        config: VAEConfig,
        weights: Mapping[str, Tensor] | str | Path | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> AutoencoderKL:
        """Make the modules, on meta if weights follow, which then are put in their places."""
        super().__init__()
        self.config = config
        device = torch.get_default_device() if device is None else torch.device(device)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype} is not floating point; use float32 or bfloat16.")
        with torch.device("meta" if weights is not None else device):
            self.encoder = Encoder(config)
            self.decoder = Decoder(config)
        if weights is None:
            return self.to(dtype)
        expected = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        if isinstance(weights, Mapping):
            tensors = checkpoint.load_mapping(weights, config, expected, device, dtype)
        else:
            tensors = checkpoint.load_file(weights, config, expected, device, dtype)
        super().load_state_dict(tensors, assign=True)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, which the input of ``encode`` must have."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in torch, but the reference's spelling of ``decoder.conv_out`` is accepted too."""
        renamed = {checkpoint.canonical_key(key): value for key, value in state_dict.items()}
        return super().load_state_dict(renamed, strict=strict, assign=assign)

    @torch.no_grad()
    def posterior(self, x: Tensor, *, allow_partial_window: bool = False) -> DiagonalGaussian:
        """The distribution of the latent of ``x``.

        Windows go through the encoder one after another with the batch as given, so a window
        encoded alone at the same batch size gives the same bits as inside a long clip.

        Args:
            x: (B, T, C, H, W) in [-1, 1], in the dtype of the weights. T is 1 or a multiple of 17,
                H and W are multiples of 16.
            allow_partial_window: accept a last window of 1 or 9 frames too.

        Returns:
            mean and logvar of shape (B, t, z, H/16, W/16), t = ``latent_frames(T)``.

        Raises:
            ValueError: x is not legal; the message names axis, value and remedy.
        """
        check_video(x, self.config.in_channels, self.dtype, allow_partial_window)
        windows = torch.split(x.transpose(1, 2), WINDOW_FRAMES, dim=2)
        moments = torch.cat([self.encoder(window) for window in windows], dim=2)
        return DiagonalGaussian.from_moments(moments.transpose(1, 2))

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | None = None,
        allow_partial_window: bool = False,
    ) -> Tensor:
        """A sample of the latent of ``x``: ``posterior(x).sample(generator)``.

        Without ``generator`` the noise comes from torch's global random state, as in the
        reference. Arguments and errors are those of :meth:`posterior`.

        Returns:
            (B, t, z, H/16, W/16), not scaled or shifted.
        """
        return self.posterior(x, allow_partial_window=allow_partial_window).sample(generator)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The video of a latent.

        Args:
            z: (B, t, z_channels, h, w), floating point; cast to the dtype of the weights. Each 3
                latent frames are one window; a rest of 1 or 2 is a short last window.

        Returns:
            (B, T, C, 16h, 16w) with T = ``decoded_frames(t)``, around [-1, 1] but not clamped.
            The two frames at each border of windows are blended as in the reference.

        Raises:
            ValueError: z is not legal; the message names axis, value and remedy.
        """
        check_latent(z, self.config.z_channels)
        windows = torch.split(z.to(self.dtype).transpose(1, 2), WINDOW_LATENTS, dim=2)
        video = torch.cat([self.decoder(window) for window in windows], dim=2).transpose(1, 2)
        return blend_borders(video.contiguous())

    def encoder_sha256(self) -> str:
        """Identity of the encoder's weights, see :func:`vae.encoder_sha256`."""
        return checkpoint.encoder_sha256(self.state_dict())


def blend_borders(video: Tensor) -> Tensor:
    """Soften the borders of decoded windows in place: (B, T, C, H, W) → the same tensor.

    With a the last frame of a window and b the first of the next, in this order:
    b ← 0.6 b + 0.4 a, then a ← 0.6 a + 0.4 b. The second step uses the new b, so the result is
    not symmetric: a keeps 0.76 of itself, b 0.6.
    """
    for first in range(WINDOW_FRAMES, video.shape[1], WINDOW_FRAMES):
        a, b = video[:, first - 1], video[:, first]
        b.mul_(0.6).add_(a, alpha=0.4)
        a.mul_(0.6).add_(b, alpha=0.4)
    return video


def check_checkpoint(path: str | Path, config: VAEConfig) -> None:
    """Whether a checkpoint file fits a model, told by its header alone: nothing is loaded.

    Raises:
        CheckpointError: it does not; the message says why, and what to do.
    """
    model = AutoencoderKL.from_config(config, device="meta")
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    checkpoint.check_file(path, config, expected)
