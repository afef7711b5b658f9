"""What the header of a video or image says about it."""

import math
import sys
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Header:
    """What a container says of its video; counts and durations may be wrong.

    Attributes:
        width, height: display size in pixels: upright, after sample aspect ratio and rotation.
        fps: average frame rate, if there is one.
        frames: number of frames, if there is one.
        duration: seconds, if there are any.
    """

    width: int
    height: int
    fps: float | None
    frames: int | None
    duration: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``; unknown keys are refused.

        Raises:
            TypeError: a field is missing or unknown.
        """
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise TypeError(f"unknown facts: {', '.join(sorted(unknown))}")
        # One string for all equal ones: a plan may hold millions of facts.
        one: dict[str, Any]
        one = {k: sys.intern(v) if isinstance(v, str) else v for k, v in values.items()}
        return cls(**one)

    def estimated_frames(
        self, fps: Fraction | None, start: float | None, end: float | None
    ) -> int | None:
        """Output frames to expect between ``start`` and ``end``, or None if unknown.

        A forecast from the header's figures, good for planning and for nothing else.

        Args:
            fps: output frames per second, or None for the source's own frames.
            start: seconds after the first frame, or None for the beginning.
            end: seconds after the first frame (not included), or None for the whole length.
        """
        begin = start or 0.0
        rate = self.fps if self.fps and self.fps > 0 else None
        if fps is None and start is None and end is None and self.frames is not None:
            return self.frames
        length = self._length(rate)
        if length is None:
            return None
        stop = length if end is None else min(end, length)
        if stop <= begin:
            return 0
        if fps is not None:
            # Frame k exists while its time is not past the last frame, one source frame short
            # of the length, and before the end.
            last = length - (1 / rate if rate else 0.0)
            exact = math.floor(max(0.0, last - begin) * fps + 1e-9) + 1
            return exact if end is None else min(exact, math.ceil((end - begin) * fps - 1e-9))
        if rate is None:
            return None
        return math.ceil(stop * rate - 1e-6) - math.ceil(begin * rate - 1e-6)

    def _length(self, rate: float | None) -> float | None:
        """Seconds of video: from the frame count where there is one, else the duration."""
        if self.frames is not None and rate is not None:
            return self.frames / rate
        return self.duration


@dataclass(frozen=True, slots=True)
class VideoFacts(Header):
    """Facts from a file's header and its first frame, of a video or a still image.

    Attributes:
        coded_width, coded_height: size of a decoded frame in pixels.
        sar_num, sar_den: sample aspect ratio (width to height of a pixel), 1:1 if unspecified.
        rotation: degrees counter-clockwise that turn a decoded frame upright: 0, 90, 180 or 270.
        codec, pixel_format, container: FFmpeg's names.
        time_base_num, time_base_den: seconds per tick of a timestamp.
        origin: timestamp (ticks) of the first frame that the decoder shows.
        is_image: whether the file is a still image.
    """

    coded_width: int
    coded_height: int
    sar_num: int
    sar_den: int
    rotation: int
    codec: str
    pixel_format: str
    container: str
    time_base_num: int
    time_base_den: int
    origin: int
    is_image: bool

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of a timestamp."""
        return Fraction(self.time_base_num, self.time_base_den)

    def estimated_frames(
        self, fps: Fraction | None, start: float | None, end: float | None
    ) -> int | None:
        """As of a header; an image is one frame."""
        return 1 if self.is_image else Header.estimated_frames(self, fps, start, end)
