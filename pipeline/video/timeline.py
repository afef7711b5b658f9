"""Which source frame each output frame shows: exact arithmetic on timestamps."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol


def seconds(value: float) -> Fraction:
    """A time as the decimal number that it is written as: 0.1 is one tenth."""
    return Fraction(repr(float(value)))


class Timeline(Protocol):
    """Output frames of one clip, in terms of the video's timestamps (ticks)."""

    def shown(self, pts: int, following: int | None) -> range:
        """Indices of the output frames that show the source frame at ``pts``.

        Args:
            pts: its timestamp.
            following: timestamp of the frame after it; None if it is the last.
        """

    def ended(self, pts: int, following: int | None) -> int | None:
        """Exact number of output frames, once the frame at ``pts`` and what follows tell it."""

    def needed(self, index: int) -> int:
        """Decoding must begin with a frame at or before this timestamp for output ``index``."""


class ResampledTimeline:
    """Output frame ``k`` shows the last source frame with ``pts <= origin + k / fps``.

    It exists while that time is not past the last source frame, and before ``end``.
    """

    def __init__(
        self,
        origin: int,
        time_base: Fraction,
        fps: Fraction,
        start: float | None,
        end: float | None,
    ) -> None:
        """All times in seconds after the frame at ``origin`` (ticks of ``time_base``)."""
        begin = seconds(start or 0.0)
        # Output index of a timestamp as a fraction: (pts - origin) * time_base * fps - begin * fps
        scale, shift = time_base * fps, begin * fps
        self._denominator = math.lcm(scale.denominator, shift.denominator)
        self._scale = scale.numerator * (self._denominator // scale.denominator)
        self._shift = shift.numerator * (self._denominator // shift.denominator)
        self._origin = origin
        self._limit = None if end is None else math.ceil((seconds(end) - begin) * fps)

    def shown(self, pts: int, following: int | None) -> range:
        """See ``Timeline``."""
        first = max(0, self._ceil(pts))
        stop = self._floor(pts) + 1 if following is None else self._ceil(following)
        if self._limit is not None:
            stop = min(stop, self._limit)
        return range(first, max(first, stop))

    def ended(self, pts: int, following: int | None) -> int | None:
        """See ``Timeline``."""
        if following is None:
            total = max(0, self._floor(pts) + 1)
            return total if self._limit is None else min(total, self._limit)
        if self._limit is not None and self._ceil(following) >= self._limit:
            return self._limit
        return None

    def needed(self, index: int) -> int:
        """See ``Timeline``."""
        return self._origin + (index * self._denominator + self._shift) // self._scale

    def _ceil(self, pts: int) -> int:
        return -((self._shift - (pts - self._origin) * self._scale) // self._denominator)

    def _floor(self, pts: int) -> int:
        return ((pts - self._origin) * self._scale - self._shift) // self._denominator


class OwnTimeline:
    """Output frames are the source frames with ``start <= pts < end``, counted.

    Without a table of all timestamps it counts the frames that it is shown, so it must be shown
    every frame from the clip's start on; with one it knows the index of any frame.
    """

    def __init__(
        self,
        origin: int,
        time_base: Fraction,
        start: float | None,
        end: float | None,
        table: Sequence[int] | None,
    ) -> None:
        """``table`` holds the timestamps of all frames of the video, ascending."""
        self._start = origin + math.ceil(seconds(start or 0.0) / time_base)
        self._end = None if end is None else origin + math.ceil(seconds(end) / time_base)
        self._table = table
        self._base = 0 if table is None else bisect_left(table, self._start)
        self._counted = 0

    def shown(self, pts: int, following: int | None) -> range:
        """See ``Timeline``; each frame is to be passed once."""
        if pts < self._start or (self._end is not None and pts >= self._end):
            return range(0)
        index = self._counted
        if self._table is not None:
            index = bisect_left(self._table, pts) - self._base
        self._counted = index + 1
        return range(index, index + 1)

    def ended(self, pts: int, following: int | None) -> int | None:
        """See ``Timeline``; to be asked after ``shown`` for the same frame."""
        if following is not None and (self._end is None or following < self._end):
            return None
        if self._table is not None and self._counted == 0:
            # The frames shown began behind the clip: the table alone knows how many it has.
            end = len(self._table) if self._end is None else bisect_left(self._table, self._end)
            return max(0, end - self._base)
        return self._counted

    def needed(self, index: int) -> int:
        """See ``Timeline``."""
        if index == 0 or self._table is None:
            return self._start
        # Behind the last frame: the last one, so that the end of the data is seen.
        return self._table[min(self._base + index, len(self._table) - 1)]
