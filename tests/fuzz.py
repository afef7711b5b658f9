"""Seeded mutations of files: bits, cuts, splices, lengths of boxes. A seed gives the same again."""

import random
import struct
from collections.abc import Callable

_BOX_NAMES = (
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"ctts", b"stsz", b"stsc"),
    *(b"stco", b"elst", b"mvhd", b"tkhd", b"mdhd", b"avcC", b"hvcC", b"avih", b"strh", b"strf"),
    *(b"idx1", b"movi", b"IHDR", b"IDAT", b"PAR1", b"ustar"),
)
_EDGES = (0, 1, 2, 7, 8, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def flip(data: bytearray, draw: random.Random) -> None:
    """Change some bits."""
    for _ in range(draw.choice((1, 2, 8, 64))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def early(data: bytearray, draw: random.Random) -> None:
    """Change bytes near the beginning, where headers are."""
    for _ in range(draw.choice((1, 4, 16))):
        data[draw.randrange(min(len(data), 1024))] = draw.randrange(256)


def cut(data: bytearray, draw: random.Random) -> None:
    """Keep the beginning."""
    del data[draw.randrange(len(data)) :]


def splice(data: bytearray, draw: random.Random) -> None:
    """Copy a part over, or into, another place."""
    size = draw.randrange(1, max(2, len(data) // 4))
    start, to = draw.randrange(len(data)), draw.randrange(len(data))
    data[to : to + draw.choice((0, size))] = data[start : start + size]


def drop(data: bytearray, draw: random.Random) -> None:
    """Take a part out."""
    start = draw.randrange(len(data))
    del data[start : start + draw.randrange(1, max(2, len(data) // 8))]


def number(data: bytearray, draw: random.Random) -> None:
    """Write a number of the edge of its range over four bytes."""
    if len(data) >= 4:
        at = draw.randrange(len(data) - 3)
        struct.pack_into(draw.choice((">I", "<I")), data, at, draw.choice(_EDGES))


def box(data: bytearray, draw: random.Random) -> None:
    """Change the size of a box or a field behind its name, or the name."""
    places = [at for name in _BOX_NAMES if (at := data.find(name)) >= 4]
    if not places:
        number(data, draw)
        return
    at = draw.choice(places) + 4 * draw.choice((-1, 1, 2, 3, 4, 5, 0))
    if 0 <= at <= len(data) - 4:
        struct.pack_into(draw.choice((">I", "<I")), data, at, draw.choice(_EDGES))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(flip, early, cut, splice, drop, number, box, box),
)


def mutated(data: bytes, seed: str) -> bytes:
    """``data`` after one to three mutations, as ``seed`` says."""
    draw = random.Random(seed)
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if changed:
            draw.choice(MUTATIONS)(changed, draw)
    return bytes(changed)
