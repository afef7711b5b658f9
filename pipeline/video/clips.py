"""What is asked of a file, and what comes out of it."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.buckets import Bucket, Geometry, ResizeFilter, ResizePolicy
from pipeline.errors import Reason
from pipeline.video.facts import VideoFacts
from pipeline.windows import WINDOW_FRAMES, WindowGrid


@dataclass(frozen=True)
class Target:
    """One bucket that windows are wanted at, and how many make a segment (at least 1)."""

    bucket: Bucket
    segment_windows: int

    def __post_init__(self) -> None:
        if self.segment_windows < 1:
            raise ValueError(f"segment_windows must be at least 1, got {self.segment_windows}")


@dataclass(frozen=True)
class ClipRequest:
    """Windows wanted of one clip of a file.

    Attributes:
        key: the caller's name for the clip.
        start, end: seconds after the video's first frame, half open; None for its bounds. A
            number stands for its shortest decimal form: 0.1 is one tenth.
        ranges: windows wanted as ``(first, stop)``, ascending and disjoint; a ``stop`` of None,
            allowed in the last alone, means for as long as the data go on.
        targets: buckets wanted, each once.
        expected_size: display width and height on which the choice of buckets rests.
    """

    key: str
    start: float | None
    end: float | None
    ranges: tuple[tuple[int, int | None], ...]
    targets: tuple[Target, ...]
    expected_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        start = 0.0 if self.start is None else self.start
        if not (math.isfinite(start) and start >= 0):
            raise ValueError(f"clip {self.key!r}: start {self.start} is not a time")
        if self.end is not None and not (math.isfinite(self.end) and self.end > start):
            raise ValueError(f"clip {self.key!r}: end {self.end} is not behind start {start}")
        if not self.ranges or not self.targets:
            raise ValueError(f"clip {self.key!r} asks for no windows or no bucket")
        if len({target.bucket for target in self.targets}) != len(self.targets):
            raise ValueError(f"clip {self.key!r} names a bucket twice")
        floor: int | None = 0
        for first, stop in self.ranges:
            if floor is None or first < floor or (stop is not None and stop <= first):
                raise ValueError(f"clip {self.key!r}: ranges {self.ranges} are not in order")
            floor = stop


@dataclass(frozen=True)
class FrameRecipe:
    """How frames become windows.

    Attributes:
        fps: output frames per second, or None for the source's own frames.
        grid: where windows lie.
        resize: how pictures are fitted into a bucket.
        filter: the resampling kernel.
    """

    fps: Fraction | None
    grid: WindowGrid
    resize: ResizePolicy
    filter: ResizeFilter

    def __post_init__(self) -> None:
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}")


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive windows of one clip at one bucket.

    Attributes:
        key: the clip.
        bucket: their size.
        first_window: index of the first on the clip's grid.
        frames: uint8 ``(n, T, height, width, 3)`` RGB; T is 17, or 1 for an image.
        pts: int64 ``(n, T)``, timestamp (ticks of ``time_base``) of the source frame shown.
        valid_frames: int64 ``(n,)``, how many of the T frames are not repetitions for padding.
        first_frames: int64 ``(n,)``, the clip's output frame that each window begins with.
        time_base: seconds per tick.
        geometry: how pictures were fitted into the bucket.
        fps: output frames per second (the source's average where its own frames are kept; 0 if
            unknown).
        last: whether these windows end the clip.
    """

    key: str
    bucket: Bucket
    first_window: int
    frames: npt.NDArray[np.uint8] = field(repr=False)
    pts: npt.NDArray[np.int64] = field(repr=False)
    valid_frames: npt.NDArray[np.int64] = field(repr=False)
    first_frames: npt.NDArray[np.int64] = field(repr=False)
    time_base: Fraction
    geometry: Geometry
    fps: float
    last: bool

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.shape[1] not in (1, WINDOW_FRAMES):
            raise ValueError(f"frames have shape {self.frames.shape}, want (n, 17 or 1, h, w, 3)")
        count, length = self.frames.shape[:2]
        _check("frames", self.frames, (count, length, self.bucket.height, self.bucket.width, 3))
        _check("pts", self.pts, (count, length))
        _check("valid_frames", self.valid_frames, (count,))
        _check("first_frames", self.first_frames, (count,))
        if self.frames.dtype != np.uint8 or count < 1 or self.first_window < 0:
            raise ValueError(f"not a segment: {self!r}")
        if self.valid_frames.min() < 1 or self.valid_frames.max() > length:
            raise ValueError(f"valid_frames {self.valid_frames.tolist()} are not in 1..{length}")

    def __repr__(self) -> str:
        count, length = self.pts.shape
        return (
            f"Segment({self.key!r}, {self.bucket}, windows {self.first_window}.."
            f"{self.first_window + count - 1}, frames {self.frames.dtype}{self.frames.shape}, "
            f"{length} frames each, last={self.last})"
        )


def _check(name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, want {shape}")


@dataclass(frozen=True)
class ClipEnd:
    """The data of a clip ended, or its ``end`` was reached: the exact figures.

    Attributes:
        key: the clip.
        frames: output frames that it has.
        windows: windows that it has, wanted or not.
        facts: what the file's header says.
    """

    key: str
    frames: int
    windows: int
    facts: VideoFacts


@dataclass(frozen=True)
class ClipFailure:
    """A clip cannot be decoded (further); segments yielded before stay good.

    ``facts`` are what the file's header and first frame say, where these could be read.
    """

    key: str
    reason: Reason
    message: str
    facts: VideoFacts | None = None
