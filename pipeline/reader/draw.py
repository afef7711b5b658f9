"""From stored statistics to what is trained on: draws, normalisation, dtype."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
import torch

from pipeline.contract import Contract, ContractError
from pipeline.errors import UserError

Statistic = Literal["sample", "mean", "moments"]
"""Latents drawn from the posterior (or as stored); its mean; or mean and log variance."""


@dataclass(frozen=True)
class Normalization:
    """Normalised = (latent - shift) * scale; numbers, or one number a channel."""

    scale: float | Sequence[float] = 1.0
    shift: float | Sequence[float] = 0.0

    def check(self, contract: Contract) -> None:
        """Refuse a cache that is normalised already, or has another number of channels.

        Raises ``ContractError``, and ``UserError`` for numbers that cannot be undone.
        """
        if (contract.scale, contract.shift) != (1.0, 0.0):
            raise ContractError(
                f"normalize: the cache is normalised already (scale {contract.scale}, shift "
                f"{contract.shift}); leave normalize out"
            )
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            if isinstance(value, Sequence) and len(value) != contract.z_channels:
                raise UserError(
                    f"normalize.{name} has {len(value)} numbers, and the latents "
                    f"{contract.z_channels} channels; give one a channel, or one number"
                )
            numbers = np.atleast_1d(np.asarray(value, np.float64))
            odd = numbers[~np.isfinite(numbers) | (name == "scale") & (numbers == 0)]
            if len(odd):
                raise UserError(f"normalize.{name} {odd[0]}: give finite numbers, and no scale 0")

    def apply(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalise latents ``(…, C, h, w)``, in float32."""
        scale, shift = self._on(latents.device)
        return (latents.to(torch.float32) - shift) * scale

    def undo(self, latents: torch.Tensor) -> torch.Tensor:
        """Of normalised latents ``(…, C, h, w)``, those that the VAE decodes, in float32."""
        scale, shift = self._on(latents.device)
        return latents.to(torch.float32) / scale + shift

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = (torch.tensor(n, dtype=torch.float32, device=device) for n in astuple(self))
        scale, shift = (n.reshape(-1, 1, 1) if n.ndim else n for n in numbers)
        return scale, shift


def needed_tensors(statistic: str, contract: Contract) -> tuple[str, ...]:
    """The stored tensors that a statistic is made of. Raises ``ContractError``: there is none."""
    if contract.statistic == statistic:
        return contract.tensors
    if contract.statistic == "moments":
        return ("mean", "logvar") if statistic == "sample" else ("mean",)
    raise ContractError(
        f"statistic={statistic!r}: the cache holds {contract.statistic!r} alone; ask for "
        f"statistic={contract.statistic!r}, or encode with latents.statistic moments"
    )


def noise_seed(seed: int, epoch: int, source: bytes, bucket: str, first_frame: int) -> int:
    """Seed of a sample's draw in one epoch, whatever clip, batch, rank or worker it is in."""
    text = f"{seed}:{epoch}:{source.hex()}:{bucket}:{first_frame}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def draw(
    latents: torch.Tensor,
    mean: torch.Tensor,
    logvar: torch.Tensor,
    seeds: Sequence[Sequence[int]],
) -> None:
    """Put mean + std * noise into ``latents``, float32; a seed a window.

    All are ``(batch, windows, t, C, h, w)``. One window after the other, so that little memory is
    taken beside them.
    """
    generator = torch.Generator()
    rows = (seed for row in seeds for seed in row)
    tensors = (tensor.flatten(0, 1) for tensor in (latents, mean, logvar))
    for seed, window, middle, spread in zip(rows, *tensors, strict=True):
        generator.manual_seed(seed)
        window.normal_(generator=generator)
        window.mul_(spread.to(torch.float32).mul_(0.5).exp_()).add_(middle)
