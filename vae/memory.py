"""How windows are cut, in time and in the batch, so that their activations fit into memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Literal, cast, get_args

import torch
from torch.utils._python_dispatch import _disable_current_modes

from vae.compression import WINDOW_FRAMES
from vae.config import VAEConfig
from vae.cost import Cost, count_cost
from vae.decoder import Decoder
from vae.device import counting_for
from vae.encoder import Encoder
from vae.frames import check_window, latent_frames

Part = Literal["encoder", "decoder"]
"""Which half of the model works."""

SLICE_FRAMES = (8, 4, 2, 1)
"""Frames that a slice of time may have, after the first frame of a window. Larger ones cost less
traffic: the frames that convolutions keep are copied once a slice."""

CPU_BUDGET = 768 * 2**20
"""Bytes for activations where none are named, on the CPU: finer slices cost next to nothing there,
where convolutions take nearly all of the time."""

CPU_SURPLUS = 24 * 2**20
"""Bytes that libraries and freed small blocks take on the CPU beside what is counted."""

DEVICE_SHARE = 0.8
"""Share of an accelerator's free memory for activations where no bytes are named; the rest is for
the kernels' workspace and for fragments."""

MAX_ELEMENTS = 2**30
"""Elements of one activation at the most: beyond 2**31 kernels that count in 32 bits fail."""

_COUNTED_SIDE = 512
"""Height and width for which activations are counted; all of them grow with the area."""


@dataclass(frozen=True)
class MemoryPlan:
    """How windows of one size are taken within a budget, and why.

    Attributes:
        batch: windows of one call at the most.
        slice_frames: frames of a slice of time.
        budget: bytes that there are for activations.
        options: bytes at the peak for a single window, by frames of a slice; finer ones may be
            left out.
    """

    batch: int
    slice_frames: int
    budget: int
    options: Mapping[int, int]

    @property
    def peak_bytes(self) -> int:
        """Bytes that one window takes at its peak."""
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
            f"{self.budget / 1e6:,.0f} MB{verdict} (by frames of a slice: {ways}); "
            f"{self.batch} window(s) at once"
        )


def make_plan(
    config: VAEConfig,
    height: int,
    width: int,
    frames: int,
    dtype: torch.dtype,
    budget: int | None,
    *,
    part: Part = "encoder",
    device: torch.device | str = "cpu",
    all_options: bool = True,
) -> MemoryPlan:
    """The largest slices with which a window fits into ``budget`` bytes, else the smallest.

    ``height``, ``width`` and ``frames`` are those of the video, also for the decoder. Version 1 and
    images have one way only: they come whole. The batch is what then fits beside one another.
    ``budget``: None for :func:`default_budget`. Without ``all_options`` those that are finer than
    the plan's slices are left out; counting each takes a while at its first time.

    Raises:
        ValueError: an argument is not legal; the message names it, its value and what would be.
    """
    check_window(height, width, frames, config.compression)
    _check_bytes_and_dtype(budget, dtype)
    if part not in get_args(Part):
        raise ValueError(f"part={part!r} is unknown; use 'encoder' or 'decoder'.")
    sizes = SLICE_FRAMES if frames > 1 and config.version == 2 else SLICE_FRAMES[:1]
    device = torch.device(device)
    budget = default_budget(device) if budget is None else budget
    peaks, found = {}, None
    for size in sizes:
        need = _need(config, height * width, frames, dtype, size, part, device.type)
        peaks[size] = need.peak_bytes
        if found is None and (size == sizes[-1] or need.windows(budget) > 0):
            found = max(1, need.windows(budget)), size
            if not all_options:
                break
    assert found is not None
    return MemoryPlan(*found, budget, peaks)


def _check_bytes_and_dtype(budget: object, dtype: object) -> None:
    whole = isinstance(budget, Integral) and not isinstance(budget, bool)
    if budget is not None and not (whole and cast(int, budget) > 0):
        raise ValueError(
            f"budget={budget!r} must be a whole number of bytes of 1 or more, such as 3 * 10**9."
        )
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype!r} must be a floating point one, such as torch.bfloat16.")


