"""Decode clips of one file into segments of RGB windows: one forward sweep serves them all."""

from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence

from pipeline.errors import Reason, SourceError
from pipeline.video.clips import (
    ClipEnd,
    ClipFailure,
    ClipRequest,
    FrameRecipe,
    Segment,
    Target,
)
from pipeline.video.convert import Scaler, SharedFrame
from pipeline.video.facts import VideoFacts
from pipeline.video.files import ByteFile, GuardedFile
from pipeline.video.host import HERE, Host
from pipeline.video.image import is_image, read_image
from pipeline.video.image_clips import image_results
from pipeline.video.limits import DecodeLimits
from pipeline.video.placing import geometries
from pipeline.video.segments import RangeAssembler
from pipeline.video.source import FrameSource, Shown
from pipeline.video.timeline import OwnTimeline, ResampledTimeline, Timeline

__all__ = [
    "ClipEnd",
    "ClipFailure",
    "ClipRequest",
    "FrameRecipe",
    "Segment",
    "Target",
    "decode_clips",
]

SEEK_GAP_S = 4.0
"""Within a sweep, frames nobody wants are decoded rather than sought over, up to this many
seconds."""

Result = Segment | ClipEnd | ClipFailure


def decode_clips(
    file: ByteFile,
    clips: Sequence[ClipRequest],
    recipe: FrameRecipe,
    limits: DecodeLimits,
    host: Host = HERE,
) -> Iterator[Result]:
    """Yield the windows asked for, in segments, as the data of the file give them.

    Of each clip come its segments, ordered within a range and bucket; then one ``ClipEnd`` if the
    end of its data (or its ``end``) was met, or one ``ClipFailure`` in place of what is missing.
    What is yielded follows from the arguments and the bytes alone, and a window's content not
    from which others are asked for. Frames are decoded once and by one thread, and no more is
    held than the segments in the making.

    Args:
        file: a seekable binary file, left open at any position.
        clips: what is wanted of it.
        recipe: how frames become windows.
        limits: what the file may cost.
        host: where frames are put, and who listens.
    """
    try:
        guarded = GuardedFile(file)
        if is_image(guarded):
            facts, picture = read_image(guarded, limits)
            for clip in clips:
                yield from image_results(clip, facts, picture, recipe, limits)
            return
        source = FrameSource(guarded, limits, host.progress)
    except SourceError as error:
        for clip in clips:
            yield ClipFailure(clip.key, error.reason, error.message)
        return
    try:
        yield from _Sweep(source, clips, recipe, limits, host).results()
    finally:
        source.close()


class _Clip:
    """A clip in the making: its timeline and its ranges."""

    def __init__(
        self,
        request: ClipRequest,
        facts: VideoFacts,
        recipe: FrameRecipe,
        limits: DecodeLimits,
        timeline: Timeline,
        host: Host,
    ) -> None:
        self.key = request.key
        self.active = False
        self._ended = False
        self._timeline = timeline
        self._request = request
        self._facts = facts
        self._grid = recipe.grid
        lengths = [target.segment_windows for target in request.targets]
        lanes = list(zip(geometries(request, facts, recipe, limits), lengths, strict=True))
        fps = float(recipe.fps) if recipe.fps is not None else facts.fps or 0.0
        self._ranges = [
            RangeAssembler(
                request.key, first, stop, lanes, recipe.grid, facts.time_base, fps, host.empty
            )
            for first, stop in request.ranges
        ]

    @property
    def done(self) -> bool:
        """Whether no further frame is needed."""
        return self._ended or all(part.done for part in self._ranges)

    @property
    def waiting(self) -> int:
        """How many ranges are unfinished."""
        return 0 if self._ended else sum(not part.done for part in self._ranges)

    def need(self) -> int:
        """Timestamp that decoding must begin at, or before, to go on with this clip."""
        needed = [part.next_needed for part in self._ranges if not part.done]
        return self._timeline.needed(min(needed))

    def put(
        self, shown: Shown, following: int | None, frame: SharedFrame
    ) -> Generator[Result, None, bool]:
        """Take one source frame; whether a picture may be asked of it later."""
        keep = False
        for index in self._timeline.shown(shown.pts, following):
            for part in self._ranges:
                yield from part.drain()
                if not part.done:
                    keep |= part.put(index, frame)
        total = self._timeline.ended(shown.pts, following)
        if total is not None:
            for part in self._ranges:
                part.finish(total)
        for part in self._ranges:
            yield from part.drain()
        if total is not None:
            self._ended = True
            yield self._end(total)
        return keep

    def _end(self, total: int) -> ClipEnd | ClipFailure:
        if total > 0:
            return ClipEnd(self.key, total, self._grid.count(total), self._facts)
        start, end = self._request.start or 0.0, self._request.end
        span = f"from {start:g} s to " + ("the end" if end is None else f"{end:g} s")
        return ClipFailure(
            self.key, Reason.EMPTY_RANGE, f"the video shows no frame {span}", self._facts
        )


