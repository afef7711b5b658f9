"""Original and reconstruction to look at: a video of both, and a sheet with their differences."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

Picture = npt.NDArray[np.uint8]
"""uint8 ``(H, W, 3)``, RGB."""

VideoCodec = Literal["libx264", "mpeg4"]

SHEET_FRAMES = 6
"""Frames on a sheet at the most."""

AMPLIFIED = 8
"""Differences are shown times this."""

_TICKS = 60_000  # a second; MPEG-4 takes no more than 65,535
_QUALITY: dict[VideoCodec, dict[str, str]] = {
    "libx264": {"crf": "12"},
    "mpeg4": {"flags": "+qscale", "global_quality": "236"},  # 2, in FFmpeg's unit of 118
}
_MARGIN = 4
_LABEL_HEIGHT = 16
_LEAST_WIDTH = 480


def video_codec() -> VideoCodec:
    """H.264 where this PyAV encodes it, else MPEG-4, which browsers do not play."""
    try:
        av.codec.Codec("libx264", "w")
    except av.codec.codec.UnknownCodecError:
        return "mpeg4"
    return "libx264"


class SideBySideVideo:
    """An MP4 with pictures beside each other: 4:2:0, BT.709, limited range, no sound.

    To be used as a context manager; the file is whole once that is left.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        rate: Fraction,
        codec: VideoCodec,
        pictures: int = 2,
    ) -> None:
        """Begin the file.

        Args:
            path: where it goes.
            height, width: of one of the pictures, in pixels; ``height`` is even.
            rate: frames per second, roughly: how long the last frame is shown follows from it.
            codec: of the video.
            pictures: how many are beside each other.
        """
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream: VideoStream = self._container.add_stream(
            codec, rate=rate, options=_QUALITY[codec]
        )
        self._stream.width, self._stream.height = pictures * width, height
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        self._last = -1

    def add(self, seconds: Fraction, *pictures: Picture) -> None:
        """Show pictures of one size from ``seconds`` on; times ascend."""
        whole = av.VideoFrame.from_ndarray(np.concatenate(pictures, axis=1), format="rgb24")
        frame = whole.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._last = frame.pts = max(self._last + 1, round(seconds * _TICKS))
        frame.time_base = Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class Sheet:
    """A few frames, evenly spread, of a clip of unknown length: original, decoded, difference.

    No more than ``SHEET_FRAMES`` frames are held, however many are added.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[str, Picture, Picture]] = []
        self._count = 0
        self._step = 1

    @property
    def labels(self) -> list[str]:
        """Of the frames held, in order."""
        return [label for label, _, _ in self._rows]

    def add(self, label: str, given: Picture, decoded: Picture) -> None:
        """Take the next frame into account: two pictures of one size."""
        if self._count % self._step == 0:
            self._rows.append((label, given.copy(), decoded.copy()))
        self._count += 1
        if len(self._rows) > SHEET_FRAMES:
            self._rows = self._rows[::2]
            self._step *= 2

    def image(self, title: str) -> Image.Image:
        """The sheet under a title: a row for each frame, differences times ``AMPLIFIED``."""
        rows = [(label, _row(given, decoded)) for label, given, decoded in self._rows]
        width = max([row.width for _, row in rows] + [_LEAST_WIDTH]) + 2 * _MARGIN
        height = _LABEL_HEIGHT + sum(row.height + _LABEL_HEIGHT for _, row in rows) + _MARGIN
        sheet = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((_MARGIN, 2), title, fill="black")
        top = _LABEL_HEIGHT
        for label, row in rows:
            columns = f"{label}: original | reconstruction | difference x {AMPLIFIED}"
            draw.text((_MARGIN, top + 2), columns, fill="black")
            sheet.paste(row, (_MARGIN, top + _LABEL_HEIGHT))
            top += row.height + _LABEL_HEIGHT
        return sheet


def difference(given: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8]) -> Picture:
    """How far pixels differ, times ``AMPLIFIED``; of one picture, or of several of one shape."""
    apart = np.abs(given.astype(np.int32) - decoded.astype(np.int32)) * AMPLIFIED
    shown: Picture = apart.clip(0, 255).astype(np.uint8)
    return shown


def _row(given: Picture, decoded: Picture) -> Image.Image:
    shown = difference(given, decoded)
    gap = np.full((len(given), _MARGIN, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate((given, gap, decoded, gap, shown), axis=1))
