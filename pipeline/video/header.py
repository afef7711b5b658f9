"""Which stream of a container is the video, and what the header says about it."""

from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.errors import Reason, SourceError
from pipeline.video.facts import Header, VideoFacts
from pipeline.video.files import GuardedFile, open_container, sniff
from pipeline.video.limits import DecodeLimits
from pipeline.video.orientation import orientation_of
from pipeline.video.sps import square_size
from pipeline.video.tables import check_tables

_MICROSECONDS = 1_000_000

_PLAIN_CODECS = ("h264", "hevc")
_SQUARE = (None, 0, 1)


def video_stream(container: InputContainer, limits: DecodeLimits) -> VideoStream:
    """The first video stream that is no cover picture.

    Raises:
        SourceError: ``no_video_stream``, ``unsupported_codec``, ``too_large``.
    """
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue
        context = stream.codec_context
        if context is None:
            raise SourceError(Reason.UNSUPPORTED_CODEC, "no decoder for the video stream")
        if context.width * context.height > limits.max_pixels:
            raise SourceError(
                Reason.TOO_LARGE,
                f"{context.width}x{context.height} is more than {limits.max_pixels} pixels",
            )
        return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise SourceError(Reason.NO_VIDEO_STREAM, f"no video stream (streams: {kinds})")


def read_header(file: GuardedFile, limits: DecodeLimits) -> Header | None:
    """What the header alone says of a video, at a tenth of what a first frame costs.

    None where it does not say enough, or a frame may well say otherwise: other containers and
    codecs, headers that turn pictures or contradict the stream, pixels that are not square, unknown
    lengths. What only the stream asks for is not seen: a turn (H.264's and HEVC's display
    orientation), or a crop from the left in HEVC. Such a source fails as ``hint_mismatch``.

    Raises:
        SourceError: what ``open_container`` and ``video_stream`` raise.
    """
    if sniff(file.head) != "mov":
        return None
    if not check_tables(file, limits.max_frames):
        return None
    with open_container(file, limits, decode=False) as container:
        stream = video_stream(container, limits)
        time_base, rate = stream.time_base, stream.average_rate
        if codec_name(stream) not in _PLAIN_CODECS or not time_base or not rate:
            return None
        size = stream.codec_context.width, stream.codec_context.height
        if codec_name(stream) == "h264" and square_size(stream.codec_context.extradata) != size:
            return None
        duration = _duration(container, stream, time_base)
        square = stream.sample_aspect_ratio in _SQUARE
        if not (square and all(size) and stream.frames and duration):
            return None
        return Header(*size, float(rate), stream.frames, duration)


def read_facts(
    container: InputContainer, stream: VideoStream, first: av.VideoFrame, origin: int
) -> VideoFacts:
    """Facts from the header, and from the first decoded frame with its timestamp ``origin``.

    Raises:
        SourceError: ``bad_timestamps`` without a time base.
    """
    time_base = stream.time_base
    if time_base is None or time_base <= 0:
        raise SourceError(Reason.BAD_TIMESTAMPS, "the video stream has no time base")
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect <= 0:
        aspect = Fraction(1)
    orientation = orientation_of(first)
    across = max(1, int(first.width * aspect + Fraction(1, 2)))
    width, height = orientation.size(across, first.height)
    rate = stream.average_rate
    return VideoFacts(
        width=width,
        height=height,
        coded_width=first.width,
        coded_height=first.height,
        sar_num=aspect.numerator,
        sar_den=aspect.denominator,
        rotation=orientation.rotation,
        fps=float(rate) if rate else None,
        frames=stream.frames or None,
        duration=_duration(container, stream, time_base),
        codec=codec_name(stream),
        pixel_format=first.format.name,
        container=container.format.name,
        time_base_num=time_base.numerator,
        time_base_den=time_base.denominator,
        origin=origin,
        is_image=False,
    )


def codec_name(stream: VideoStream) -> str:
    """The codec's own name, whichever decoder reads it: ``av1`` and not ``libdav1d``."""
    return str(stream.codec_context.codec.canonical_name)


def _duration(container: InputContainer, stream: VideoStream, time_base: Fraction) -> float | None:
    if stream.duration is not None and stream.duration > 0:
        return float(stream.duration * time_base)
    if container.duration is not None and container.duration > 0:
        return container.duration / _MICROSECONDS
    return None
