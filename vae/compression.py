"""What a latent stands for, by version of the model; needs no torch."""

from dataclasses import dataclass

WINDOW_FRAMES = 17
"""Frames that are encoded together, independently of all others."""


@dataclass(frozen=True)
class Compression:
    """What a latent stands for.

    Attributes:
        temporal: frames per latent frame behind the first of a window: k latent frames of a window
            are ``temporal * (k - 1) + 1`` frames.
        spatial: pixels per latent position, in height and in width.
    """

    temporal: int
    spatial: int

    @property
    def window_latents(self) -> int:
        """Latent frames of a full window of 17 frames."""
        return (WINDOW_FRAMES - 1) // self.temporal + 1

    @property
    def partial_windows(self) -> tuple[int, ...]:
        """Lengths of the short windows of which every frame reaches a latent."""
        return tuple(range(1, WINDOW_FRAMES, self.temporal))


VERSION_1 = Compression(temporal=4, spatial=8)
VERSION_2 = Compression(temporal=8, spatial=16)

COMPRESSIONS = {1: VERSION_1, 2: VERSION_2}
"""By version of the model."""
