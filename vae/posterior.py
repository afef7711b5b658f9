"""The distribution that the encoder gives for a latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGVAR_MIN = -30.0
LOGVAR_MAX = 20.0
"""Bounds of the log variance, as in the published model."""


@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """A normal distribution per element of a latent (B, t, C, h, w).

    Attributes:
        mean: the mean, in the latent's own scale (the published model uses no scale or shift).
        logvar: the log variance, clamped to [-30, 20] on construction.

    Raises:
        ValueError: mean and logvar differ in shape, dtype or device, or are not floating point.
    """

    mean: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        mean, logvar = self.mean, self.logvar
        for name in ("shape", "dtype", "device"):
            if getattr(mean, name) != getattr(logvar, name):
                raise ValueError(
                    f"mean and logvar must agree in {name}: "
                    f"{getattr(mean, name)} and {getattr(logvar, name)}."
                )
        if not mean.is_floating_point():
            raise ValueError(f"mean and logvar must be floating point, not {mean.dtype}.")
        object.__setattr__(self, "logvar", logvar.clamp(LOGVAR_MIN, LOGVAR_MAX))

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """Split an encoder's output (B, t, 2C, h, w): the mean comes first, then the logvar.

        Raises:
            ValueError: moments is not five-dimensional, or axis 2 is odd or empty.
        """
        if moments.ndim != 5 or moments.shape[2] == 0 or moments.shape[2] % 2:
            raise ValueError(
                "moments must have shape (B, t, 2C, h, w) with an even number of channels on "
                f"axis 2, not {tuple(moments.shape)}."
            )
        mean, logvar = moments.chunk(2, dim=2)
        return cls(mean.contiguous(), logvar.contiguous())

    @property
    def std(self) -> Tensor:
        """The standard deviation, exp(logvar / 2)."""
        return torch.exp(self.logvar * 0.5)

    def mode(self) -> Tensor:
        """The most probable latent: the mean."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """mean + std * noise, the noise drawn once for the whole latent.

        The noise is standard normal, drawn in float32 on the latent's device and then cast to its
        dtype, as the reference does. With ``generator`` (of the latent's device) the global random
        state is neither read nor advanced; without, the global state of that device is used.
        """
        noise = torch.randn(
            self.mean.shape, generator=generator, dtype=torch.float32, device=self.mean.device
        )
        return self.mean + self.std * noise.to(self.mean.dtype)
