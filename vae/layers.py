"""Building blocks of the published Step-Video-T2V VAE.

Activations are (B, C, T, H, W) in the memory order of ``torch.channels_last_3d`` and come in slices
of time (:mod:`vae.stream`). Module and parameter names are those of the published checkpoint,
which is why some convolutions sit one or two levels deep under the name ``conv``.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.device import on_cpu
from vae.norms import GroupNorm, NormFactory
from vae.stream import Stream, as_tokens, empty, in_layout


class CausalConv3d(nn.Module):
    """3-D convolution that sees no later frame: (B, Cin, T, H, W) → (B, Cout, T', H', W').

    All padding is zeros: ``kernel - 1`` frames in front and none behind, ``kernel // 2`` pixels on
    every spatial side, also with stride 2. So T' = ceil(T / stride), H' = ceil(H / stride).

    The input is a buffer with room for the frames in front, which its producer fills
    (:meth:`open`), and which :meth:`forward` convolves. A first slice of one frame has zeros
    alone before it: it takes a 2-D convolution with the last tap in time.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        made = nn.Conv3d(in_channels, out_channels, kernel)
        self.weight, self.bias = made.weight, cast(nn.Parameter, made.bias)
        self.kernel, self.stride, self.side = kernel, stride, kernel // 2

    def open(self, shape: tuple[int, ...], like: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """A buffer for the next slice, of ``shape`` (B, Cin, T, H, W), and its part to be filled.

        The frames before the slice (kept ones, else zeros) are in the buffer already.
        """
        batch, channels, frames, height, width = shape
        kept = stream.take(self)
        if kept is None and frames == 1:
            buffer = empty(shape, like)
            return buffer, buffer
        held = 0 if kept is None else kept.shape[2]
        front = held if kept is not None and self.stride > 1 else self.kernel - 1
        buffer = empty((batch, channels, front + frames, height, width), like)
        buffer[:, :, : front - held].zero_()
        if kept is not None:
            buffer[:, :, front - held : front].copy_(kept)
        return buffer, buffer[:, :, front:]

    def forward(
        self,
        buffer: Tensor,
        stream: Stream,
        *,
        bias: Tensor | None = None,
        channels: int | None = None,
    ) -> Tensor:
        """Convolve an opened and filled buffer.

        With stride 2 a slice may give no frame: the result then has T' = 0. ``bias`` stands in for
        our own; ``channels``: only the first so many of the output.
        """
        bias = (self.bias if bias is None else bias)[:channels]
        weight = self.weight[:channels]
        frames, step, side = buffer.shape[2], self.stride, self.side
        if frames == 1:
            stream.keep(self, buffer)
            image = convolution(buffer[:, :, 0], weight[:, :, -1], bias, step, side)
            return in_layout(image.unsqueeze(2))
        made = (frames - self.kernel) // step + 1
        if not stream.last:
            rest = buffer[:, :, made * step :]
            stream.keep(self, empty(tuple(rest.shape), buffer).copy_(rest))
        if made == 0:
            return buffer.new_empty((buffer.shape[0], len(weight), 0, 1, 1))
        return in_layout(convolution(buffer, weight, bias, step, side))

    def convolve(self, x: Tensor, stream: Stream) -> Tensor:
        """Convolve frames that lie elsewhere: they are copied into a buffer."""
        buffer, inner = self.open(tuple(x.shape), x, stream)
        inner.copy_(x)
        out: Tensor = self(buffer, stream)
        return out

    def activated(self, norm: GroupNorm, x: Tensor, stream: Stream) -> Tensor:
        """An opened buffer filled with silu(norm(x))."""
        buffer, inner = self.open(tuple(x.shape), x, stream)
        norm.write(x, inner, silu=True)
        return buffer


def convolution(x: Tensor, weight: Tensor, bias: Tensor, step: int = 1, side: int = 0) -> Tensor:
    """A 2-D or 3-D convolution, padded with ``side`` zeros in height and width alone.

    On the CPU oneDNN is asked for by name: torch leaves it aside where channels × frames × rows
    are few, and takes a kernel that is four to ten times slower for narrow inputs such as RGB.
    Halves are widened to float32 there, as accelerators accumulate, for want of a fast kernel.
    """
    space = x.ndim - 2
    padding = (0, side, side)[-space:]
    plain = F.conv3d if space == 3 else F.conv2d
    if not on_cpu(x) or x.element_size() > 4 or not _has_onednn():
        return plain(x, weight, bias, step, padding)
    if x.is_meta:
        return plain(x.float(), weight.float(), bias.float(), step, padding).to(x.dtype)
    onednn = torch.ops.aten.mkldnn_convolution
    wide = (tensor.float() for tensor in (x, weight, bias))
    return cast(Tensor, onednn(*wide, padding, (step,) * space, (1,) * space, 1).to(x.dtype))


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


class Opener(Protocol):
    """What opens buffers to be filled, as :meth:`CausalConv3d.open` does."""

    def open(self, shape: tuple[int, ...], like: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """The buffer, and its part to be filled."""
        ...


class Conv(nn.Module):
    """A :class:`CausalConv3d` under the name ``conv``, as most of the checkpoint's are."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels, kernel, stride)


class Pointwise(nn.Module):
    """A 1x1x1 convolution: a linear map of the channels of every position.

    Its parameters are a :class:`CausalConv3d`'s under the name ``conv``.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = CausalConv3d(in_channels, out_channels, kernel=1)

    @property
    def matrix(self) -> Tensor:
        """The weight as (Cout, Cin)."""
        return self.conv.weight.flatten(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., Cin) → (..., Cout)."""
        return F.linear(tokens, self.matrix, self.conv.bias)


class ResBlock(nn.Module):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))), where the channels may change."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = Conv(in_channels, out_channels)
        self.norm2 = norm(out_channels)
        self.conv2 = Conv(out_channels, out_channels)
        self.nin_shortcut = (
            None if in_channels == out_channels else Pointwise(in_channels, out_channels)
        )

    def forward(self, x: Tensor, stream: Stream, into: Opener | None = None) -> Tensor:
        """The block's output; with ``into`` the buffer that it opened, filled with the output."""
        buffer = self.conv1.conv.activated(self.norm1, x, stream)
        h = self.conv1.conv(buffer, stream)
        del buffer
        buffer = self.conv2.conv.activated(self.norm2, h, stream)
        del h
        second, shortcut = self.conv2.conv, self.nin_shortcut
        bias = second.bias if shortcut is None else second.bias + shortcut.conv.bias
        h = second(buffer, stream, bias=bias)
        del buffer
        if shortcut is not None:
            flat = as_tokens(h).flatten(0, 1)
            flat.addmm_(as_tokens(x).flatten(0, 1), shortcut.matrix.t())
        buffer, inner = (h, h) if into is None else into.open(tuple(h.shape), h, stream)
        if shortcut is None:
            torch.add(h, x, out=inner)
        elif into is not None:
            inner.copy_(h)
        return buffer
