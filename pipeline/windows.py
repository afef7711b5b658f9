"""Where the windows of a source lie: integer arithmetic on output frames, and nothing else.

A window is ``WINDOW_FRAMES`` consecutive output frames. Full windows start at ``index * stride``;
frames left over behind the last full window are its *tail*, and the tail policy says what becomes
of them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

WINDOW_FRAMES = 17
"""Frames of a video window; an image is a window of one frame."""

TailPolicy = Literal["drop", "pad", "overlap"]
"""What becomes of frames behind the last full window: left out, completed by repeating the last
frame, or covered by a window that ends at the last frame."""


@dataclass(frozen=True)
class WindowGrid:
    """The grid that windows of a source sit on.

    Attributes:
        stride: output frames between the starts of consecutive windows, at least 1.
        tail: what becomes of the frames behind the last full window.
        min_frames: a source with fewer output frames has no window at all, at least 1.
    """

    stride: int = WINDOW_FRAMES
    tail: TailPolicy = "drop"
    min_frames: int = 1

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")
        if self.min_frames < 1:
            raise ValueError(f"min_frames must be at least 1, got {self.min_frames}")
        if self.tail not in get_args(TailPolicy):
            raise ValueError(f"tail must be one of {get_args(TailPolicy)}, got {self.tail!r}")

    def full(self, frames: int) -> int:
        """Number of full windows in ``frames`` output frames."""
        return 0 if frames < WINDOW_FRAMES else (frames - WINDOW_FRAMES) // self.stride + 1

    def covered(self, frames: int) -> int:
        """Output frames up to the end of the last full window; 0 without one."""
        full = self.full(frames)
        return 0 if full == 0 else (full - 1) * self.stride + WINDOW_FRAMES

    def tail_start(self, frames: int) -> int:
        """First output frame of the window behind the last full one."""
        return self.full(frames) * self.stride

    def has_tail(self, frames: int) -> bool:
        """Whether output frames are left that a window behind the last full one would reach."""
        return self.covered(frames) < frames and self.tail_start(frames) < frames

    def has_partial(self, frames: int) -> bool:
        """Whether the tail policy adds the window with index ``full(frames)``."""
        if frames < self.min_frames or not self.has_tail(frames):
            return False
        return self.tail == "pad" or (self.tail == "overlap" and frames >= WINDOW_FRAMES)

    def count(self, frames: int) -> int:
        """Number of windows of a source of ``frames`` output frames."""
        if frames < self.min_frames:
            return 0
        return self.full(frames) + int(self.has_partial(frames))

    def span(self, index: int, frames: int) -> tuple[int, int]:
        """First output frame and number of real frames of window ``index``.

        The number is ``WINDOW_FRAMES``, or fewer for a padded window.

        Raises:
            IndexError: a source of ``frames`` output frames has no such window.
        """
        if not 0 <= index < self.count(frames):
            raise IndexError(f"window {index} of {self.count(frames)} ({frames} frames)")
        if index < self.full(frames):
            return index * self.stride, WINDOW_FRAMES
        if self.tail == "overlap":
            return frames - WINDOW_FRAMES, WINDOW_FRAMES
        start = self.tail_start(frames)
        return start, frames - start

    def first_frame_needed(self, index: int) -> int:
        """Earliest output frame that window ``index`` may show, whatever the source's length.

        That is its start on the grid, or up to 16 frames earlier where an ``overlap`` window
        may take its place.
        """
        start = index * self.stride
        if self.tail != "overlap":
            return start
        # Window `index` is the partial one when start < frames < start + 17, and then begins at
        # frames - 17; frames exceeds the end of the window before, and is at least 17.
        least = max(start + 1, WINDOW_FRAMES)
        if index > 0:
            least = max(least, start - self.stride + WINDOW_FRAMES + 1)
        return min(start, least - WINDOW_FRAMES)
