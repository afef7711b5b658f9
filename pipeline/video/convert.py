"""From a decoded frame to RGB at a bucket's size.

One pass of swscale converts and resamples at once, straight from the coded pixels (square or not)
to the scaled size. Rounding is the accurate, bit-exact kind, so that the numbers do not depend on
the processor, and no chroma is dropped on the way. Frames keep their own matrix, range and chroma
siting; a matrix that the stream leaves open is taken as BT.601, an open range as limited (full for
the ``yuvj`` formats), as FFmpeg does. Transfer curves stay as they are: there is no tone mapping.
Interlaced frames are scaled as whole pictures, which is FFmpeg's default too.
"""

from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.reformatter import Colorspace, Interpolation

from pipeline.buckets import Geometry, ResizeFilter
from pipeline.errors import Reason, SourceError
from pipeline.video.orientation import Orientation

Picture = npt.NDArray[np.uint8]

_UNSPECIFIED = 2
# FFmpeg's numbers of matrices: RGB, BT.709, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020.
_MATRICES = frozenset({0, 1, _UNSPECIFIED, 4, 5, 6, 7, 9})
_KERNELS = {
    "bicubic": Interpolation.BICUBIC,
    "area": Interpolation.AREA,
    "bilinear": Interpolation.BILINEAR,
    "lanczos": Interpolation.LANCZOS,
}
_EXACT = (
    Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def to_rgb(
    frame: av.VideoFrame, geometry: Geometry, orientation: Orientation, kernel: ResizeFilter
) -> Picture:
    """The frame as it belongs in the bucket: uint8 ``(height, width, 3)``, RGB, 0 to 255.

    Raises:
        SourceError: ``decode_error`` if swscale cannot convert the frame.
    """
    if int(frame.colorspace) not in _MATRICES:
        raise SourceError(
            Reason.DECODE_ERROR, f"colour matrix {int(frame.colorspace)} is not supported"
        )
    width, height = orientation.size(geometry.scaled_width, geometry.scaled_height)
    unspecified = int(frame.colorspace) == _UNSPECIFIED and not frame.format.is_rgb
    try:
        if frame.interlaced_frame:
            frame = _progressive(frame)
        scaled = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=Colorspace.ITU601 if unspecified else None,
            interpolation=int(_KERNELS[kernel] | _EXACT),
            threads=1,
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(Reason.DECODE_ERROR, f"cannot convert a frame: {error}") from error
    pixels: Picture = scaled.to_ndarray()  # type: ignore[assignment]
    return place(orientation.upright(pixels), geometry)


def _progressive(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture without the mark that makes swscale take the two fields apart."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1),
    )
    source.link_to(mark := graph.add("setfield", "prog"))
    mark.link_to(graph.add("buffersink"))
    graph.configure()
    graph.vpush(frame)
    return graph.vpull()


def place(picture: Picture, geometry: Geometry) -> Picture:
    """Crop or pad an upright picture of the scaled size to the bucket."""
    bucket = geometry.bucket
    part = picture[
        geometry.crop_top : geometry.crop_top + bucket.height,
        geometry.crop_left : geometry.crop_left + bucket.width,
    ]
    if part.shape[:2] == (bucket.height, bucket.width):
        return np.ascontiguousarray(part)
    padded = np.zeros((bucket.height, bucket.width, 3), np.uint8)
    height, width = part.shape[:2]
    top, left = geometry.pad_top, geometry.pad_left
    padded[top : top + height, left : left + width] = part
    return padded


class SharedFrame:
    """A source frame that several windows may show; converted at most once per geometry."""

    def __init__(
        self, pts: int, frame: av.VideoFrame, orientation: Orientation, kernel: ResizeFilter
    ) -> None:
        self.pts = pts
        self._frame: av.VideoFrame | None = frame
        self._orientation = orientation
        self._kernel = kernel
        self._pictures: dict[Geometry, Picture] = {}

    def rgb(self, geometry: Geometry) -> Picture:
        """The picture for ``geometry``: see ``to_rgb``. Not to be written to.

        Raises:
            SourceError: the frame cannot be converted.
        """
        picture = self._pictures.get(geometry)
        if picture is None:
            if self._frame is None:
                raise RuntimeError(f"frame {self.pts} was let go before {geometry} was asked for")
            picture = to_rgb(self._frame, geometry, self._orientation, self._kernel)
            self._pictures[geometry] = picture
        return picture

    def let_go(self) -> None:
        """Free the decoded frame; pictures made so far stay."""
        self._frame = None
