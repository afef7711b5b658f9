"""How a window is cut in time so that its activations fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from vae.config import VAEConfig
from vae.cost import Cost, count_cost
from vae.encoder import Encoder
from vae.frames import WINDOW_FRAMES

SLICE_FRAMES = (8, 4, 2, 1)
"""Frames that a slice of time may have, after the first frame of a window. Larger ones cost less
traffic: the frames that convolutions keep are copied once a slice."""


@dataclass(frozen=True)
class MemoryPlan:
    """How windows of one size are encoded within a budget, and why.

    Attributes:
        slice_frames: frames of a slice of time.
        budget: bytes that there are for activations.
        options: bytes of activations at their peak, by frames of a slice.
    """

    slice_frames: int
    budget: int
    options: Mapping[int, int]

    @property
    def peak_bytes(self) -> int:
        """Bytes that activations take at their peak."""
        return self.options[self.slice_frames]

    @property
    def fits(self) -> bool:
        """Whether the budget is kept; False: even the finest slices take more."""
        return self.peak_bytes <= self.budget

    def __str__(self) -> str:
        ways = ", ".join(f"{size}: {peak / 1e6:,.0f} MB" for size, peak in self.options.items())
        verdict = "" if self.fits else ", more than the budget and the least there is"
        return (
            f"slices of {self.slice_frames} frames take {self.peak_bytes / 1e6:,.0f} MB of "
            f"{self.budget / 1e6:,.0f} MB{verdict} (by frames of a slice: {ways})"
        )


def make_plan(
    config: VAEConfig, height: int, width: int, frames: int, dtype: torch.dtype, budget: int
) -> MemoryPlan:
    """The largest slices whose activations fit into ``budget`` bytes, else the smallest.

    Version 1 and images have one way only: they come whole.
    """
    sizes = SLICE_FRAMES if frames > 1 and config.version == 2 else SLICE_FRAMES[:1]
    options = {
        size: encoding_cost(config, height, width, frames, dtype, size).peak_bytes for size in sizes
    }
    size = next((size for size, peak in options.items() if peak <= budget), sizes[-1])
    return MemoryPlan(size, budget, options)


@lru_cache(maxsize=256)
def encoding_cost(
    config: VAEConfig,
    height: int,
    width: int,
    frames: int = WINDOW_FRAMES,
    dtype: torch.dtype = torch.bfloat16,
    slice_frames: int | None = None,
) -> Cost:
    """Cost of encoding one window, counted without any data."""
    with torch.device("meta"):
        encoder = Encoder(config).to(dtype)
        x = torch.empty(1, config.in_channels, frames, height, width, dtype=dtype)
    return count_cost(encoder, x, slice_frames)
