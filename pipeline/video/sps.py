"""Picture size in the parameter set of an H.264 stream, which MP4's own headers may contradict."""

_HIGH_PROFILES = frozenset([44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244])
"""Profiles that tell their chroma format (ITU-T H.264, 7.3.2.1.1)."""

_CHROMA_STEPS = {0: (1, 1), 1: (2, 2), 2: (2, 1), 3: (1, 1)}
"""Luma samples, across and down, of one unit of cropping, by chroma format (table 6-1)."""

_OWN_ASPECT = 255
_IS_SET = 7
"""Number of the kind of a unit that holds a sequence parameter set (table 7-1)."""

_MOST_ZEROS = 32


class _Bits:
    """Reads bits from the first on. Raises ``IndexError`` behind the last."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int = 1) -> int:
        """An unsigned number of so many bits."""
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - self._at % 8) & 1
            self._at += 1
        return value

    def golomb(self) -> int:
        """An unsigned Exp-Golomb number (9.1); a signed one takes the same bits."""
        zeros = 0
        while not self.take():
            zeros += 1
        if zeros > _MOST_ZEROS:
            raise IndexError("no number is so long")
        return (1 << zeros) - 1 + self.take(zeros)


def square_size(extradata: bytes | None) -> tuple[int, int] | None:
    """Width and height in pixels of H.264 with square pixels, from an MP4's ``avcC``.

    None where there is no such record, where it has not one parameter set, and where that has other
    pixels, parts that are seldom and not read here (scaling lists), or a crop from the left, which
    FFmpeg's decoder does not always apply.
    """
    try:
        if extradata is None or extradata[0] != 1 or extradata[5] & 31 != 1:
            return None
        if extradata[8] & 31 != _IS_SET:
            return None
        length = int.from_bytes(extradata[6:8], "big")
        return _size(_Bits(extradata[9 : 8 + length].replace(b"\0\0\3", b"\0\0")))
    except (IndexError, KeyError):
        return None


def _size(bits: _Bits) -> tuple[int, int] | None:
    """Of a sequence parameter set (7.3.2.1.1 and E.1.1), behind the byte that names it one."""
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()
    chroma = 1
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        bits.take(chroma == 3)
        bits.golomb()
        bits.golomb()
        bits.take()
        if bits.take():
            return None
    bits.golomb()
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take()
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.take()
    across, down = bits.golomb() + 1, bits.golomb() + 1
    frames_only = bits.take()
    if not frames_only:
        bits.take()
    bits.take()
    left, right, top, bottom = (bits.golomb() for _ in range(4)) if bits.take() else (0, 0, 0, 0)
    if left:
        return None
    if bits.take() and bits.take():
        aspect = bits.take(8)
        if aspect > 1 and (aspect != _OWN_ASPECT or bits.take(16) != bits.take(16)):
            return None
    step, rows = _CHROMA_STEPS[chroma]
    fields = 2 - frames_only
    width = 16 * across - step * right
    return width, fields * (16 * down - rows * (top + bottom))
