"""Tiny files that ask for much, made of finished clips."""

import struct
import zlib
from pathlib import Path

from tests import clips


def huge_frames(path: Path, clip: Path) -> Path:
    """An AVI of JPEG pictures, each of which says that it has 65535×65535 pixels."""
    data = bytearray(clip.read_bytes())
    at = 0
    while (at := data.find(b"\xff\xc0\x00\x11\x08", at + 1)) >= 0:
        struct.pack_into(">HH", data, at + 5, 65535, 65535)
    path.write_bytes(data)
    return path


def huge_header(path: Path, clip: Path) -> Path:
    """An AVI whose header says 65535×65535."""
    data = bytearray(clip.read_bytes())
    at = data.index(b"strf") + 8
    struct.pack_into("<II", data, at + 4, 65535, 65535)
    path.write_bytes(data)
    return path


def huge_png(path: Path) -> Path:
    """A PNG of 65535×65535 pixels in a hundred bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)
    packed = b"IDAT" + zlib.compress(bytes(64))
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, packed, b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data)
    return path


def many_samples(path: Path, clip: Path, count: int) -> Path:
    """An MP4 whose tables agree that it has ``count`` samples of ten bytes."""
    data = bytearray(clip.read_bytes())
    at = data.index(b"stsz")
    struct.pack_into(">II", data, at + 8, 10, count)
    struct.pack_into(">I", data, data.index(b"stts") + 12, count)
    struct.pack_into(">I", data, data.index(b"stsc") + 16, count)
    path.write_bytes(data)
    return path


def ten_hours(path: Path) -> Path:
    """An MP4 of 40 frames, the last twenty of them ten hours behind the others."""
    return clips.h264(path, count=40, times=lambda i: i + (25 * 36_000 if i >= 20 else 0))


def nested(path: Path, name: bytes, depth: int = 200_000) -> Path:
    """An MP4 of boxes, each within the one before it."""
    boxes = (struct.pack(">I4s", 8 * (depth - k), name if k else b"moov") for k in range(depth))
    path.write_bytes(struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"isom") + b"".join(boxes))
    return path