@dataclass(frozen=True)
class _Need:
    """What windows take: by each weight that may be held at a peak, bytes however many there are,
    and bytes of each; and elements of each in its largest activation."""

    bytes_: tuple[tuple[int, int], ...]
    elements: int

    @property
    def peak_bytes(self) -> int:
        return max(fixed + each for fixed, each in self.bytes_)

    def windows(self, budget: int) -> int:
        """How many windows fit at once."""
        fitting = min((budget - fixed) // each for fixed, each in self.bytes_)
        return min(fitting, MAX_ELEMENTS // self.elements)


def _need(
    config: VAEConfig,
    pixels: int,
    frames: int,
    dtype: torch.dtype,
    slice_frames: int,
    part: Part,
    kind: str,
) -> _Need:
    """What windows of so many pixels a frame take on a device of this kind.

    While a convolution runs the CPU holds two copies of its weight, in the memory order of
    activations and in that of oneDNN, and the widened one of halves.
    """
    cost = counted(config, frames, dtype, slice_frames, part, kind)
    area = pixels / _COUNTED_SIDE**2
    copies = 3 if dtype.itemsize < 4 else 2
    bytes_ = tuple(
        (copies * weight + CPU_SURPLUS if kind == "cpu" else 0, max(1, round(alive * area)))
        for weight, alive in cost.alive_by_weight.items()
    )
    return _Need(bytes_, max(1, round(cost.largest_elements * area)))


def default_budget(device: torch.device, share: float = 1.0) -> int:
    """Bytes for activations on a device as it is now, where the caller names none.

    ``share``: the part of an accelerator that is this process's, in (0, 1]. What others have not
    taken yet of theirs is not counted as free.
    """
    if device.type == "meta":
        return sys.maxsize  # nothing is allocated
    if device.type != "cuda":
        return CPU_BUDGET
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    cached = torch.cuda.memory_reserved(device) - allocated
    return max(1, int(DEVICE_SHARE * min(free + cached, share * total - allocated)))


@lru_cache(maxsize=256)
def counted(
    config: VAEConfig,
    frames: int,
    dtype: torch.dtype,
    slice_frames: int,
    part: Part,
    kind: str,
) -> Cost:
    """Memory of one window of 512x512 pixels, from which that of any other size follows.

    It is counted the way of a device's ``kind``: the CPU widens halves to float32, and norms
    without a copy.
    """
    side = _COUNTED_SIDE
    cost_of = encoding_cost if part == "encoder" else decoding_cost
    with counting_for(kind):
        return cost_of.__wrapped__(config, side, side, frames, dtype, slice_frames)


@lru_cache(maxsize=256)
def encoding_cost(
    config: VAEConfig,
    height: int,
    width: int,
    frames: int = WINDOW_FRAMES,
    dtype: torch.dtype = torch.bfloat16,
    slice_frames: int | None = None,
) -> Cost:
    """Cost of encoding one window, counted without any data.

    Raises:
        ValueError: a size is not one of a window, or the dtype not floating point.
    """
    check_window(height, width, frames, config.compression)
    _check_bytes_and_dtype(None, dtype)
    with _unseen():
        encoder = Encoder(config).to(dtype)
        x = torch.empty(1, config.in_channels, frames, height, width, dtype=dtype)
        return count_cost(encoder, x, slice_frames)


@lru_cache(maxsize=256)
def decoding_cost(
    config: VAEConfig,
    height: int,
    width: int,
    frames: int = WINDOW_FRAMES,
    dtype: torch.dtype = torch.bfloat16,
    slice_frames: int | None = None,
) -> Cost:
    """Cost of decoding the latent of one window of these sizes, counted without any data.

    Raises:
        ValueError: as :func:`encoding_cost` does.
    """
    check_window(height, width, frames, config.compression)
    _check_bytes_and_dtype(None, dtype)
    scale = config.compression
    shape = latent_frames(frames, True, scale), height // scale.spatial, width // scale.spatial
    with _unseen():
        decoder = Decoder(config).to(dtype)
        z = torch.empty(1, config.z_channels, *shape, dtype=dtype)
        return count_cost(decoder, z, slice_frames)


@contextmanager
def _unseen() -> Iterator[None]:
    """Work on the meta device that others who watch operators at this moment do not see."""
    with _disable_current_modes(), torch.device("meta"):
        yield
