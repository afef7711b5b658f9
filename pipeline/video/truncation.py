"""Whether a container is complete: FFmpeg takes a file that is cut off for a shorter one.

The criterion is sizes that the container states about itself, never a count of frames or a
duration: top-level boxes of MOV/MP4 (and positions in its sample table), the segment of Matroska,
the RIFF chunks of AVI, whole packets of MPEG-TS. An MPEG program stream states none; there the
demuxer marks the packet that was cut.
"""

from av.video.stream import VideoStream

from pipeline.errors import Reason, SourceError
from pipeline.video.files import GuardedFile, packet_offset, sniff

_BOXES = frozenset(
    b"ftyp moov mdat moof mfra free skip wide uuid styp sidx meta pnot emsg prft ssix udta".split()
)
_SEGMENT = b"\x18\x53\x80\x67"


def check_complete(file: GuardedFile, stream: VideoStream) -> None:
    """Refuse a file whose container says that more bytes follow.

    Raises:
        SourceError: ``decode_error``, with what is missing.
    """
    kind = sniff(file.head)
    missing: str | None = None
    if kind == "mov":
        missing = _mov(file, stream)
    elif kind == "matroska":
        missing = _matroska(file)
    elif kind == "avi":
        missing = _avi(file)
    elif kind == "mpegts":
        missing = _mpegts(file)
    if missing is not None:
        raise SourceError(Reason.DECODE_ERROR, f"the file is cut off: {missing}")


def _mov(file: GuardedFile, stream: VideoStream) -> str | None:
    table = stream.index_entries
    reach = max((entry.pos + entry.size for entry in table), default=0)
    if reach > file.size:
        return f"its sample table reaches to byte {reach} of {file.size}"
    offset = 0
    while offset + 8 <= file.size:
        head = file.at(offset, 16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if name not in _BOXES or size == 0:
            return None
        if offset + size > file.size:
            return f"box {name.decode()!r} ends at byte {offset + size} of {file.size}"
        if size < 8:
            return None
        offset += size
    return None


def _matroska(file: GuardedFile) -> str | None:
    header = _element_size(file.head, 4)
    if header is None or header[0] is None:
        return None
    offset = header[1] + header[0]
    head = file.at(offset, 16)
    segment = _element_size(head, 4)
    if not head.startswith(_SEGMENT) or segment is None or segment[0] is None:
        return None
    end = offset + segment[1] + segment[0]
    return f"its segment ends at byte {end} of {file.size}" if end > file.size else None


def _element_size(head: bytes, at: int) -> tuple[int | None, int] | None:
    """Size of an EBML element (None if unknown) and where its content begins."""
    if at >= len(head) or head[at] == 0:
        return None
    length = 9 - head[at].bit_length()
    raw = head[at : at + length]
    if len(raw) < length:
        return None
    mask = (1 << (7 * length)) - 1
    value = int.from_bytes(raw, "big") & mask
    return (None if value == mask else value), at + length


def _avi(file: GuardedFile) -> str | None:
    offset = 0
    while offset + 12 <= file.size:
        head = file.at(offset, 12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):
            return None
        if offset + 8 + size > file.size:
            return f"a RIFF chunk ends at byte {offset + 8 + size} of {file.size}"
        offset += 8 + size + size % 2
    return None


def _mpegts(file: GuardedFile) -> str | None:
    for length in (188, 192, 204):
        start = packet_offset(file.head, length)
        if start is not None:
            if length == 192:
                start = max(0, start - 4)
            rest = (file.size - start) % length
            return f"its last packet has {rest} of {length} bytes" if rest else None
    return None
