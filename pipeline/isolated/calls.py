"""Decoding and looking at files as ``pipeline.video`` does, in processes of their own."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from pipeline.errors import Reason, SourceError
from pipeline.isolated.decoder import Decoder, Found, LostError
from pipeline.isolated.jobs import Job
from pipeline.isolated.server import Server
from pipeline.video.clips import ClipEnd, ClipFailure, ClipRequest, FrameRecipe, Segment
from pipeline.video.facts import Header
from pipeline.video.files import ByteFile, GuardedFile
from pipeline.video.limits import DecodeLimits

_MOST_JOBS = 200
"""Files that one decoder process takes: what codecs leak goes with it."""


def decode_apart(
    file: ByteFile, clips: Sequence[ClipRequest], recipe: FrameRecipe, limits: DecodeLimits
) -> Iterator[Segment | ClipEnd | ClipFailure]:
    """What ``decode_clips`` yields, decoded in another process, which may break down.

    Clips that had not ended by then fail as ``timeout``, ``crashed`` or ``too_large``; what was
    yielded before is right. Frames are in memory shared with that process, which has done with it.

    Raises ``SourceError`` where the file cannot be read, ``UserError`` where no process can
    be started.
    """
    guarded = GuardedFile(file)
    job = Job(guarded.size, tuple(clips), recipe, limits)
    ended: set[str] = set()
    try:
        for found in _results(guarded, job):
            if isinstance(found, Header):
                raise LostError(Reason.CRASHED, "the decoder answered another question")
            if isinstance(found, ClipFailure) and not found.key:
                raise LostError(found.reason, found.message)
            if not isinstance(found, Segment):
                ended.add(found.key)
            yield found
    except LostError as lost:
        for clip in clips:
            if clip.key not in ended:
                yield ClipFailure(clip.key, lost.reason, lost.message)


def look_apart(file: ByteFile, limits: DecodeLimits) -> Header:
    """What ``look`` returns and raises, told by another process, which may break down.

    Raises ``SourceError`` (also: ``timeout``, ``crashed``), and ``UserError`` where no process can
    be started.
    """
    guarded = GuardedFile(file)
    job = Job(guarded.size, (), None, limits)
    try:
        for found in list(_results(guarded, job)):
            if isinstance(found, ClipFailure):
                raise SourceError(found.reason, found.message)
            if isinstance(found, Header):
                return found
    except LostError as lost:
        raise SourceError(lost.reason, lost.message) from lost
    raise SourceError(Reason.CRASHED, "the decoder found nothing")


def _results(file: GuardedFile, job: Job) -> Iterator[Found]:
    """What a decoder finds; from a new one where a used one broke down, as an earlier file may be
    the cause.

    Raises ``LostError`` where a new decoder breaks down, or any takes too long.
    """
    given = 0
    fresh = False
    while True:
        with _DECODERS.lent(fresh=fresh) as decoder:
            fresh = decoder.jobs == 0
            try:
                with contextlib.closing(decoder.run(file, job)) as found:
                    for index, result in enumerate(found):
                        if index >= given:  # those before are the same again
                            given += 1
                            yield result
                return
            except LostError as lost:
                if fresh or lost.reason is Reason.TIMEOUT:
                    raise
                fresh = True


class _Decoders:
    """Decoder processes that are not in use, and the server that forks them; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._idle: list[Decoder] = []

    @contextlib.contextmanager
    def lent(self, *, fresh: bool) -> Iterator[Decoder]:
        """A decoder for one job. Raises ``UserError`` where none can be started."""
        decoder = self._new() if fresh else self._take()
        try:
            yield decoder
        finally:
            if decoder.idle and decoder.jobs < _MOST_JOBS:
                with self._lock:
                    self._idle.append(decoder)
            else:
                decoder.end()

    def _take(self) -> Decoder:
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        return decoder or self._new()

    def _new(self) -> Decoder:
        with self._lock:
            if self._server is None or not self._server.alive:
                self._server = Server()
                self._idle.clear()
            server = self._server
        return Decoder(server)


_DECODERS = _Decoders()
"""Of this process: a decode task of Ray keeps nothing from one call to the next. Nothing is started
before it is used."""
