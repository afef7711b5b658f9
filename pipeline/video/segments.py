"""Collects output frames of one clip into windows, and windows into segments."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline.buckets import Geometry
from pipeline.video.clips import Segment
from pipeline.video.convert import SharedFrame
from pipeline.windows import WINDOW_FRAMES, WindowGrid


@dataclass
class _Buffer:
    """Windows of a segment in the making; the arrays are as long as it may become."""

    frames: npt.NDArray[np.uint8]
    pts: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    complete: int = 0


@dataclass
class _Lane:
    """One target of a range: its segments in the making, by number."""

    geometry: Geometry
    length: int
    open: dict[int, _Buffer] = field(default_factory=dict)


class RangeAssembler:
    """One range of windows of one clip, at all its targets.

    Output frames are put in ascending order without gaps, from ``first_needed`` at the latest.
    """

    def __init__(
        self,
        key: str,
        first: int,
        stop: int | None,
        lanes: list[tuple[Geometry, int]],
        grid: WindowGrid,
        time_base: Fraction,
        fps: float,
        empty: Callable[[tuple[int, ...]], npt.NDArray[np.uint8]],
    ) -> None:
        """``lanes`` holds the geometry and the windows per segment of each target.

        ``empty`` makes the array that frames of a segment are written into.
        """
        self._key = key
        self._first = first
        self._stop = stop
        self._grid = grid
        self._time_base = time_base
        self._fps = fps
        self._empty = empty
        self._lanes = [_Lane(geometry, length) for geometry, length in lanes]
        self._recent: deque[tuple[int, SharedFrame]] = deque(maxlen=WINDOW_FRAMES)
        self._ready: list[tuple[int, _Lane, int, _Buffer]] = []
        self._next: int | None = None
        self._windows = 0
        self._total: int | None = None
        self.first_needed = grid.first_frame_needed(first)

    @property
    def begun(self) -> bool:
        """Whether an output frame has been put."""
        return self._next is not None

    @property
    def next_needed(self) -> int:
        """The output frame to put next."""
        return self.first_needed if self._next is None else self._next

    @property
    def done(self) -> bool:
        """Whether no further output frame can change what is yielded."""
        if self._total is not None:
            return True
        full = self._stop is not None and self._first + self._windows >= self._stop
        return full and self.next_needed >= self._grid.min_frames

    def put(self, index: int, frame: SharedFrame) -> bool:
        """Output frame ``index`` shows ``frame``; whether a picture may be asked of it later.

        Raises:
            SourceError: the frame cannot be converted.
        """
        if index < self.next_needed:
            return False  # not needed, or decoded again behind a seek
        if index > self.next_needed:
            raise RuntimeError(f"output frame {index} was put in place of {self.next_needed}")
        self._next = index + 1
        if self._grid.tail == "overlap":
            self._recent.append((index, frame))
        stride = self._grid.stride
        lowest = max(self._first, -((WINDOW_FRAMES - 1 - index) // stride))
        highest = index // stride
        if self._stop is not None:
            highest = min(highest, self._stop - 1)
        for window in range(lowest, highest + 1):
            for lane in self._lanes:
                self._place(lane, window, index - window * stride, frame)
            if index - window * stride == WINDOW_FRAMES - 1:
                self._complete(window, window * stride, WINDOW_FRAMES)
        return self._grid.tail == "overlap" and lowest > highest and not self.done

    def finish(self, total: int) -> None:
        """The clip has ``total`` output frames, all of which were put as far as needed."""
        if self._total is not None:
            return
        self._total = total
        grid = self._grid
        window = grid.full(total)
        owned = window >= self._first and (self._stop is None or window < self._stop)
        if owned and grid.has_partial(total):
            start, valid = grid.span(window, total)
            shown = dict(self._recent) if grid.tail == "overlap" else {}
            for lane in self._lanes:
                for offset in range(WINDOW_FRAMES):
                    if grid.tail == "overlap":
                        self._place(lane, window, offset, shown[start + offset])
                    elif offset >= valid:
                        self._repeat(lane, window, offset, valid - 1)
            self._complete(window, start, valid)
        for lane in self._lanes:
            for number in sorted(lane.open):
                buffer = lane.open.pop(number)
                if buffer.complete:
                    self._ready.append((self._first + number * lane.length, lane, number, buffer))
        self._recent.clear()

    def drain(self) -> Iterator[Segment]:
        """Segments that are complete and may be shown, in order of completion."""
        known = self.next_needed if self._total is None else self._total
        if known < self._grid.min_frames:
            if self._total is not None:
                self._ready.clear()
            return
        windows = None if self._total is None else self._grid.count(self._total)
        ready, self._ready = self._ready, []
        for first, lane, _, buffer in ready:
            count = buffer.complete
            yield Segment(
                key=self._key,
                bucket=lane.geometry.bucket,
                first_window=first,
                frames=buffer.frames[:count],
                pts=buffer.pts[:count],
                valid_frames=buffer.valid[:count],
                first_frames=buffer.begin[:count],
                time_base=self._time_base,
                geometry=lane.geometry,
                fps=self._fps,
                last=first + count == windows,
            )

    def _place(self, lane: _Lane, window: int, offset: int, frame: SharedFrame) -> None:
        buffer, row = self._row(lane, window)
        buffer.frames[row, offset] = frame.rgb(lane.geometry)
        buffer.pts[row, offset] = frame.pts

    def _repeat(self, lane: _Lane, window: int, offset: int, source: int) -> None:
        buffer, row = self._row(lane, window)
        buffer.frames[row, offset] = buffer.frames[row, source]
        buffer.pts[row, offset] = buffer.pts[row, source]

    def _row(self, lane: _Lane, window: int) -> tuple[_Buffer, int]:
        """The buffer that ``window`` belongs to, and its place there."""
        number, row = divmod(window - self._first, lane.length)
        buffer = lane.open.get(number)
        if buffer is None:
            rows = lane.length
            if self._stop is not None:
                rows = min(rows, self._stop - self._first - number * lane.length)
            bucket = lane.geometry.bucket
            buffer = _Buffer(
                frames=self._empty((rows, WINDOW_FRAMES, bucket.height, bucket.width, 3)),
                pts=np.empty((rows, WINDOW_FRAMES), np.int64),
                valid=np.empty(rows, np.int64),
                begin=np.empty(rows, np.int64),
            )
            lane.open[number] = buffer
        return buffer, row

    def _complete(self, window: int, start: int, valid: int) -> None:
        """Window ``window``, from output frame ``start`` on, is whole; close what it fills."""
        self._windows += 1
        for lane in self._lanes:
            buffer, row = self._row(lane, window)
            buffer.valid[row] = valid
            buffer.begin[row] = start
            buffer.complete = row + 1
            if buffer.complete == len(buffer.valid):
                number = (window - self._first) // lane.length
                del lane.open[number]
                self._ready.append((self._first + number * lane.length, lane, number, buffer))
