"""Where files are decoded and looked at, as configured: here, or in processes of their own."""

from collections.abc import Iterator, Sequence

from pipeline.config_decode import DecodeConfig
from pipeline.isolated.calls import decode_apart, look_apart
from pipeline.pool import MemoryPool
from pipeline.video.clips import ClipEnd, ClipFailure, ClipRequest, FrameRecipe, Segment
from pipeline.video.decode import decode_clips
from pipeline.video.facts import Header
from pipeline.video.files import ByteFile
from pipeline.video.host import Host
from pipeline.video.probe import look

_SEGMENTS = MemoryPool(kept_bytes=512 * 2**20)
"""Of this process, as no object of a decode task of Ray outlives its call."""

_THIS_PROCESS = Host(_SEGMENTS.empty)


def decode_file(
    file: ByteFile, clips: Sequence[ClipRequest], recipe: FrameRecipe, config: DecodeConfig
) -> Iterator[Segment | ClipEnd | ClipFailure]:
    """What ``decode_clips`` yields. Raises ``UserError`` where no process can be started."""
    if config.isolate:
        return decode_apart(file, clips, recipe, config.limits)
    return decode_clips(file, clips, recipe, config.limits, _THIS_PROCESS)


def look_at(file: ByteFile, config: DecodeConfig) -> Header:
    """What ``look`` returns and raises. Also ``UserError`` where no process can be started."""
    return (look_apart if config.isolate else look)(file, config.limits)
