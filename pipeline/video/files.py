"""Opening an untrusted file: what it looks like, and FFmpeg kept from touching anything else.

FFmpeg can be talked into opening further files or network addresses (playlists, ``ffconcat``,
SDP, external references). Here it sees a nameless object with ``read`` and ``seek``, may use only
the container formats listed, and no protocol at all.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import av
from av.container import InputContainer

from pipeline.errors import Reason, SourceError
from pipeline.video.limits import DecodeLimits

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
"""Demuxers that FFmpeg may use."""

Kind = Literal["mov", "matroska", "avi", "mpegts", "mpeg", "image", "unknown"]
"""What the first bytes of a file look like."""

PROBE_BYTES = 512 * 2**10
"""How far FFmpeg reads on behind the header, where the header tells of all streams: it would go on
for 5 MB, to count frames for a rate that the container states."""

_HEAD = 4096
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"wide", b"skip", b"free", b"pnot")
_IMAGES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
)


class ByteFile(Protocol):
    """What is asked of a file: a seekable source of bytes."""

    def read(self, count: int = -1, /) -> bytes:
        """Up to ``count`` bytes; none at the end."""
        ...

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to ``offset``; the new position."""
        ...

    def tell(self) -> int:
        """The current position."""
        ...


class GuardedFile:
    """A seekable binary file as FFmpeg sees it: no name, and no failure gets lost.

    FFmpeg takes a failing read for the end of the file. So the first exception is kept, reads
    after it return nothing, and ``check`` raises it as what it is.
    """

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._error: Exception | None = None
        self.size = 0
        self.head = b""
        with self._kept():
            self.size = file.seek(0, io.SEEK_END)
            file.seek(0)
            self.head = self._exactly(min(_HEAD, self.size))
            file.seek(0)
        self.check()

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes; none at the end or after a failure."""
        if self._error is None:
            with self._kept():
                return bytes(self._file.read(count))
        return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to ``offset``; the new position."""
        if self._error is None:
            with self._kept():
                return int(self._file.seek(offset, whence))
        return offset if whence == io.SEEK_SET else 0

    def tell(self) -> int:
        """The current position."""
        if self._error is None:
            with self._kept():
                return int(self._file.tell())
        return 0

    def seekable(self) -> bool:
        """Always true: files that are not are refused by the caller's contract."""
        return True

    def at(self, offset: int, count: int) -> bytes:
        """``count`` bytes at ``offset``, fewer at the end of the file.

        Raises:
            SourceError: the file cannot be read.
        """
        found = b""
        with self._kept():
            self._file.seek(offset)
            found = self._exactly(count)
        self.check()
        return found

    def check(self) -> None:
        """Raise the failure that reading met, if any.

        Raises:
            SourceError: ``missing``, ``unreadable``, or what the file object itself raised.
        """
        if self._error is None:
            return
        if isinstance(self._error, SourceError):
            raise self._error
        reason = Reason.UNREADABLE
        if isinstance(self._error, FileNotFoundError):
            reason = Reason.MISSING
        name = type(self._error).__name__
        raise SourceError(reason, f"reading failed: {name}: {self._error}") from self._error

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count > 0 and (part := self._file.read(count)):
            parts.append(bytes(part))
            count -= len(part)
        return b"".join(parts)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  (kept, and raised by `check`)
            self._error = error


def sniff(head: bytes) -> Kind:
    """What a file that begins with ``head`` looks like."""
    if head[4:8] in _BOXES:
        return "image" if head[8:12] in (b"avif", b"avis", b"heic", b"heix") else "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF"):
        if head[8:12] == b"AVI ":
            return "avi"
        return "image" if head[8:12] == b"WEBP" else "unknown"
    if head.startswith((b"\x00\x00\x01\xba", b"\x00\x00\x01\xbb")):
        return "mpeg"
    if any(packet_offset(head, length) is not None for length in (188, 192, 204)):
        return "mpegts"
    return "image" if head.startswith(_IMAGES) else "unknown"


def packet_offset(head: bytes, length: int) -> int | None:
    """Where MPEG-TS packets of ``length`` bytes begin in ``head``, or None if they do not."""
    for start in range(min(length, len(head))):
        marks = head[start::length]
        if len(marks) >= 3 and marks.count(b"\x47") == len(marks):
            return start
    return None


def describe(head: bytes) -> str:
    """A few words on bytes that are no known container, for a message."""
    text = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    known = {
        b"#EXTM3U": "an HLS playlist",
        b"ffconcat": "an ffconcat script",
        b"v=0": "an SDP description",
        b"<": "markup (HTML or XML)",
        b"\x00\x00\x01\xb3": "a bare MPEG video stream",
    }
    for start, words in known.items():
        if text.startswith(start):
            return words
    if b"\x00" not in head and head.isascii():
        return "text"
    return f"unknown data beginning {head[:8].hex()}"


@contextmanager
def translated(file: GuardedFile, reason: Reason, doing: str) -> Iterator[None]:
    """Turn FFmpeg's errors into ``SourceError``; a failure of the file itself comes first.

    Raises:
        SourceError: ``reason``, or what reading the file met.
    """
    try:
        yield
    except av.error.ExitError as error:
        file.check()
        raise SourceError(Reason.UNREADABLE, f"{doing}: timed out") from error
    except MemoryError as error:  # FFmpeg's too
        file.check()
        raise SourceError(Reason.TOO_LARGE, f"{doing}: out of memory") from error
    except (av.error.FFmpegError, UnicodeError, ValueError, OverflowError) as error:
        file.check()
        raise SourceError(reason, f"{doing}: {_words(error)}") from error


def _words(error: Exception) -> str:
    """An FFmpeg error's text, without its number and file name."""
    return str(getattr(error, "strerror", None) or error)


def open_container(
    file: GuardedFile, limits: DecodeLimits, flags: str = "", *, decode: bool = True
) -> InputContainer:
    """Open a video container with everything but the file itself out of reach.

    Args:
        file: the file, at any position.
        limits: time limits, and the largest picture a decoder may allocate.
        flags: FFmpeg's ``fflags``, such as ``+nofillin-genpts``; empty for its own choice.
        decode: whether FFmpeg may decode some frames to learn what no header tells, their order
            and pixel format. It costs as much as decoding a picture or more.

    Raises:
        SourceError: ``empty_file``, ``unsupported_container``, ``invalid_data``, ``unreadable``.
    """
    if file.size == 0:
        raise SourceError(Reason.EMPTY_FILE, "the file has no bytes")
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "none",
        "max_pixels": str(limits.max_pixels),
    }
    if flags:
        options["fflags"] = flags
    if not decode:
        options["skip_frame"] = "all"  # of the decoders that FFmpeg opens to look
    kind = sniff(file.head)
    if kind in ("mov", "matroska"):
        options["probesize"] = str(PROBE_BYTES)
    if kind == "unknown":
        reason = Reason.UNSUPPORTED_CONTAINER
        doing = f"not a video container that is read here ({describe(file.head)})"
    else:
        reason, doing = Reason.INVALID_DATA, f"the {kind} container cannot be opened"
    file.seek(0)
    with translated(file, reason, doing):
        container = av.open(
            file,
            mode="r",
            options=options,
            timeout=(limits.open_timeout_s, limits.read_timeout_s),
            metadata_errors="replace",
        )
    try:
        file.check()
    except SourceError:
        container.close()
        raise
    return container
