"""The frames of a video in order, from the start or from a checked seek.

Three ways to know when a frame is shown:

* ``stamped``: every packet carries its timestamp (MOV, Matroska, MPEG-TS). Only these are sought
  in. A packet without one changes the source to ``filled`` for good.
* ``filled``: FFmpeg derives missing timestamps from those before (MPEG program streams).
* ``counted``: the container only counts frames (AVI); frames take the decoding times in order.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.errors import Reason, SourceError
from pipeline.video.facts import VideoFacts
from pipeline.video.files import GuardedFile, open_container, sniff, translated
from pipeline.video.header import codec_name, read_facts, video_stream
from pipeline.video.limits import DecodeLimits
from pipeline.video.orientation import Orientation, orientation_of
from pipeline.video.tables import check_tables
from pipeline.video.truncation import check_complete

SEEKABLE_CODECS = frozenset(
    ["h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mjpeg", "prores", "dnxhd"]
)
"""Codecs whose key frames forget everything before them."""

ONE_FRAME_PER_PACKET = SEEKABLE_CODECS - {"vp8"}
"""Codecs whose packets show one frame each, so that packets can be counted for frames."""

_STEPS_S = (0, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_PACKET_S = 0.01
"""Seconds of video that a packet counts for that is only looked at."""
_LONG_S = 1.0
"""Seconds that a frame counts for at most, however long it is shown."""
_STAMPED = "+nofillin-genpts"
_FLAGS = {"stamped": _STAMPED, "filled": "", "counted": _STAMPED}


@dataclass(frozen=True)
class Shown:
    """A decoded frame and its presentation timestamp (ticks)."""

    pts: int
    picture: av.VideoFrame


class _Unstamped(Exception):  # noqa: N818  (changes the way of reading, no failure)
    """A packet without timestamp was met."""


class _NotClean(Exception):  # noqa: N818  (makes a seek back off, no failure)
    """Decoding did not begin at the key frame that was sought."""


class FrameSource:
    """The frames of one video file; any number of passes, one at a time.

    Raises:
        SourceError: the file cannot be opened or shows no frame at all.
    """

    def __init__(
        self, file: GuardedFile, limits: DecodeLimits, progress: Callable[[float], None]
    ) -> None:
        """``progress`` is told of the seconds of video between frames that were decoded."""
        self._file = file
        self._progress = progress
        self._limits = limits
        kind = sniff(file.head)
        if kind == "mov":
            check_tables(file, limits.max_frames)
        self._times: Literal["stamped", "filled", "counted"] = "stamped"
        if kind in ("avi", "mpeg"):
            self._times = "counted" if kind == "avi" else "filled"
        self._seeks = 0
        self._container: InputContainer | None = None
        self._last: int | None = None
        self._ahead: Iterator[Shown] | None = None
        self._begun: tuple[VideoFacts, Orientation] | None = None
        self._first = self._read_first()
        self._begun = (
            read_facts(self._opened(), self._stream(), self._first.picture, self._first.pts),
            orientation_of(self._first.picture),
        )

    @property
    def facts(self) -> VideoFacts:
        """What the header and the first frame say."""
        return self._known()[0]

    @property
    def orientation(self) -> Orientation:
        """How frames are turned upright."""
        return self._known()[1]

    @property
    def seekable(self) -> bool:
        """Whether a seek may be tried."""
        return self._times == "stamped" and self.facts.codec in SEEKABLE_CODECS

    @property
    def seeks(self) -> int:
        """Passes so far that began behind the start of the file."""
        return self._seeks

    def close(self) -> None:
        """Close the container; the file stays open."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def frames(self, target: int | None = None) -> Iterator[Shown]:
        """Frames in ascending order, to the end of the data.

        The first is at or before ``target``, or the first of the video; any frame behind it is
        there. Ends what is left of an earlier pass.

        Raises:
            SourceError: what the data are wrong about.
        """
        self._last = None
        try:
            passing = self._sought(target) if target is not None else None
            for shown in passing if passing is not None else self._from_start():
                self._last = shown.pts
                yield shown
        except _Unstamped:
            # Derived timestamps agree with those read so far, which were all explicit.
            reached = self._last
            self._times = "filled"
            for shown in self._from_start():
                if reached is None or shown.pts > reached:
                    yield shown

    def table(self) -> list[int] | None:
        """Timestamps of all frames, ascending, read from packets alone; None if not exact."""
        if not self.seekable or self.facts.codec not in ONE_FRAME_PER_PACKET:
            return None
        self._open()
        times = []
        for packet in self._packets():
            if packet.pts is None or packet.is_corrupt:
                return None
            self._progress(_PACKET_S)
            if not packet.is_discard and packet.pts >= self.facts.origin:
                times.append(packet.pts)
        times.sort()
        unique = all(a < b for a, b in pairwise(times))
        return times if unique and times and times[0] == self.facts.origin else None

    def _read_first(self) -> Shown:
        for _ in range(2):
            try:
                self._open()
                self._ahead = self._decoded(after_seek=False)
                first = next(self._ahead, None)
            except _Unstamped:
                self._times = "filled"
                continue
            if first is None:
                raise SourceError(Reason.DECODE_ERROR, "no frame can be decoded")
            return first
        raise SourceError(Reason.BAD_TIMESTAMPS, "the first frames have no timestamps")

    def _from_start(self) -> Iterator[Shown]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            # The pass that found the first frame has not been used yet: go on with it.
            yield self._first
            yield from ahead
            return
        self._open()
        yield from self._decoded(after_seek=False)

    def _sought(self, target: int) -> Iterator[Shown] | None:
        """Frames from a checked seek; None if no seek holds, or none is worth a try."""
        if not self.seekable or target <= self.facts.origin:
            return None
        for step in _STEPS_S:
            time = target - int(step / self.facts.time_base)
            if time <= self.facts.origin:
                return None
            self._open()
            try:
                self._opened().seek(time, stream=self._stream())
            except av.error.FFmpegError:
                self._file.check()
                return None
            frames = self._decoded(after_seek=True, target=target)
            try:
                first = next(frames, None)
            except _NotClean:
                continue
            if first is not None and first.pts <= target:
                self._seeks += 1
                return _chained(first, frames)
        return None

    def _decoded(self, *, after_seek: bool, target: int | None = None) -> Iterator[Shown]:
        """Decode from where the container stands; the rules for the first frames are applied."""
        stream = self._stream()
        stamps: deque[int] = deque()
        # Streams may be cut anywhere, and H.264 shows pictures whose references were cut off:
        # what comes before the first key frame is left out, after a seek in any codec.
        leading = after_seek or codec_name(stream) == "h264"
        hunting = leading or sniff(self._file.head) in ("mpegts", "mpeg")
        key: int | None = None
        clean = False
        previous: int | None = None
        count = 0
        for packet in self._with_flush():
            if packet is not None:
                if self._times == "stamped" and packet.pts is None:
                    raise _Unstamped
                if hunting:
                    if not packet.is_keyframe or packet.is_corrupt:
                        continue
                    hunting, key = False, packet.pts
                    if target is not None and key is not None and key > target:
                        raise _NotClean
                if packet.is_corrupt and clean:
                    time = packet.dts if packet.pts is None else packet.pts
                    raise SourceError(
                        Reason.DECODE_ERROR, f"the packet at {time} is damaged or cut off"
                    )
                if packet.dts is not None:
                    stamps.append(packet.dts)
            for frame in self._decode(stream, packet, key, clean, after_seek):
                pts = self._time(frame, stamps)
                if leading and key is not None and pts < key and self._times == "stamped":
                    continue
                if not clean:
                    if frame.is_corrupt:
                        continue
                    if after_seek and pts != key:
                        raise _NotClean
                    clean = True
                self._check(frame, pts, previous)
                if previous is not None and frame.time_base is not None:
                    self._progress(min(_LONG_S, float((pts - previous) * frame.time_base)))
                previous = pts
                count += 1
                if count > self._limits.max_frames:
                    raise SourceError(
                        Reason.TOO_LARGE, f"more than {self._limits.max_frames} frames"
                    )
                yield Shown(pts, frame)
        self._file.check()
        check_complete(self._file, stream)

    def _decode(
        self,
        stream: VideoStream,
        packet: "Packet[VideoStream] | None",
        key: int | None,
        clean: bool,
        after_seek: bool,
    ) -> list[av.VideoFrame]:
        """Frames that a packet (None: the end) brings forth; what may fail before the key frame."""
        try:
            with translated(self._file, Reason.DECODE_ERROR, "decoding failed"):
                return list(stream.decode(packet))
        except SourceError as error:
            if not clean and isinstance(error.__cause__, av.error.ArgumentError):
                # FFmpeg's word for a picture beyond `max_pixels`, whose size it then forgets.
                raise SourceError(
                    Reason.TOO_LARGE,
                    f"the decoder refuses the size: over {self._limits.max_pixels} pixels, or none",
                ) from error
            if clean or error.reason is not Reason.DECODE_ERROR or packet is None:
                raise
            if key is not None and packet.pts is not None and packet.pts < key:
                return []
            if after_seek:
                raise _NotClean from error
            raise

    def _time(self, frame: av.VideoFrame, stamps: deque[int]) -> int:
        if self._times == "counted":
            if not stamps:
                raise SourceError(Reason.BAD_TIMESTAMPS, "more frames than times to show them")
            return stamps.popleft()
        if frame.pts is None:
            raise SourceError(Reason.BAD_TIMESTAMPS, "a frame has no timestamp")
        return frame.pts

    def _check(self, frame: av.VideoFrame, pts: int, previous: int | None) -> None:
        """One frame against the one before it and against the first of the video."""
        if frame.is_corrupt:
            raise SourceError(Reason.DECODE_ERROR, f"the frame at {pts} is damaged")
        if previous is not None and pts <= previous:
            raise SourceError(
                Reason.BAD_TIMESTAMPS, f"timestamp {pts} follows {previous}: they must ascend"
            )
        if previous is not None and self._begun is not None:
            gap = (pts - previous) * self._begun[0].time_base
            if gap > self._limits.max_gap_seconds:
                raise SourceError(
                    Reason.TOO_LARGE,
                    f"one frame is shown for {float(gap):g} s, more than "
                    f"{self._limits.max_gap_seconds:g}",
                )
        if self._begun is None:
            return
        facts, orientation = self._begun
        if (frame.width, frame.height) != (facts.coded_width, facts.coded_height):
            raise SourceError(
                Reason.DECODE_ERROR,
                f"the picture size changes from {facts.coded_width}x{facts.coded_height} "
                f"to {frame.width}x{frame.height} at {pts}",
            )
        if orientation_of(frame) != orientation:
            raise SourceError(Reason.DECODE_ERROR, f"the picture turns at {pts}")
        if (pts - facts.origin) * facts.time_base > self._limits.max_seconds:
            raise SourceError(Reason.TOO_LARGE, f"longer than {self._limits.max_seconds:g} seconds")

    def _open(self) -> None:
        """Begin anew at the start of the file, with a fresh decoder of one thread."""
        self.close()
        self._ahead = None
        self._container = open_container(self._file, self._limits, _FLAGS[self._times])
        stream = video_stream(self._container, self._limits)
        context = stream.codec_context
        context.thread_count = 1
        stream.thread_type = "NONE"
        # Damage is to be an error: without "explode" decoders invent what is missing.
        context.options = {
            "err_detect": "explode",
            "max_pixels": str(self._limits.max_pixels),
        }

    def _known(self) -> tuple[VideoFacts, Orientation]:
        if self._begun is None:
            raise RuntimeError("the first frame has not been read")
        return self._begun

    def _opened(self) -> InputContainer:
        if self._container is None:
            raise RuntimeError("the source is closed")
        return self._container

    def _stream(self) -> VideoStream:
        return video_stream(self._opened(), self._limits)

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        """Packets of the video stream that hold data, from where the container stands."""
        packets = self._opened().demux(self._stream())
        while True:
            with translated(self._file, Reason.DECODE_ERROR, "reading a packet failed"):
                packet = next(packets, None)
            self._file.check()
            if packet is None:
                return
            if packet.size:
                yield packet

    def _with_flush(self) -> "Iterator[Packet[VideoStream] | None]":
        yield from self._packets()
        yield None


def _chained(first: Shown, rest: Iterator[Shown]) -> Iterator[Shown]:
    yield first
    yield from rest
