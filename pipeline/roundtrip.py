"""Windows of one clip through the VAE and back, one at a time, and what each loses."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.encode import pixels_to_input
from pipeline.errors import UserError
from pipeline.psnr import mean_squared_error, psnr
from pipeline.video.clips import Segment
from pipeline.video.facts import VideoFacts
from vae import AutoencoderKL
from vae.decoder import blend_borders


@dataclass(frozen=True)
class WindowScore:
    """What the VAE loses of one window.

    Attributes:
        window: its index.
        first_frame: the clip's output frame that it begins with.
        frames: how many of its frames are not repetitions for padding; only these count.
        seconds: when it begins, after the clip's first frame.
        psnr: decibels over pixels in [0, 1], the window decoded alone.
    """

    window: int
    first_frame: int
    frames: int
    seconds: float
    psnr: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return asdict(self) | {"seconds": round(self.seconds, 3), "psnr": finite(self.psnr)}


def finite(decibels: float) -> float | None:
    """Decibels as JSON takes them: None where nothing differs."""
    return round(decibels, 3) if math.isfinite(decibels) else None


@dataclass(eq=False)
class Window:
    """Frames of a window that no earlier one has shown.

    Attributes:
        first: output frame of the first.
        times: seconds after the clip's first frame, of each.
        given: uint8 ``(n, H, W, 3)``.
        decoded: float32 ``(n, 3, H, W)`` around [-1, 1], not clamped, on the CPU.
    """

    first: int
    times: list[Fraction]
    given: npt.NDArray[np.uint8]
    decoded: torch.Tensor


class RoundTrip:
    """Encodes and decodes windows of one clip; ``scores`` tells of those done."""

    def __init__(
        self,
        vae: AutoencoderKL,
        facts: VideoFacts,
        fps: Fraction | None,
        seed: int | None,
        scored: Callable[[WindowScore], None],
    ) -> None:
        """Prepare.

        Args:
            vae: the model, on its device.
            facts: of the clip.
            fps: output frames per second, or None for the clip's own frames.
            seed: draw the latents from the posterior; None takes its mean.
            scored: told of each window when it is done.
        """
        self.scores: list[WindowScore] = []
        self.shown = 0
        """Output frames shown so far, each once."""
        self._vae = vae
        self._scored = scored
        self._facts = facts
        self._fps = fps
        self._noise = None if seed is None else torch.Generator(vae.device).manual_seed(seed)

    def windows(self, segments: Iterable[Segment]) -> Iterator[Window]:
        """The frames of ``segments`` of one window each, in order, and what they decode to.

        Raises:
            UserError: what is decoded is not finite.
        """
        for segment in segments:
            valid, first = int(segment.valid_frames[0]), int(segment.first_frames[0])
            decoded = self._decoded(segment)[:valid]
            given, times = segment.frames[0, :valid], self._times(segment)[:valid]
            error = mean_squared_error(given, decoded.permute(0, 2, 3, 1).numpy())
            score = WindowScore(segment.first_window, first, valid, float(times[0]), psnr(error))
            self.scores.append(score)
            self._scored(score)
            seen = self.shown - first  # more than none where a last window overlaps
            self.shown = first + valid
            yield Window(first + seen, times[seen:], given[seen:], decoded[seen:])

    def _decoded(self, segment: Segment) -> torch.Tensor:
        frames = torch.from_numpy(segment.frames).to(self._vae.device)
        posterior = self._vae.posterior(pixels_to_input(frames, self._vae.dtype))
        latent = posterior.mean if self._noise is None else posterior.sample(self._noise)
        decoded = self._vae.decode(latent)[0].float().cpu()
        if not torch.isfinite(decoded).all():
            raise UserError(
                f"window {segment.first_window} decodes to NaN or infinity in {self._vae.dtype}; "
                "pass --dtype float32, or check the weights"
            )
        return decoded

    def _times(self, segment: Segment) -> list[Fraction]:
        if self._facts.is_image:
            return [Fraction(0)]
        if self._fps is not None:
            first = int(segment.first_frames[0])
            return [(first + k) / self._fps for k in range(len(segment.pts[0]))]
        ticks = segment.pts[0] - self._facts.origin
        return [int(tick) * segment.time_base for tick in ticks]


def blended(windows: Iterable[Window]) -> Iterator[Window]:
    """The same windows with their borders softened as ``AutoencoderKL.decode`` does in a clip.

    All windows but the last must show 17 frames. ``decoded`` is changed in place; no more than two
    windows are held.
    """
    held: Window | None = None
    for window in windows:
        if held is not None:
            both = torch.cat((held.decoded, window.decoded[:1]))
            blend_borders(both[None])
            held.decoded[-1], window.decoded[0] = both[-2], both[-1]
            yield held
        held = window
    if held is not None:
        yield held


def pixels(decoded: torch.Tensor) -> npt.NDArray[np.uint8]:
    """uint8 ``(n, H, W, 3)`` of decoded frames ``(n, 3, H, W)``: clamped, and rounded."""
    scaled = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()
