"""One decoder process as its parent sees it: files are read for it, and its time is watched."""

import contextlib
import json
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import time
import weakref
from collections import deque
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from pipeline.errors import Reason, SourceError
from pipeline.isolated import wire
from pipeline.isolated.jobs import Job, answer_from_json, segment_from_json
from pipeline.isolated.memory import frames_of
from pipeline.isolated.server import Server
from pipeline.video.clips import ClipEnd, ClipFailure, Segment
from pipeline.video.facts import Header
from pipeline.video.files import GuardedFile
from pipeline.video.host import Frames
from pipeline.video.limits import DecodeLimits

_LOOK_S = 1.0


Found = Segment | ClipEnd | ClipFailure | Header
"""What a decoder finds. A failure with no key is that of a file whose facts were asked for."""


class LostError(Exception):
    """The decoder process ended or was ended in the middle of a job."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Decoder:
    """A decoder process. One job at a time; after a ``LostError`` there is no other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sock, theirs = socket.socketpair()
        counter = os.memfd_create("counter", os.MFD_CLOEXEC)
        try:
            os.ftruncate(counter, wire.COUNTER.size)
            self._counter = mmap.mmap(counter, wire.COUNTER.size)
            self.process = server.fork([theirs.fileno(), counter])
        finally:
            os.close(counter)
            theirs.close()
        self.jobs = 0
        self._free: deque[int] = deque()
        self._busy = False

    def run(self, file: GuardedFile, job: Job) -> Generator[Found, None, None]:
        """What the job finds. A generator that is not used up ends the process.

        Raises ``LostError`` where the process broke down, or took more than it may.
        """
        self.jobs += 1
        self._busy = True
        wire.COUNTER.pack_into(self._counter, 0, 0.0)
        watch = _Watch(job.limits)
        try:
            wire.send(self._sock, wire.JOB, pickle.dumps(replace(job, pieces=self._freed())))
            while (message := self._wait(watch)).kind != wire.DONE:
                if message.kind == wire.READ:
                    self._serve(file, *wire.SPAN.unpack(message.payload))
                elif message.kind == wire.SEGMENT:
                    yield self._segment(message, watch)
                    wire.send(self._sock, wire.TAKEN, json.dumps(self._freed()).encode())
                elif message.kind == wire.ANSWER:
                    yield answer_from_json(message.payload)
                elif message.kind == wire.BROKEN:
                    reason, words = json.loads(message.payload)
                    raise LostError(Reason(reason), words)
                else:
                    raise LostError(Reason.CRASHED, f"the decoder said {message.kind!r}")
            self._busy = False
        except (EOFError, ConnectionError):
            raise LostError(Reason.CRASHED, f"the decoder {self.end()}") from None
        except (ValueError, TypeError, KeyError, struct.error) as error:  # of what it said
            raise LostError(Reason.CRASHED, f"the decoder answered nonsense: {error}") from error
        finally:
            if self._busy:
                self.end(kill=True)

    def _segment(self, message: wire.Message, watch: "_Watch") -> Segment:
        """A segment, whose memory is free once nothing here refers to its frames."""

        def frames(shape: tuple[int, ...]) -> Frames:
            if message.descriptors:
                return frames_of(message.descriptors[0], shape)
            # A copy, as what is read from bytes cannot be written to.
            return np.frombuffer(bytearray(self._wait(watch).payload), np.uint8).reshape(shape)

        segment, piece = segment_from_json(message.payload, frames)
        if piece is not None:
            weakref.finalize(segment.frames.base, self._free.append, piece).atexit = False
        return segment

    def _freed(self) -> tuple[int, ...]:
        return tuple(self._free.popleft() for _ in range(len(self._free)))

    def _wait(self, watch: "_Watch") -> wire.Message:
        while not select.select([self._sock], [], [], watch.begin())[0]:
            self._look(watch)
        self._look(watch)
        self._sock.settimeout(watch.limits.grace_seconds)
        try:
            return wire.receive(self._sock)
        except TimeoutError:
            raise LostError(Reason.TIMEOUT, "the decoder stopped in the middle of a word") from None

    def _look(self, watch: "_Watch") -> None:
        [seconds] = wire.COUNTER.unpack_from(self._counter)
        watch.look(seconds)

    def _serve(self, file: GuardedFile, offset: int, count: int) -> None:
        """Read for the decoder; what reading meets is told to it, and travels back as a result."""
        try:
            data = file.at(offset, min(count, wire.MOST_BYTES))
        except SourceError as error:
            told = json.dumps([error.reason, error.message]).encode()
            wire.send(self._sock, wire.REFUSED, told)
            return
        wire.send(self._sock, wire.DATA, data)

    @property
    def idle(self) -> bool:
        """Whether it may be given a job."""
        return not self._busy and self._sock.fileno() >= 0

    def end(self, *, kill: bool = False) -> str:
        """End the process, if it has not ended; how it did, in words."""
        self._busy = False
        if self._sock.fileno() < 0:
            return "has ended"
        self._sock.close()
        self._counter.close()
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
        status = self._server.wait(self.process)
        if status is None:
            return "was ended with its server"
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"ended with exit code {code}"
        words = f"was killed by {signal.Signals(-code).name}"
        return words + (" (out of memory?)" if -code == signal.SIGKILL else "")


class _Watch:
    """An allowance of time: waiting for the decoder uses it up, what it decodes refills it."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits = limits
        self._left = limits.grace_seconds
        self._decoded = 0.0
        self._begun = 0.0

    def begin(self) -> float:
        """Waiting begins; for how long at most, in seconds."""
        self._begun = time.monotonic()
        return max(0.0, min(self._left, _LOOK_S))

    def look(self, decoded: float) -> None:
        """Waiting ended, with so many seconds of video decoded. Raises ``LostError``: timeout."""
        rate, grace = self.limits.seconds_per_second, self.limits.grace_seconds
        self._left = min(grace, self._left + rate * max(0.0, decoded - self._decoded))
        self._left -= time.monotonic() - self._begun
        self._decoded = decoded
        if self._left <= 0:
            raise LostError(
                Reason.TIMEOUT,
                f"decoding takes more than {rate:g} s for a second of video and {grace:g} s beyond "
                f"that (decode.seconds_per_second, decode.grace_seconds), {decoded:.2f} s into it",
            )
