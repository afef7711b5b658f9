"""From a decoded frame to RGB at a bucket's size.

One pass of swscale converts and resamples at once, straight from the coded pixels (square or not)
to the scaled size. Rounding is the accurate, bit-exact kind, so that the numbers do not depend on
the processor, and no chroma is dropped on the way. Frames keep their own matrix, range and chroma
siting; a matrix that the stream leaves open is taken as BT.601, an open range as limited (full for
the ``yuvj`` formats), as FFmpeg does. Transfer curves stay as they are: there is no tone mapping.
Interlaced frames are scaled as whole pictures, which is FFmpeg's default too.

swscale writes packed RGB pixel by pixel, and planes of R, G and B with vector instructions: where
both are known to give the same numbers, planes are asked for and interleaved here, in a third of
the time.
"""

from fractions import Fraction
from functools import cache

import av
import numpy as np
import numpy.typing as npt
from av.filter import Graph
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from pipeline.buckets import Geometry, ResizeFilter
from pipeline.errors import Reason, SourceError
from pipeline.video.orientation import Orientation

Picture = npt.NDArray[np.uint8]

Channel = npt.NDArray[np.uint8]
"""R, G or B of a picture: ``(height, width)``."""

_UNSPECIFIED = 2
# FFmpeg's numbers of matrices: RGB, BT.709, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020.
_MATRICES = frozenset({0, 1, _UNSPECIFIED, 4, 5, 6, 7, 9})
KERNELS = {
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


_LEAST_HEIGHT = 64
"""Lines of a frame below which swscale may shorten any kernel to two lines."""

_LEAST_WEIGHT = Fraction(1, 20)
"""Of the third line, so that swscale does not leave it out."""


@cache
def planes_are_exact(kernel: ResizeFilter, lines: int, rows: int) -> bool:
    """Whether planes have the numbers of packed RGB, where ``lines`` are scaled to ``rows``.

    Packed RGB is rounded in its own way where no more than two lines are blended. ``bicubic`` and
    ``lanczos`` blend four or more. The others blend three where the kernel of some row, centred
    ``off`` a line, reaches the lines on both sides of that one.
    """
    if lines < _LEAST_HEIGHT:
        return False
    if kernel in ("bicubic", "lanczos"):
        return True
    shrink = Fraction(lines, rows)
    if shrink == 2:
        return True  # `area` blends two lines here, but halves need no rounding
    reach = (shrink + 1) / 2 if kernel == "area" else shrink
    # Rows are centred 1/d apart between two lines, d the denominator: the nearest to a line.
    off = Fraction((shrink.numerator - shrink.denominator) % 2, 2 * shrink.denominator)
    return reach - 1 - off >= _LEAST_WEIGHT


class Scaler:
    """Converts and resamples frames with one kernel.

    Keeps what swscale prepares for a geometry, and pictures that are no longer needed: memory
    fresh from the system is slow at first touch. Serves one thread.
    """

    def __init__(self, kernel: ResizeFilter) -> None:
        self._kernel = kernel
        self._flags = int(KERNELS[kernel] | _EXACT)
        self._prepared: dict[Geometry, VideoReformatter] = {}
        self._spare: dict[Geometry, list[Picture]] = {}

    def blank(self, geometry: Geometry) -> Picture:
        """A picture to draw on; black where the geometry pads."""
        spare = self._spare.get(geometry)
        if spare:
            return spare.pop()
        bucket = geometry.bucket
        return np.zeros((bucket.height, bucket.width, 3), np.uint8)

    def take_back(self, geometry: Geometry, picture: Picture) -> None:
        """Let ``blank`` use a picture again that was drawn for ``geometry``."""
        self._spare.setdefault(geometry, []).append(picture)

    def channels(
        self, frame: av.VideoFrame, geometry: Geometry, width: int, height: int
    ) -> tuple[Channel, Channel, Channel]:
        """R, G and B of the whole frame at ``width`` x ``height``, as it is coded.

        Raises:
            av.error.FFmpegError, ValueError: swscale cannot convert the frame.
        """
        unspecified = int(frame.colorspace) == _UNSPECIFIED and not frame.format.is_rgb
        planar = planes_are_exact(self._kernel, frame.height, height)
        prepared = self._prepared.get(geometry)
        if prepared is None:
            prepared = self._prepared[geometry] = VideoReformatter()
        scaled = prepared.reformat(
            frame,
            width=width,
            height=height,
            format="gbrp" if planar else "rgb24",
            src_colorspace=Colorspace.ITU601 if unspecified else None,
            interpolation=self._flags,
            threads=1,
        )
        if planar:
            green, blue, red = (_channel(plane) for plane in scaled.planes)
            return red, green, blue
        pixels: Picture = scaled.to_ndarray()  # type: ignore[assignment]
        return pixels[..., 0], pixels[..., 1], pixels[..., 2]


def _channel(plane: VideoPlane) -> Channel:
    """The pixels of a plane of bytes, without what pads its lines."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return lines[:, : plane.width]


def to_rgb(
    frame: av.VideoFrame, geometry: Geometry, orientation: Orientation, scaler: Scaler
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
    try:
        if frame.interlaced_frame:
            frame = _progressive(frame)
        channels = scaler.channels(frame, geometry, width, height)
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(Reason.DECODE_ERROR, f"cannot convert a frame: {error}") from error
    picture = scaler.blank(geometry)
    for index, channel in enumerate(channels):
        place(orientation.upright(channel), geometry, picture[..., index])
    return picture


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


def place(scaled: Channel, geometry: Geometry, target: Channel) -> None:
    """Copy what the bucket shows of an upright channel of the scaled size; padding stays."""
    bucket = geometry.bucket
    rows = min(geometry.scaled_height, bucket.height)
    columns = min(geometry.scaled_width, bucket.width)
    shown = scaled[geometry.crop_top :, geometry.crop_left :][:rows, :columns]
    target[geometry.pad_top :, geometry.pad_left :][:rows, :columns] = shown


class SharedFrame:
    """A source frame that several windows may show; converted at most once per geometry."""

    def __init__(
        self, pts: int, frame: av.VideoFrame, orientation: Orientation, scaler: Scaler
    ) -> None:
        self.pts = pts
        self._frame: av.VideoFrame | None = frame
        self._orientation = orientation
        self._scaler = scaler
        self._pictures: dict[Geometry, Picture] = {}

    def __del__(self) -> None:
        for geometry, picture in self._pictures.items():
            self._scaler.take_back(geometry, picture)

    def rgb(self, geometry: Geometry) -> Picture:
        """The picture for ``geometry``: see ``to_rgb``. Not to be written to, or kept.

        Raises:
            SourceError: the frame cannot be converted.
        """
        picture = self._pictures.get(geometry)
        if picture is None:
            if self._frame is None:
                raise RuntimeError(f"frame {self.pts} was let go before {geometry} was asked for")
            picture = to_rgb(self._frame, geometry, self._orientation, self._scaler)
            self._pictures[geometry] = picture
        return picture

    def let_go(self) -> None:
        """Free the decoded frame; pictures made so far stay."""
        self._frame = None
