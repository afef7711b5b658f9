"""Turning decoded frames upright: the eight ways a picture can lie."""

from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer

from pipeline.errors import Reason, SourceError

_TOLERANCE = 0.04  # about 2 degrees


@dataclass(frozen=True)
class Orientation:
    """How to turn a decoded frame upright: transpose first, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise, mirroring apart: 0, 90, 180 or 270."""
        if self.transpose:
            return 90 if self.mirror_y else 270
        return 180 if self.mirror_y else 0

    def upright(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A view of ``picture`` (height, width, channels), turned upright."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture after (or, which is the same, before) turning."""
        return (height, width) if self.transpose else (width, height)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """What the display matrix of a frame asks for; upright without one.

    Raises:
        SourceError: ``decode_error`` for a matrix that is not made of quarter turns and mirrors.
    """
    # `frame.side_data` would tie frame and container into a cycle, so that hundreds of decoded
    # frames lie about until the garbage collector comes by.
    entry = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if entry is None:
        return Orientation()
    # Nine 32-bit numbers: x' = a x + c y and y' = b x + d y, with a, b in the first row.
    a, b, _, c, d = (float(value) for value in np.frombuffer(bytes(entry), dtype="=i4")[:5])
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if max(straight, crossed) == 0:
        return Orientation()
    if min(straight, crossed) > _TOLERANCE * max(straight, crossed):
        raise SourceError(
            Reason.DECODE_ERROR,
            f"the display matrix turns by {frame.rotation} degrees, not by quarter turns",
        )
    if straight > crossed:
        return Orientation(mirror_x=a < 0, mirror_y=d < 0)
    return Orientation(transpose=True, mirror_x=c < 0, mirror_y=b < 0)