class _Sweep:
    """One pass over a file, seeking over gaps, that serves all clips."""

    def __init__(
        self,
        source: FrameSource,
        requests: Sequence[ClipRequest],
        recipe: FrameRecipe,
        limits: DecodeLimits,
        host: Host,
    ) -> None:
        self._source = source
        self._requests = requests
        self._recipe = recipe
        self._limits = limits
        self._host = host
        self._scaler = Scaler(recipe.filter)
        self._table: list[int] | None = None

    def results(self) -> Iterator[Result]:
        """Everything that ``decode_clips`` yields for a video."""
        clips: list[_Clip] = []
        waiting = list(self._requests)
        try:
            if self._recipe.fps is None and any(r.ranges[-1][0] > 0 for r in self._requests):
                self._table = self._source.table()
            while waiting:
                request = waiting.pop(0)
                try:
                    clips.append(self._clip(request))
                except SourceError as error:
                    yield self._failure(request.key, error)
            while any(not clip.done for clip in clips):
                yield from self._pass([clip for clip in clips if not clip.done])
        except SourceError as error:
            unfinished = [clip.key for clip in clips if not clip.done]
            for key in [*unfinished, *(request.key for request in waiting)]:
                yield self._failure(key, error)

    def _failure(self, key: str, error: SourceError) -> ClipFailure:
        return ClipFailure(key, error.reason, error.message, self._source.facts)

    def _clip(self, request: ClipRequest) -> _Clip:
        facts = self._source.facts
        base, start, end = facts.time_base, request.start, request.end
        timeline: Timeline
        if self._recipe.fps is None:
            timeline = OwnTimeline(facts.origin, base, start, end, self._table)
        else:
            timeline = ResampledTimeline(facts.origin, base, self._recipe.fps, start, end)
        return _Clip(request, facts, self._recipe, self._limits, timeline, self._host)

    def _pass(self, clips: list[_Clip]) -> Iterator[Result]:
        """Decode from the first frame needed on, until the end or a gap worth a seek."""
        needs = {id(clip): clip.need() for clip in clips}
        held: Shown | None = None
        for shown in self._checked(self._source.frames(min(needs.values()))):
            if held is not None:
                changed = yield from self._feed(held, shown.pts, clips, needs)
                if changed:
                    clips = [clip for clip in clips if not clip.done]
                    if not clips or self._gap(clips, shown.pts):
                        return
            held = shown
        if held is None:
            raise SourceError(Reason.DECODE_ERROR, "no frame can be decoded")
        yield from self._feed(held, None, clips, needs)

    def _feed(
        self, shown: Shown, following: int | None, clips: list[_Clip], needs: dict[int, int]
    ) -> Generator[Result, None, bool]:
        """Give a frame to the clips that have begun; whether what is needed next has changed."""
        frame = SharedFrame(shown.pts, shown.picture, self._source.orientation, self._scaler)
        keep, changed = False, False
        for clip in clips:
            if not clip.active:
                if following is not None and following <= needs[id(clip)]:
                    continue
                clip.active = True
            before = clip.waiting
            keep |= yield from clip.put(shown, following, frame)
            changed |= clip.waiting != before
        if not keep:
            frame.let_go()
        return changed

    def _gap(self, clips: list[_Clip], pts: int) -> bool:
        """Whether nothing is needed for so long behind ``pts`` that a seek pays."""
        if not self._source.seekable:
            return False
        distance = (min(clip.need() for clip in clips) - pts) * self._source.facts.time_base
        return distance > SEEK_GAP_S

    def _checked(self, frames: Iterator[Shown]) -> Iterator[Shown]:
        """Hold decoded frames against the table of timestamps, where one counts them."""
        if self._table is None:
            yield from frames
            return
        expected: int | None = None
        for shown in frames:
            index = bisect_left(self._table, shown.pts)
            found = index < len(self._table) and self._table[index] == shown.pts
            if not found or expected not in (None, index):
                raise SourceError(
                    Reason.BAD_TIMESTAMPS,
                    f"the frame at {shown.pts} does not follow the packets' timestamps",
                )
            expected = index + 1
            yield shown
