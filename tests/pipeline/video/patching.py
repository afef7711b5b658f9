"""Changes to the bytes of finished clips: headers that lie, hidden frames, damage."""

import struct
from collections.abc import Callable


def edit_list(data: bytearray) -> None:
    """Let an MP4's edit list hide its first ten frames (in the middle of a group of pictures)."""
    at = data.index(b"elst") + 12
    duration, media_time = struct.unpack_from(">Ii", data, at)
    struct.pack_into(">Ii", data, at, duration - 400, media_time + 10 * 512)


def negative(data: bytearray) -> None:
    """Let an MP4 without edit list show its first frame before time zero."""
    at = data.index(b"ctts") + 4
    data[at] = 1  # version 1: signed offsets
    (entries,) = struct.unpack_from(">I", data, at + 4)
    for entry in range(entries):
        where = at + 8 + 8 * entry + 4
        (offset,) = struct.unpack_from(">i", data, where)
        struct.pack_into(">i", data, where, offset - 20 * 512)


def avi_frames(claim: Callable[[int], int]) -> Callable[[bytearray], None]:
    """Let both headers of an AVI claim another number of frames."""

    def change(data: bytearray) -> None:
        for at in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
            (count,) = struct.unpack_from("<I", data, at)
            struct.pack_into("<I", data, at, claim(count))

    return change


def mkv_duration(factor: float | None) -> Callable[[bytearray], None]:
    """Let a Matroska file claim ``factor`` times its duration, or (None) none."""

    def change(data: bytearray) -> None:
        at = data.index(b"\x44\x89\x88")
        if factor is None:
            data[at : at + 3] = b"\xec\x40\x08"  # a void element of eight bytes
        else:
            (duration,) = struct.unpack_from(">d", data, at + 3)
            struct.pack_into(">d", data, at + 3, duration * factor)

    return change


def mp4_duration(factor: float) -> Callable[[bytearray], None]:
    """Let the movie, track and media headers of an MP4 claim ``factor`` times the duration."""

    def change(data: bytearray) -> None:
        for name, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
            at = data.index(name) + offset
            (duration,) = struct.unpack_from(">I", data, at)
            struct.pack_into(">I", data, at, int(duration * factor))

    return change


def unstamped(data: bytearray) -> None:
    """Take the timestamps of frames 50 and on from an MPEG-TS, those of key frames apart."""
    at, count = 0, 0
    while (at := data.find(b"\x00\x00\x01\xe0", at + 1)) >= 0:
        count += 1
        picture_header = data.find(b"\x00\x00\x01\x00", at)
        is_intra = data[picture_header + 5] >> 3 & 7 == 1
        if count > 50 and not is_intra:
            data[at + 7] = 0  # no timestamps; the bytes that held them become stuffing


def cut(part: float) -> Callable[[bytearray], None]:
    """Keep the first ``part`` of the bytes."""

    def change(data: bytearray) -> None:
        del data[int(len(data) * part) :]

    return change


def behead(packets: int) -> Callable[[bytearray], None]:
    """Take the first packets from an MPEG-TS: it begins in the middle of a group of pictures."""

    def change(data: bytearray) -> None:
        del data[: 188 * packets]

    return change


def damage(data: bytearray) -> None:
    """Overwrite 600 bytes at three quarters of the length."""
    at = len(data) * 3 // 4
    data[at : at + 600] = bytes(range(200)) * 3


def refer(kind: bytes, reference: bytes) -> Callable[[bytearray], None]:
    """Say in an MP4 whose boxes of one track lie behind its media that these are in another file.

    ``kind`` of the data reference: ``url ``, or ``alis`` with the path in an alias of Mac OS.
    """
    target = reference + b"\0"
    if kind == b"alis":
        target = bytes(150) + struct.pack(">HH", 2, len(reference)) + reference
        target += bytes(len(reference) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = kind + bytes(4) + target  # no flag: the media are not in this file
    entry = struct.pack(">I", len(entry) + 4) + entry

    def change(data: bytearray) -> None:
        at = data.index(b"dref") + 12
        (old,) = struct.unpack_from(">I", data, at)
        data[at : at + old] = entry
        for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
            box = data.index(name, data.index(b"moov")) - 4
            (size,) = struct.unpack_from(">I", data, box)
            struct.pack_into(">I", data, box, size + len(entry) - old)

    return change
