"""The autoencoder as its users see it: construction, encode, posterior, decode."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae import checkpoint
from vae.checkpoint import EncoderDigest, Parts
from vae.config import VAEConfig
from vae.decoder import Decoder
from vae.detect import detect_config, detect_version, detect_z_channels
from vae.encoder import Encoder
from vae.frames import WINDOW_FRAMES, check_latent, check_video
from vae.memory import SLICE_FRAMES, MemoryPlan, make_plan
from vae.posterior import DiagonalGaussian
from vae.safetensors_file import Readable, SafetensorsFile, Shapes, open_safetensors


class AutoencoderKL(nn.Module):
    """The published Step-Video-T2V VAE: video ↔ latent, 8 times in time, 16 in height and width.

    A clip is cut into windows of 17 frames that are encoded and decoded independently. All
    of it runs without autograd: the model is for encoding and decoding, not for training it.

    The state dict has the names of the published file. Nothing is shared between two models.
    """

    config: VAEConfig
    """What the model was built from."""

    encoder: Encoder
    decoder: Decoder
    """Missing from a model that was made with ``parts="encoder"``."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        z_channels: int | None = None,
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
            z_channels: channels of the latent. None takes those of the weights; without weights,
                those of the published model (64 for version 2, 16 for version 1).
            num_res_blocks: residual blocks per encoder level.
            model_path: safetensors file to load. None, and no ``weight_dict``, leaves torch's
                ordinary random initialisation.
            weight_dict: weights to load in place of a file, copied; empty is none.
            world_size: 1; the work is spread over processes outside of the model.
            version: 2 or 1, that of the weights; :meth:`from_file` tells it from a file.
            device: where the weights go; torch's current default if None.
            dtype: of the weights, whatever the file's; torch's current default if None.

        Raises:
            CheckpointError: the weights cannot be read or do not fit exactly.
            ValueError: an argument is out of range or not supported.
        """
        if world_size != 1:
            raise ValueError(
                f"world_size={world_size} is not supported: a model works in one process. Leave "
                "world_size=1 and give each process its own windows."
            )
        if model_path is not None and weight_dict:
            raise ValueError("model_path and weight_dict are both given; pass only one of them.")
        with ExitStack() as stack:
            weights: Mapping[str, Tensor] | SafetensorsFile | None = weight_dict or None
            if model_path is not None:
                weights = stack.enter_context(open_safetensors(model_path))
            if z_channels is None and weights is not None:
                shapes = checkpoint.shapes_of(weights)
                if detect_version(shapes) == version:
                    z_channels = detect_z_channels(shapes)
            config = VAEConfig(
                version=version,
                in_channels=in_channels,
                out_channels=out_channels,
                z_channels=z_channels or 0,
                num_res_blocks=num_res_blocks,
            )
            self._build(config, weights, device, dtype)

    @classmethod
    def from_config(
        cls,
        config: VAEConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        parts: Parts = "all",
    ) -> AutoencoderKL:
        """A model of any widths with torch's ordinary random initialisation.

        With ``parts="encoder"``, here and below, the model has no decoder: a fifth of the memory of
        the published one, and ``decode`` raises ``AttributeError``.
        """
        return cls.__new__(cls)._build(config, None, device, dtype, parts)

    @classmethod
    def from_state_dict(
        cls,
        config: VAEConfig,
        weights: Mapping[str, Tensor],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        parts: Parts = "all",
    ) -> AutoencoderKL:
        """A model of any widths with copies of ``weights``; strict, both spellings of names.

        With ``parts="encoder"`` tensors of a decoder are passed over.

        Raises:
            CheckpointError: ``weights`` does not fit exactly.
        """
        return cls.__new__(cls)._build(config, weights, device, dtype, parts)

    @classmethod
    def from_file(
        cls,
        source: Readable,
        config: VAEConfig | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        parts: Parts = "all",
    ) -> AutoencoderKL:
        """The model of a file: a path, or an open seekable binary file, which stays open.

        Without ``config`` version, channels and widths are told from the file, see
        :func:`vae.detect_config`; norms have 32 groups then. With ``parts="encoder"`` the decoder's
        bytes are not read.

        Raises:
            CheckpointError: the file cannot be read or does not fit exactly.
        """
        with open_safetensors(source) as file:
            config = config or detect_config(file.shapes, source=file.name)
            return cls.__new__(cls)._build(config, file, device, dtype, parts)

    def _build(
        self,
        config: VAEConfig,
        weights: Mapping[str, Tensor] | SafetensorsFile | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        parts: Parts = "all",
        digest: EncoderDigest | None = None,
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
            if parts == "all":
                self.decoder = Decoder(config)
        if weights is None:
            return self.to(dtype)
        expected = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        if isinstance(weights, SafetensorsFile):
            tensors = checkpoint.load_file(weights, config, expected, device, dtype, parts, digest)
        else:
            tensors = checkpoint.load_mapping(weights, config, expected, device, dtype, parts)
        super().load_state_dict(tensors, assign=True)
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "decoder" and "decoder" not in self._modules:
            raise AttributeError(
                "this model has no decoder: it was made with parts='encoder'. To decode, load all "
                "of it, as with AutoencoderKL.from_file(path)."
            )
        return super().__getattr__(name)

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
    def posterior(
        self, x: Tensor, *, allow_partial_window: bool = False, memory_budget: int | None = None
    ) -> DiagonalGaussian:
        """The distribution of the latent of ``x``.

        Windows go through the encoder one after another with the batch as given, so a window
        encoded alone at the same batch size gives the same bits as inside a long clip.

        Args:
            x: (B, T, C, H, W) in [-1, 1], in the dtype of the weights. T is 1 or a multiple of 17,
                H and W are multiples of 16 (version 1: 8).
            allow_partial_window: accept a last window of 1 or 9 (version 1: also 5 or 13) frames.
            memory_budget: bytes that the activations of a call may take; windows are cut into
                slices of time so that they do (:meth:`memory_plan`). None: the largest slices.

        Returns:
            mean and logvar of shape (B, t, z, h, w), t = ``latent_frames(T)``, h and w a 16th
            (version 1: an 8th) of H and W.

        Raises:
            ValueError: x is not legal; the message names axis, value and remedy.
        """
        check_video(
            x, self.config.in_channels, self.dtype, allow_partial_window, self.config.compression
        )
        windows = torch.split(x.transpose(1, 2), WINDOW_FRAMES, dim=2)
        size = SLICE_FRAMES[0]
        if memory_budget is not None:
            batch, frames, _, height, width = x.shape
            longest = min(frames, WINDOW_FRAMES)
            plan = self.memory_plan(height, width, longest, budget=memory_budget // batch)
            size = plan.slice_frames
        moments = torch.cat([self.encoder(window, size) for window in windows], dim=2)
        return DiagonalGaussian.from_moments(moments.transpose(1, 2))

    def memory_plan(
        self, height: int, width: int, frames: int = WINDOW_FRAMES, *, budget: int
    ) -> MemoryPlan:
        """The slices of time in which a window's activations fit into ``budget`` bytes.

        Counted for the dtype of the weights; what kernels need for themselves is not in it.
        """
        return make_plan(self.config, height, width, frames, self.dtype, budget)

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
                (version 1: 5) latent frames are one window; a rest is a short last window.

        Returns:
            (B, T, C, 16h, 16w) (version 1: 8h, 8w) with T = ``decoded_frames(t)``, around [-1, 1]
            but not clamped.
            The two frames at each border of windows are blended as in the reference.

        Raises:
            ValueError: z is not legal; the message names axis, value and remedy.
        """
        check_latent(z, self.config.z_channels)
        size = self.config.compression.window_latents
        windows = torch.split(z.to(self.dtype).transpose(1, 2), size, dim=2)
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
    with open_safetensors(source) as file:
        config = config or detect_config(file.shapes, source=file.name)
        model = AutoencoderKL.__new__(AutoencoderKL)
        return model._build(config, file, device, dtype, "encoder", digest), digest.hexdigest()


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
