"""A window in slices of time: what a convolution keeps of one slice for the next.

All activations are (B, C, T, H, W) with the memory order of ``torch.channels_last_3d``, so that
the frames of one window lie one after another, each with its channels together.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

LAYOUT = torch.channels_last_3d


class Stream:
    """The passage of one window (or a batch of windows) through a model, slice by slice.

    ``last`` tells the modules that no slice follows, so that nothing need be kept. It is set from
    the start, for windows that come whole; who cuts a window into slices sets it for each.
    """

    def __init__(self) -> None:
        self.last = True
        self._kept: dict[nn.Module, Tensor] = {}

    def take(self, module: nn.Module) -> Tensor | None:
        """The frames that ``module`` kept of the slices before; None at the first slice."""
        return self._kept.pop(module, None)

    def keep(self, module: nn.Module, frames: Tensor) -> None:
        """Hold ``frames`` (no copy) for the next slice of ``module``; not at the last slice."""
        if not self.last:
            self._kept[module] = frames


def time_slices(frames: int, size: int | None) -> Iterator[slice]:
    """Cut ``frames`` into the first frame by itself, and then slices of ``size`` (None: the rest).

    The first frame has nothing but zeros before it, so that its convolutions need one tap in
    time of three; and it alone fills the first output of every stride of two.
    """
    yield slice(0, 1)
    step = size or frames
    for first in range(1, frames, step):
        yield slice(first, min(first + step, frames))


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised activation (B, C, T, H, W) in our memory order, of the kind of ``like``."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=LAYOUT)


def in_layout(x: Tensor) -> Tensor:
    """A convolution's output (B, C, T, H, W) in our memory order, which it has unless it is tiny.

    On the meta device convolutions claim another order than on real ones, where none is moved.
    """
    if not x.is_meta:
        return x.contiguous(memory_format=LAYOUT)
    _, c, t, h, w = x.shape
    return x.as_strided(x.shape, (t * h * w * c, 1, h * w * c, w * c, c))


def as_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B*T, C, H, W) over the same memory; no copy, or an error."""
    b, c, t, h, w = x.shape
    frames = x.permute(0, 2, 3, 4, 1).view(b * t, h, w, c)
    # Axes of length 1 may have any stride, and torch's kernels look at those too.
    outer = frames.stride(0) if b * t > 1 else h * w * c
    return frames.as_strided((b * t, c, h, w), (outer, 1, w * c, c))


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, T, H, W) → (B, T*H*W, C) over the same memory; no copy, or an error."""
    b, c, t, h, w = x.shape
    return x.permute(0, 2, 3, 4, 1).view(b, t * h * w, c)
