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
from vae.compression import WINDOW_FRAMES
from vae.config import VAEConfig
from vae.cost import Cost
from vae.decoder import Decoder, blend_borders
from vae.detect import detect_config, detect_version, detect_z_channels
from vae.encoder import Encoder
from vae.frames import check_latent, check_video, decoded_frames
from vae.heap import return_freed_blocks
from vae.layers import CausalConv3d
from vae.memory import SLICE_FRAMES, MemoryPlan, Part, encoding_cost, make_plan
from vae.norms import compile_norms
from vae.posterior import DiagonalGaussian
from vae.safetensors_file import Readable, SafetensorsFile, open_safetensors
from vae.stream import LAYOUT


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
        digest: EncoderDigest | None = None,
    ) -> AutoencoderKL:
        """The model of a file: a path, or an open seekable binary file, which stays open.

        Without ``config`` version, channels and widths are told from the file, see
        :func:`vae.detect_config`; norms have 32 groups then. With ``parts="encoder"`` the decoder's
        bytes are not read. ``digest`` takes the encoder's weights as stored on the way.

        Raises:
            CheckpointError: the file cannot be read or does not fit exactly.
        """
        with open_safetensors(source) as file:
            config = config or detect_config(file.shapes, source=file.name)
            return cls.__new__(cls)._build(config, file, device, dtype, parts, digest)

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
        if weights is not None:
            expected = {key: tuple(value.shape) for key, value in self.state_dict().items()}
            wanted = config, expected, device, dtype, parts
            if isinstance(weights, SafetensorsFile):
                tensors = checkpoint.load_file(weights, *wanted, digest)
            else:
                tensors = checkpoint.load_mapping(weights, *wanted)
            super().load_state_dict(tensors, assign=True)
        self.to(dtype)
        if device.type != "cpu":
            self.order_weights()
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
            memory_budget: bytes that the activations may take; the batch is split and windows are
                cut into slices of time so that they do (:meth:`memory_plan`). None: 768 MiB on the
                CPU, most of the free memory of an accelerator.

        Returns:
            mean and logvar of shape (B, t, z, h, w), t = ``latent_frames(T)``, h and w a 16th
            (version 1: an 8th) of H and W.

        Raises:
            ValueError: x is not legal; the message names axis, value and remedy.
        """
        return DiagonalGaussian.from_moments(
            self._encode(x, allow_partial_window, memory_budget, mean_only=False)
        )

    @torch.no_grad()
    def mean(
        self, x: Tensor, *, allow_partial_window: bool = False, memory_budget: int | None = None
    ) -> Tensor:
        """The mean of :meth:`posterior` alone, (B, t, z, h, w), without half of the last layer.

        Arguments and errors are those of :meth:`posterior`; values agree within 1e-5 in float32.
        """
        return self._encode(x, allow_partial_window, memory_budget, mean_only=True)

    def _encode(self, x: Tensor, partial: bool, budget: int | None, *, mean_only: bool) -> Tensor:
        """Moments, or means, (B, t, channels, h, w) of checked windows."""
        check_video(x, self.config.in_channels, self.dtype, partial, self.config.compression)
        _, frames, _, height, width = x.shape
        plan = self._plan(height, width, min(frames, WINDOW_FRAMES), budget, "encoder")
        windows = torch.split(x.transpose(1, 2), WINDOW_FRAMES, dim=2)
        made = [
            torch.cat([self.encoder(x, plan.slice_frames, mean_only) for x in parts])
            for parts in (torch.split(window, plan.batch) for window in windows)
        ]
        return torch.cat(made, dim=2).transpose(1, 2)

    def memory_plan(
        self,
        height: int,
        width: int,
        frames: int = WINDOW_FRAMES,
        dtype: torch.dtype | None = None,
        budget: int | None = None,
        *,
        part: Part = "encoder",
    ) -> MemoryPlan:
        """How windows are cut in time, and how many go at once, within ``budget`` bytes.

        Args:
            height: pixels of the video, a multiple of 16 (version 1: 8), as ``width``.
            width: pixels of the video.
            frames: of one window: 1, 9 (version 1: 5, 9, 13) or 17. More are a clip, which comes
                window by window: it takes what 17 do.
            dtype: of the activations; that of the weights if None.
            budget: bytes for activations, 1 or more; the default of :meth:`posterior` if None.
            part: ``"encoder"`` or ``"decoder"``.

        Raises:
            ValueError: an argument is not legal; the message says what would be.

        Returns:
            The plan; ``str(plan)`` explains the choice. Peaks are counted, operator by operator,
            with the reordered weights that convolutions hold on the CPU, but without the workspace
            of an accelerator's kernels.
        """
        if isinstance(frames, int):
            frames = min(frames, WINDOW_FRAMES)
        given = self.config, height, width, frames, dtype or self.dtype, budget
        return make_plan(*given, part=part, device=self.device)

    def _plan(
        self, height: int, width: int, frames: int, budget: int | None, part: Part
    ) -> MemoryPlan:
        """The plan by which to work; its bytes are true only where freed ones are given back."""
        if self.device.type == "cpu":
            return_freed_blocks()
        given = self.config, height, width, frames, self.dtype, budget
        return make_plan(*given, part=part, device=self.device, all_options=False)

    def cost(self, height: int, width: int, frames: int = WINDOW_FRAMES) -> Cost:
        """FLOPs, bytes moved and the least of them of encoding one window, counted without data.

        ``height`` and ``width`` are in pixels, ``frames`` those of one window as for
        :meth:`memory_plan`, but no clip's; in the weights' dtype. Raises ``ValueError`` otherwise.
        """
        return encoding_cost(self.config, height, width, frames, self.dtype, SLICE_FRAMES[0])

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | None = None,
        allow_partial_window: bool = False,
        memory_budget: int | None = None,
    ) -> Tensor:
        """A sample of the latent of ``x``: ``posterior(x).sample(generator)``.

        Without ``generator`` the noise comes from torch's global random state, as in the
        reference. Arguments and errors are those of :meth:`posterior`.

        Returns:
            (B, t, z, H/16, W/16), not scaled or shifted.
        """
        return self.posterior(
            x, allow_partial_window=allow_partial_window, memory_budget=memory_budget
        ).sample(generator)

    @torch.no_grad()
    def decode(self, z: Tensor, *, memory_budget: int | None = None) -> Tensor:
        """The video of a latent.

        Args:
            z: (B, t, z_channels, h, w), floating point; cast to the dtype of the weights. Each 3
                (version 1: 5) latent frames are one window; a rest is a short last window.
            memory_budget: bytes that the activations may take, as in :meth:`posterior`; the video
                itself is not counted.

        Returns:
            (B, T, C, 16h, 16w) (version 1: 8h, 8w) with T = ``decoded_frames(t)``, around [-1, 1]
            but not clamped.
            The two frames at each border of windows are blended as in the reference.

        Raises:
            ValueError: z is not legal; the message names axis, value and remedy.
        """
        check_latent(z, self.config.z_channels)
        compression = self.config.compression
        _, latents, _, rows, columns = z.shape
        longest = decoded_frames(min(latents, compression.window_latents), compression)
        height, width = rows * compression.spatial, columns * compression.spatial
        plan = self._plan(height, width, longest, memory_budget, "decoder")
        windows = torch.split(z.to(self.dtype).transpose(1, 2), compression.window_latents, dim=2)
        made = [
            torch.cat([self.decoder(z, plan.slice_frames) for z in parts])
            for parts in (torch.split(window, plan.batch) for window in windows)
        ]
        return blend_borders(torch.cat(made, dim=2).transpose(1, 2).contiguous())

    def order_weights(self) -> None:
        """Put the weights of convolutions into the memory order of the activations.

        Done on accelerators when the model is made: cuDNN would do it anew in each call, as it does
        for first frames and images, whose last tap in time lies apart. No value changes.
        """
        for module in self.modules():
            if isinstance(module, CausalConv3d | nn.Conv2d):
                order = LAYOUT if module.weight.ndim == 5 else torch.channels_last
                module.weight.data = module.weight.data.contiguous(memory_format=order)

    def compile_norms(self, backend: str = "inductor") -> None:
        """Make one kernel of each norm and its SiLU, by ``torch.compile``.

        For accelerators, where these are bound by memory: three passes over the activations
        instead of seven or so. One kernel serves all sizes, so that it is compiled a few times at
        first use and then no more. Numbers change by rounding alone. Needs what the backend needs:
        Triton on CUDA, a C++ compiler on the CPU.
        """
        compile_norms(self, backend)

    def encoder_sha256(self) -> str:
        """Identity of the encoder's weights, see :func:`vae.encoder_sha256`."""
        return checkpoint.encoder_sha256(self.state_dict())
