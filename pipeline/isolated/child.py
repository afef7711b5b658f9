"""What runs in the decoder processes: a server that forks them, and each one's loop over files.

The server is a small process that has loaded FFmpeg's and Pillow's code and nothing else, so that a
new decoder takes milliseconds. They have no credentials, no torch, and no file but what their
parent reads for them. All of them end when the parent does, whatever they are doing then.
"""

import fcntl
import gc
import io
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pipeline.errors import Reason, SourceError
from pipeline.isolated import wire
from pipeline.isolated.jobs import Job, answer_to_json, segment_to_json
from pipeline.isolated.memory import FrameMemory
from pipeline.video.clips import ClipEnd, ClipFailure, Segment
from pipeline.video.decode import decode_clips
from pipeline.video.facts import Header
from pipeline.video.host import Host
from pipeline.video.probe import look

BLOCK = 256 * 2**10
"""Bytes that are asked of the parent at once, from a multiple of it on."""

_KEPT_BLOCKS = 4
_LAST_WORDS_S = 1.0
_AHEAD = 1
"""Segments that may wait for the parent before decoding does."""


def serve(control: socket.socket) -> NoReturn:
    """The server: forks decoders, and tells how they ended, until the parent is gone."""
    children: set[int] = set()

    def end(_signal: int = 0, _frame: FrameType | None = None) -> NoReturn:
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # else this begins anew in the middle of it
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        os._exit(0)

    signal.signal(signal.SIGIO, end)
    _end_with_the_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.collect()
    gc.freeze()
    while True:
        try:
            kind, payload, descriptors = wire.receive(control)
            if kind == wire.FORK:
                child = os.fork()
                if child == 0:
                    control.close()
                    _decoder(*descriptors)
                children.add(child)
                for descriptor in descriptors:
                    os.close(descriptor)
                wire.send(control, kind, wire.NUMBER.pack(child))
            else:
                [child] = wire.NUMBER.unpack(payload)
                status = _reap(child)
                children.discard(child)
                wire.send(control, kind, wire.NUMBER.pack(status))
        except (EOFError, OSError):
            end()


def _reap(child: int) -> int:
    """Wait status of a decoder that has closed its connection."""
    deadline = time.monotonic() + _LAST_WORDS_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _end_with_the_parent() -> None:
    """Be sent SIGIO, with all of this process group, when the pipe at stdin is closed.

    The kernel does that whatever a decoder is busy with, which a thread could not.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _decoder(connection: int, counter: int) -> NoReturn:
    """One decoder: jobs until the parent closes the connection."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    code = 1
    try:
        sock = socket.socket(fileno=connection)
        shared = mmap.mmap(counter, wire.COUNTER.size)
        memory = FrameMemory()
        while True:
            try:
                message = wire.receive(sock)
            except (EOFError, ConnectionError):
                code = 0
                break
            _Work(sock, shared, memory, pickle.loads(message.payload)).run()
    except (EOFError, ConnectionError):
        code = 0  # the parent has lost interest
    except SystemExit:
        code = 0
    except BaseException:  # noqa: BLE001  (nothing may go on behind this in a forked process)
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Work:
    """One job."""

    def __init__(
        self, sock: socket.socket, shared: mmap.mmap, memory: FrameMemory, job: Job
    ) -> None:
        self._sock = sock
        self._shared = shared
        self._job = job
        self._seconds = 0.0
        self._waiting = 0
        self._memory = memory
        memory.back(job.pieces)

    def run(self) -> None:
        """Do it, and say that it is done.

        Raises ``SystemExit`` where this process is not fit for another, having said why.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (self._job.limits.memory_bytes, hard))
        broken = None
        try:
            self._run()
        except SourceError as error:
            self._answer(ClipFailure("", error.reason, error.message))
        except MemoryError:
            message = f"decoding took more than {self._job.limits.memory_bytes} bytes of memory"
            broken = (Reason.TOO_LARGE, message)
        except Exception as error:
            if isinstance(error, EOFError | ConnectionError):
                raise
            broken = (Reason.CRASHED, f"the decoder raised {type(error).__name__}: {error}")
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
            self._memory.end()
        while self._waiting:
            self._receive()
        if broken is not None:
            wire.send(self._sock, wire.BROKEN, json.dumps(broken).encode())
            raise SystemExit(0)
        wire.send(self._sock, wire.DONE)

    def _run(self) -> None:
        job, file = self._job, _ServedFile(self._job.size, self._read)
        host = Host(self._memory.empty, self._progress)
        if job.recipe is None:
            self._answer(look(file, job.limits, host))
            return
        for found in decode_clips(file, job.clips, job.recipe, job.limits, host):
            if isinstance(found, Segment):
                self._send(found)
            else:
                self._answer(found)

    def _answer(self, found: ClipEnd | ClipFailure | Header) -> None:
        wire.send(self._sock, wire.ANSWER, answer_to_json(found))

    def _send(self, segment: Segment) -> None:
        while self._waiting >= _AHEAD:
            self._receive()
        piece = self._memory.lend(segment.frames)
        if piece is None:
            wire.send(self._sock, wire.SEGMENT, segment_to_json(segment, None))
            wire.send(self._sock, wire.DATA, segment.frames.tobytes())
        else:
            told = segment_to_json(segment, piece.number)
            wire.send(self._sock, wire.SEGMENT, told, [piece.descriptor])
        self._waiting += 1

    def _receive(self) -> wire.Message:
        message = wire.receive(self._sock)
        if message.kind == wire.TAKEN:
            self._waiting -= 1
            self._memory.back(json.loads(message.payload))
        return message

    def _read(self, offset: int, count: int) -> bytes:
        """Bytes of the file, from the parent. Raises what it met, ``SourceError``."""
        wire.send(self._sock, wire.READ, wire.SPAN.pack(offset, count))
        message = self._receive()
        while message.kind == wire.TAKEN:
            message = self._receive()
        if message.kind == wire.REFUSED:
            reason, words = json.loads(message.payload)
            raise SourceError(Reason(reason), words)
        return message.payload

    def _progress(self, seconds: float) -> None:
        self._seconds += seconds
        wire.COUNTER.pack_into(self._shared, 0, self._seconds)


class _ServedFile:
    """The file, in blocks that the parent reads; the latest few are kept."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._read = read
        self._at = 0
        self._blocks: dict[int, bytes] = {}

    def read(self, count: int = -1, /) -> bytes:
        """Up to ``count`` bytes, as far as one block goes; none at the end."""
        left = max(0, self._size - self._at)
        count = left if count < 0 else min(count, left)
        if count == 0:
            return b""
        first = self._at - self._at % BLOCK
        block = self._blocks.pop(first, None)
        if block is None:
            block = self._read(first, min(BLOCK, self._size - first))
            if len(self._blocks) >= _KEPT_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
        self._blocks[first] = block  # the latest is last
        part = block[self._at - first :][:count]
        self._at += len(part)
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to ``offset``; the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"there is no position {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """The current position."""
        return self._at


def main() -> NoReturn:
    """Serve the socket that the parent has left open."""
    serve(socket.socket(fileno=int(sys.argv[1])))
