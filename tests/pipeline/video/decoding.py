"""Short ways to decode in tests, and a plain restatement of which windows a source has."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.buckets import Bucket
from pipeline.video.decode import (
    ClipEnd,
    ClipFailure,
    ClipRequest,
    FrameRecipe,
    Segment,
    Target,
    decode_clips,
)
from pipeline.video.limits import DecodeLimits
from pipeline.windows import WindowGrid

SMALL = Bucket(32, 48)
LIMITS = DecodeLimits()


def recipe(
    fps: Fraction | int | None = None,
    stride: int = 17,
    tail: str = "drop",
    resize: str = "stretch",
    kernel: str = "bicubic",
    min_frames: int = 1,
) -> FrameRecipe:
    grid = WindowGrid(stride, tail, min_frames)  # type: ignore[arg-type]
    rate = None if fps is None else Fraction(fps)
    return FrameRecipe(rate, grid, resize, kernel)  # type: ignore[arg-type]


def request(
    key: str = "clip",
    ranges: Sequence[tuple[int, int | None]] = ((0, None),),
    targets: Sequence[tuple[Bucket, int]] = ((SMALL, 2),),
    start: float | None = None,
    end: float | None = None,
    size: tuple[int, int] | None = None,
) -> ClipRequest:
    wanted = tuple(Target(bucket, count) for bucket, count in targets)
    return ClipRequest(key, start, end, tuple(ranges), wanted, size)


@dataclass(frozen=True)
class Window:
    """One window as it came out, for comparison."""

    frames: bytes
    pts: tuple[int, ...]
    valid: int


@dataclass
class Outcome:
    """Everything that one call yielded."""

    segments: list[Segment]
    ends: dict[str, ClipEnd]
    failures: dict[str, ClipFailure]

    def windows(self, key: str = "clip", bucket: Bucket = SMALL) -> dict[int, Window]:
        found: dict[int, Window] = {}
        for segment in self.segments:
            if (segment.key, segment.bucket) != (key, bucket):
                continue
            for row in range(len(segment.frames)):
                number = segment.first_window + row
                assert number not in found, f"window {number} came twice"
                found[number] = Window(
                    segment.frames[row].tobytes(),
                    tuple(segment.pts[row].tolist()),
                    int(segment.valid_frames[row]),
                )
        return found

    def pixels(self, key: str = "clip", bucket: Bucket = SMALL) -> np.ndarray:
        """uint8 (frames, height, width, 3): all windows one behind the other."""
        parts = [s.frames for s in self.segments if (s.key, s.bucket) == (key, bucket)]
        return np.concatenate(parts).reshape(-1, bucket.height, bucket.width, 3)


def decode(
    path: Path,
    requests: ClipRequest | Sequence[ClipRequest],
    how: FrameRecipe,
    limits: DecodeLimits = LIMITS,
) -> Outcome:
    wanted = [requests] if isinstance(requests, ClipRequest) else list(requests)
    outcome = Outcome([], {}, {})
    with path.open("rb") as file:
        for result in decode_clips(file, wanted, how, limits):
            closed = outcome.ends.keys() | outcome.failures.keys()
            assert result.key not in closed, "nothing follows a clip's end or failure"
            if isinstance(result, Segment):
                outcome.segments.append(result)
            elif isinstance(result, ClipEnd):
                outcome.ends[result.key] = result
            else:
                outcome.failures[result.key] = result
    return outcome


def expected_windows(frames: int, stride: int, tail: str) -> list[tuple[int, int]]:
    """First frame and real frames of every window, by walking along the frames."""
    found = []
    start = 0
    while start + 17 <= frames:
        found.append((start, 17))
        start += stride
    behind = found[-1][0] + 17 if found else 0
    if behind < frames and start < frames:
        if tail == "pad":
            found.append((start, frames - start))
        elif tail == "overlap" and frames >= 17:
            found.append((frames - 17, 17))
    return found


def shown_frames(
    pts: Sequence[int], time_base: Fraction, fps: Fraction, start: Fraction, end: Fraction | None
) -> list[int]:
    """Source frame of each output frame, found by trying one after the other."""
    found: list[int] = []
    while True:
        since = start + len(found) / fps
        time = pts[0] * time_base + since
        if time > pts[-1] * time_base or (end is not None and since >= end):
            return found
        found.append(max(i for i, p in enumerate(pts) if p * time_base <= time))
