"""Where files are decoded and looked at, as configured: here, or in processes of their own."""

from collections.abc import Iterator, Sequence

from pipeline.config_decode import DecodeConfig
from pipeline.isolated.calls import decode_apart, look_apart
from pipeline.video.clips import ClipEnd, ClipFailure, ClipRequest, FrameRecipe, Segment
from pipeline.video.decode import decode_clips
from pipeline.video.facts import Header
from pipeline.video.files import ByteFile
from pipeline.video.probe import look


def decode_file(
    file: ByteFile, clips: Sequence[ClipRequest], recipe: FrameRecipe, config: DecodeConfig
) -> Iterator[Segment | ClipEnd | ClipFailure]:
    """What ``decode_clips`` yields. Raises ``UserError`` where no process can be started."""
    decode = decode_apart if config.isolate else decode_clips
    return decode(file, clips, recipe, config.limits)


def look_at(file: ByteFile, config: DecodeConfig) -> Header:
    """What ``look`` returns and raises. Also ``UserError`` where no process can be started."""
    return (look_apart if config.isolate else look)(file, config.limits)
