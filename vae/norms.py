"""Group norms of both versions, and how their results reach the next convolution's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.config import VAEConfig
from vae.device import on_cpu
from vae.stream import as_frames, as_tokens

Place = tuple[slice, ...]
"""A part of an activation (B, C, T, H, W), by its leading axes."""

CHUNK_BYTES = 32 * 2**20
"""Frames go to a device's kernel in runs of about this size (one frame at the least), which bounds
what a norm takes beside its input and output."""

SUMMED_ROWS = 16
"""Values that are summed one by one, at the most, for the statistics of a norm."""


class Fused(Protocol):
    """What :func:`norm_into` does, as one kernel."""

    def __call__(
        self,
        x: Tensor,
        out: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        silu: bool,
    ) -> None:
        """Write the norm of x to out."""
        ...


class GroupNorm(nn.GroupNorm, ABC):
    """A group norm, affine, with biased variance, that writes to where its result is needed."""

    fused: Fused | None = None
    """Stands in for the operators of torch where it is set."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name of the base class)
        """(B, C, T, H, W) → the same shape and memory order."""
        out = torch.empty_like(input)
        self.write(input, out)
        return out

    def write(self, x: Tensor, out: Tensor, silu: bool = False) -> None:
        """Write norm(x), or silu(norm(x)), to ``out``: x itself, or a tensor of its shape whose
        frames are dense."""
        if self.fused is not None and out is not x:  # compilers do not take such pairs well
            # Parameters and views would make kernels of their own by channels, and by their bases.
            weight, bias = self.weight.data, self.bias.data
            for rows, into in zip(self.as_spans(x), self.as_spans(out), strict=True):
                self.fused(rows.data, into.data, weight, bias, self.num_groups, self.eps, silu)
            return
        if on_cpu(x):
            spans = list(self.spans(x))
            for place in spans[:1] if x.is_meta else spans:  # of memory one takes what another does
                self._write_rows(as_tokens(x[place])[0], as_tokens(out[place])[0], silu)
            return
        for place, part in self.normed(x):
            if silu:
                torch.ops.aten.silu.out(part, out=out[place])
            else:
                out[place].copy_(part)

    @abstractmethod
    def spans(self, x: Tensor) -> Iterator[Place]:
        """The parts of x that share statistics."""

    @abstractmethod
    def as_spans(self, x: Tensor) -> list[Tensor]:
        """(B, C, T, H, W) → parts (spans, positions of a span, C) over the same memory."""

    @abstractmethod
    def normed(self, x: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """Parts of norm(x), by torch's kernel, and their places."""

    def _kernel(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _write_rows(self, rows: Tensor, out: Tensor, silu: bool) -> None:
        """Norm positions (n, C) that share statistics, in float32 at the least.

        Torch's own kernel for this memory order loses digits on the CPU: it sums one by one, and
        takes the variance as E[x²] - E[x]², which flat frames do not survive.
        """
        wide = rows if rows.element_size() > 2 else rows.float()
        into = out if wide is rows else wide
        grouped = (self.num_groups, -1)
        mean, var = (each.view(grouped) for each in channel_statistics(wide))
        center = mean.mean(1, keepdim=True)
        spread = (var + (mean - center).square()).mean(1, keepdim=True)
        scale = self.weight.to(wide.dtype).view(grouped) * (spread + self.eps).rsqrt()
        shift = self.bias.to(wide.dtype).view(grouped) - center * scale
        torch.addcmul(shift.flatten(), wide, scale.flatten(), out=into)
        if silu:
            F.silu(into, inplace=True)
        if into is not out:
            out.copy_(into)


def channel_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the rows of (n, C).

    The batch norm kernel takes both in two passes, but sums one by one. So it gets few long rows,
    whose statistics are joined by the law of total variance.
    """
    n, channels = rows.shape
    if rows.is_meta:  # for which torch has no batch norm
        return rows.new_empty(channels), rows.new_empty(channels)
    few = next(k for k in range(SUMMED_ROWS, 0, -1) if n % k == 0)
    means, squares = torch.batch_norm_update_stats(rows.view(few, -1), None, None, 0.0)
    means, squares = means.view(-1, channels), squares.view(-1, channels)
    mean = means.mean(0)
    return mean, squares.mean(0) + (means - mean).square_().mean(0)


class FrameGroupNorm(GroupNorm):
    """Statistics over one frame: (C / groups, H, W).

    Version 2 norms every frame by itself, which keeps the model causal in time.
    """

    def spans(self, x: Tensor) -> Iterator[Place]:
        """One frame after another."""
        for window in range(x.shape[0]):
            for frame in range(x.shape[2]):
                yield slice(window, window + 1), slice(None), slice(frame, frame + 1)

    def as_spans(self, x: Tensor) -> list[Tensor]:
        """The frames of each window, or all images together."""
        b, c, t, h, w = x.shape
        frames = x.permute(0, 2, 3, 4, 1).view(b, t, h * w, c)
        return [frames[:, 0]] if t == 1 else list(frames)

    def normed(self, x: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """Runs of frames of one window, or runs of images."""
        batch, channels, frames, height, width = x.shape
        run = max(1, CHUNK_BYTES // (channels * height * width * x.element_size()))
        if frames == 1:
            for first in range(0, batch, run):
                place: Place = (slice(first, first + run),)
                yield place, self._kernel(as_frames(x[place])).unsqueeze(2)
            return
        for window in range(batch):
            for first in range(0, frames, run):
                place = (slice(window, window + 1), slice(None), slice(first, first + run))
                yield place, self._kernel(as_frames(x[place])).transpose(0, 1).unsqueeze(0)


class WindowGroupNorm(GroupNorm):
    """Statistics over the whole window: (C / groups, T, H, W), as in version 1."""

    def spans(self, x: Tensor) -> Iterator[Place]:
        """One window after another."""
        for window in range(x.shape[0]):
            yield (slice(window, window + 1),)

    def as_spans(self, x: Tensor) -> list[Tensor]:
        """All windows together."""
        return [as_tokens(x)]

    def normed(self, x: Tensor) -> Iterator[tuple[Place, Tensor]]:
        """One window after another."""
        for place in self.spans(x):
            yield place, self._kernel(x[place])


def norm_into(
    x: Tensor, out: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> None:
    """Write the group norm of x (spans, positions, C), or SiLU of it, to ``out``, in float32.

    Plain operators for ``torch.compile``, which makes one kernel of them: it reads x twice, writes
    ``out`` once, and holds nothing beside them.
    """
    grouped = torch.unflatten(x.float(), -1, (groups, -1))
    var, mean = torch.var_mean(grouped, dim=(1, 3), correction=0, keepdim=True)
    y = ((grouped - mean) * (var + eps).rsqrt()).flatten(-2)
    y = y * weight.float() + bias.float()
    out.copy_(F.silu(y) if silu else y)


def compile_norms(model: nn.Module, backend: str) -> None:
    """Have all norms of a model take :func:`norm_into`, compiled for any size."""
    fused = torch.compile(norm_into, dynamic=True, backend=backend)
    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.fused = fused


NormFactory = Callable[[int], GroupNorm]
"""Makes the group norm of one model for a number of channels."""


def norm_factory(config: VAEConfig) -> NormFactory:
    """The norm of a version, a choice of each model: two models never share it."""
    kind = FrameGroupNorm if config.version == 2 else WindowGroupNorm
    return partial(kind, config.norm_groups, eps=config.norm_eps)
