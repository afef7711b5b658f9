"""Sample tables of MOV and MP4 that claim more samples than the file can hold.

FFmpeg makes an entry of each before it reads the first: a file of a kilobyte could ask for
gigabytes. A sample has a byte at the least.
"""

from pipeline.errors import Reason, SourceError
from pipeline.video.files import GuardedFile

_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MOST_BOXES = 4096


def check_tables(file: GuardedFile, max_frames: int) -> None:
    """Refuse a MOV or MP4 whose tables claim too many samples.

    Raises:
        SourceError: ``too_large``, or a failure of the file.
    """
    seen = 0
    spans = [(0, file.size, 0)]  # what is to be looked at: from, to, depth in `_PATH`
    while spans:
        offset, stop, depth = spans.pop()
        while offset + 8 <= stop and seen < _MOST_BOXES:
            seen += 1
            head = file.at(offset, 20)
            size, name = int.from_bytes(head[:4], "big"), head[4:8]
            begin = offset + 8
            if size == 1:
                size, begin = int.from_bytes(head[8:16], "big"), offset + 16
            end = stop if size == 0 else min(stop, offset + size)
            if size and size < 8:
                break
            if depth == len(_PATH) and name in (b"stsz", b"stz2"):
                _check(int.from_bytes(head[16:20], "big"), file.size, max_frames)
            elif depth < len(_PATH) and name == _PATH[depth]:
                spans.append((begin, end, depth + 1))
            offset = end


def _check(samples: int, size: int, max_frames: int) -> None:
    # Sound has more samples than there are frames, of one byte at the least.
    if samples > size or samples > 64 * max_frames:
        raise SourceError(
            Reason.TOO_LARGE, f"a sample table of {samples} entries, in a file of {size} bytes"
        )
