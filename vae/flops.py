"""FLOPs of encoding a window, from the shapes of the layers alone: no torch is loaded for it."""

from __future__ import annotations

from itertools import pairwise

from vae.compression import WINDOW_FRAMES
from vae.config import LEVELS, VAEConfig

_KERNEL = 3
_FOLD = 2**3


def encoding_flops(config: VAEConfig, height: int, width: int, frames: int = WINDOW_FRAMES) -> int:
    """What ``encoding_cost(config, height, width, frames).flops`` counts, operator by operator."""
    # Version 2 takes the first frame by itself, whose convolutions have one tap in time.
    walk = _Walk([1, frames - 1] if config.version == 2 else [frames], height * width)
    walk.convolve(config.in_channels, config.encoder_ch)
    widths = pairwise((config.encoder_ch, *config.encoder_widths))
    for level, (before, channels) in enumerate(widths):
        if level == LEVELS - 1:
            walk.join()
        for index in range(config.num_res_blocks):
            walk.block(channels if index else before, channels)
        if level in config.encoder_spatiotemporal_down_levels:
            walk.halve(channels, time=True)
        elif level < LEVELS - 1:
            walk.halve(channels, time=False)
    top = config.encoder_widths[-1]
    walk.block(top, top)
    walk.attend(top)
    walk.block(top, top)
    if config.version == 2:
        walk.convolve(top, config.patch_channels // _FOLD)
        walk.fold()
        top = config.patch_channels
    walk.convolve(top, 2 * config.z_channels)
    return walk.flops


class _Walk:
    """Counts along the layers: frames by slice of time, and positions of a frame."""

    def __init__(self, slices: list[int], positions: int) -> None:
        self.flops = 0
        self._slices, self._positions = slices, positions

    def _multiply(self, before: int, after: int, values: int) -> None:
        """So many values of ``after`` channels, each a sum over ``before`` channels."""
        self.flops += 2 * before * after * values

    def convolve(self, before: int, after: int) -> None:
        """A causal convolution of stride 1."""
        taps = sum(self._taps(n, frames) * frames for n, frames in enumerate(self._slices))
        self._multiply(before, after, taps * _KERNEL**2 * self._positions)

    def _taps(self, number: int, frames: int) -> int:
        """In time: nothing but zeros is before a first slice of one frame."""
        return 1 if number == 0 and frames == 1 else _KERNEL

    def block(self, before: int, after: int) -> None:
        """A residual block."""
        self.convolve(before, after)
        self.convolve(after, after)
        if before != after:
            self._multiply(before, after, sum(self._slices) * self._positions)

    def halve(self, channels: int, *, time: bool) -> None:
        """A convolution of stride 2 in height and width, and in time."""
        self._positions //= 4
        made, taps = self._slices, [1] * len(self._slices)
        if time:
            taps = [self._taps(n, frames) for n, frames in enumerate(self._slices)]
            made = [(n + (index == 0)) // 2 for index, n in enumerate(self._slices)]
        values = sum(t * n for t, n in zip(taps, made, strict=True)) * self._positions
        self._multiply(channels, channels, values * _KERNEL**2)
        self._slices = made

    def join(self) -> None:
        """All slices as one."""
        self._slices = [sum(self._slices)]

    def attend(self, channels: int) -> None:
        """Attention of all positions, masked or not, and its four linear maps."""
        count = sum(self._slices) * self._positions
        self._multiply(channels, channels, 4 * count)
        self._multiply(channels, 2, count * count)

    def fold(self) -> None:
        """Blocks of 2x2x2 into channels, behind one frame of zeros."""
        self._slices = [(self._slices[0] + 1) // 2]
        self._positions //= 4
