"""From uint8 windows to stored latents: the VAE, the statistic, the stored dtype and its checks."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.contract import Contract
from pipeline.errors import Reason
from vae import AutoencoderKL, DiagonalGaussian


@dataclass(frozen=True)
class Encoded:
    """Latents of n windows by statistic, each ``[n, t, C, h, w]`` in the stored dtype.

    ``bad`` names the windows whose numbers must not be stored, by row, with the reason.
    """

    tensors: dict[str, np.ndarray]
    bad: dict[int, Reason]


def encode_windows(
    vae: AutoencoderKL,
    frames: np.ndarray,
    sample_ids: list[str],
    contract: Contract,
    seed: int,
    micro_batch: int,
) -> Encoded:
    """Encode windows ``frames``, uint8 RGB ``[n, T, H, W, 3]`` with T 17 or 1.

    The VAE sees x / 127.5 − 1 in its own dtype and device, ``micro_batch`` windows a call. With the
    statistic ``sample``, noise of a window follows from ``seed`` and its sample id alone.
    """
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in contract.tensors}
    for first in range(0, len(frames), micro_batch):
        ids = sample_ids[first : first + micro_batch]
        posterior = vae.posterior(pixels_to_input(frames[first : first + micro_batch], vae))
        for name, tensor in _statistics(posterior, contract, ids, seed).items():
            parts[name].append(tensor.cpu())
    stored, bad = {}, dict[int, Reason]()
    for name, tensors in parts.items():
        values = torch.cat(tensors)
        with np.errstate(over="ignore"):  # what is beyond the dtype becomes infinite: bad below
            stored[name] = values.numpy().astype(contract.dtype, casting="same_kind")
        flat = values.flatten(1)
        for row in torch.nonzero(~torch.isfinite(flat).all(1)).flatten().tolist():
            bad.setdefault(row, Reason.NOT_FINITE)
        beyond = ~np.isfinite(stored[name]).reshape(len(values), -1).all(1)
        for row in np.flatnonzero(beyond).tolist():
            bad.setdefault(row, Reason.OVERFLOW)
    return Encoded(stored, bad)


def pixels_to_input(frames: np.ndarray, vae: AutoencoderKL) -> torch.Tensor:
    """The VAE's input ``(n, T, 3, H, W)`` in [-1, 1] of uint8 ``[n, T, H, W, 3]``."""
    weight = next(vae.encoder.parameters())
    pixels = torch.from_numpy(np.array(frames)).to(weight.device)
    scaled = pixels.permute(0, 1, 4, 2, 3).to(torch.float32).div_(127.5).sub_(1.0)
    return scaled.contiguous().to(weight.dtype)


def _statistics(
    posterior: DiagonalGaussian, contract: Contract, sample_ids: list[str], seed: int
) -> dict[str, torch.Tensor]:
    mean = posterior.mean.float()
    if contract.statistic == "mean":
        return {"mean": mean}
    if contract.statistic == "moments":
        return {"mean": mean, "logvar": posterior.logvar.float()}
    noise = torch.stack([window_noise(seed, i, tuple(mean.shape[1:])) for i in sample_ids])
    return {"sample": mean + posterior.std.float() * noise.to(mean.device)}


def window_noise(seed: int, sample_id: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise of one window, float32: the same wherever and whenever it is drawn.

    The CPU generator is seeded with the first 8 bytes (little-endian, top bit cleared) of
    SHA-256(``"{seed}:{sample_id}"``).
    """
    digest = hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
    return torch.randn(shape, generator=generator)
