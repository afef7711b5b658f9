"""A small VAE that reconstructs: made by hand, since random weights decode to noise.

Its blocks pass their input on, its resamplings average and repeat, and its latents are the mean
colours of blocks of 8 frames and 16x16 pixels. Constant channels beside the colours keep the norms
from taking the brightness away. Only the last convolution is fitted, by least squares. So smooth
pictures come back at some 25 dB, and whatever else is wrong shows.
"""

from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file

from vae import AutoencoderKL, VAEConfig, seeded_state_dict

WIDTHS = {
    "num_res_blocks": 1,
    "encoder_ch": 16,
    "encoder_ch_mult": [1, 1, 1, 1],
    "decoder_ch": 16,
    "decoder_ch_mult": [1, 1, 1, 1],
    "norm_groups": 1,
}
"""``vae.widths`` of the model; it has 4 latent channels."""

_CONSTANT = 2.0


def config() -> VAEConfig:
    """The architecture."""
    return VAEConfig(version=2, z_channels=4, **WIDTHS)


def weights() -> dict[str, torch.Tensor]:
    """The state dict, under the published names."""
    found = seeded_state_dict(config(), 0)
    for key, value in found.items():
        quiet = (".conv2.conv.", ".proj_out.", "conv3d.norm2.", "patchify.", "r.conv_out.conv.")
        if any(part in key for part in quiet):
            value.zero_()
        elif "sample.conv" in key and "conv3d" not in key:
            value.zero_()
            if key.endswith("weight"):
                for channel in range(16):
                    _pass_on(value[channel, channel], "upsample" in key)
        elif key.endswith("norm_out.weight"):
            value.fill_(0.2)
        elif key.endswith("norm_out.bias"):
            value.zero_()
    first = found["encoder.conv_in.conv.weight"].zero_()
    for channel in range(6):  # red twice, green twice, blue twice
        first[channel, channel // 2, -1, 1, 1] = 1
    signs = torch.tensor([1.0, -1.0])
    constant = found["encoder.conv_in.conv.bias"].zero_()
    constant[6:] = _CONSTANT * signs.repeat(5)
    found["decoder.conv_in.conv.weight"].zero_()
    unfolded = torch.tensor([0.0, _CONSTANT, -_CONSTANT, 0.0]).repeat(4)
    found["decoder.conv_in.conv.bias"] = unfolded.repeat_interleave(8)
    _fit_last(found)
    return found


def _pass_on(kernel: torch.Tensor, doubles: bool) -> None:
    """One pixel where it doubles, else a mean of 2x2 pixels of the last frame."""
    if doubles:
        kernel[1, 1] = 1
    elif kernel.ndim == 3:
        kernel[-1, 1:, 1:] = 0.25
    else:
        kernel[:2, :2] = 0.25


def _fit_last(found: dict[str, torch.Tensor]) -> None:
    """Fit the last convolution, one tap of it, to some smooth pictures."""
    given = np.stack([smooth_frames(seed, height=32, width=32) for seed in range(100, 104)])
    frames = (torch.from_numpy(given).float() / 127.5 - 1).permute(0, 1, 4, 2, 3)
    found["decoder.conv_out.weight"].zero_()
    model = AutoencoderKL.from_state_dict(config(), found)
    seen: list[torch.Tensor] = []
    activated = model.decoder.conv_out.activated

    def watched(norm: object, x: torch.Tensor, stream: object) -> torch.Tensor:
        buffer = activated(norm, x, stream)
        seen.append(buffer[:, :, -x.shape[2] :].clone())
        return buffer

    model.decoder.conv_out.activated = watched
    model.decode(model.posterior(frames).mean)
    last = torch.cat(seen, dim=2)[:, :, 3:]  # three frames in front are surplus
    features = last[:, :, 1::3, ::3, ::3].movedim(1, -1).flatten(0, -2).double()
    wanted = frames[:, 1::3, :, ::3, ::3].movedim(2, -1).flatten(0, -2).double()
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    ridge = 1e-9 * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted)
    found["decoder.conv_out.weight"][:, :, -1, 1, 1] = solved[:-1].T.float()
    found["decoder.conv_out.bias"] = solved[-1].float()


def write_checkpoint(path: Path) -> Path:
    """The model as a safetensors file."""
    save_file({key: value.contiguous() for key, value in weights().items()}, path)
    return path


def smooth_frames(seed: int, frames: int = 17, height: int = 32, width: int = 64) -> np.ndarray:
    """A colourful picture that changes slowly, uint8 ``[T, H, W, 3]``; no two sides look alike."""
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, height)[None, :, None]
    x = np.linspace(0, 1, width)[None, None, :]
    t = np.linspace(0, 0.1, frames)[:, None, None]
    channels = []
    for base in rng.permutation([0.15, 0.45, 0.8]):
        ramp = 0.25 * (rng.uniform(0.5, 1) * x - rng.uniform(0.5, 1) * y) + t
        channels.append(np.clip(base + ramp, 0, 1))
    return (np.stack(channels, axis=-1) * 255).round().astype(np.uint8)


def write_clip(path: Path, frames: np.ndarray) -> Path:
    """Frames, uint8 ``[T, H, W, 3]``, as a lossless video at 25 frames a second."""
    with av.open(path, "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            out.mux(stream.encode(picture.reformat(format="bgr0")))
        out.mux(stream.encode())
    return path
