"""The boxes of MOV and MP4 that are looked at before FFmpeg is: their sample tables and matrices.

FFmpeg makes an entry of each sample before it reads the first: a file of a kilobyte could ask for
gigabytes. A sample has a byte at the least.
"""

import struct
from collections.abc import Iterator

from pipeline.errors import Reason, SourceError
from pipeline.video.files import GuardedFile

_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MOST_BOXES = 4096

_MATRIX = {(1, b"mvhd"): 36, (2, b"tkhd"): 40}
_LONG_TIMES = 12
"""Where the matrix begins in a box's data, and how much later in version 1, whose times are longer
(ISO/IEC 14496-12, 8.2.2 and 8.3.2)."""

_UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix that changes nothing (fixed point: 16.16, the last column 2.30)."""


def check_tables(file: GuardedFile, max_frames: int) -> bool:
    """Refuse a MOV or MP4 whose tables claim too many samples.

    Returns whether it has the headers of a film and its tracks, and none of them turns pictures.

    Raises:
        SourceError: ``too_large``, or a failure of the file.
    """
    seen: dict[bytes, bool] = {}
    for depth, name, begin in _boxes(file):
        if depth == len(_PATH) and name in (b"stsz", b"stz2"):
            _check(int.from_bytes(file.at(begin + 8, 4), "big"), file.size, max_frames)
        elif (depth, name) in _MATRIX:
            seen[name] = seen.get(name, True) and _upright(file, begin, _MATRIX[depth, name])
    return len(seen) == len(_MATRIX) and all(seen.values())


def _upright(file: GuardedFile, begin: int, at: int) -> bool:
    """Whether the matrix in a box's data, at ``at`` in version 0, changes nothing."""
    version = file.at(begin, 1)
    if version == b"\1":
        at += _LONG_TIMES
    return version in (b"\0", b"\1") and file.at(begin + at, len(_UPRIGHT)) == _UPRIGHT


def _boxes(file: GuardedFile) -> Iterator[tuple[int, bytes, int]]:
    """Boxes on the way to sample tables and beside it: depth, name, and where their data begin."""
    seen = 0
    spans = [(0, file.size, 0)]  # what is to be looked at: from, to, depth in `_PATH`
    while spans:
        offset, stop, depth = spans.pop()
        while offset + 8 <= stop and seen < _MOST_BOXES:
            seen += 1
            head = file.at(offset, 16)
            size, name = int.from_bytes(head[:4], "big"), head[4:8]
            begin = offset + 8
            if size == 1:
                size, begin = int.from_bytes(head[8:16], "big"), offset + 16
            end = stop if size == 0 else min(stop, offset + size)
            if size and size < 8:
                break
            yield depth, name, begin
            if depth < len(_PATH) and name == _PATH[depth]:
                spans.append((begin, end, depth + 1))
            offset = end


def _check(samples: int, size: int, max_frames: int) -> None:
    # Sound has more samples than there are frames, of one byte at the least.
    if samples > size or samples > 64 * max_frames:
        raise SourceError(
            Reason.TOO_LARGE, f"a sample table of {samples} entries, in a file of {size} bytes"
        )
