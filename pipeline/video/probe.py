"""What a file is, from its header and, where that is needed, its first frame."""

from pipeline.video.facts import Header, VideoFacts
from pipeline.video.files import ByteFile, GuardedFile
from pipeline.video.header import read_header
from pipeline.video.host import HERE, Host
from pipeline.video.image import is_image, probe_image
from pipeline.video.limits import DecodeLimits
from pipeline.video.source import FrameSource


def probe(file: ByteFile, limits: DecodeLimits, host: Host = HERE) -> VideoFacts:
    """Facts about a video or still image.

    Args:
        file: a seekable binary file, left open at any position.
        limits: what the file may cost.
        host: who listens.

    Raises:
        SourceError: the file is not a video or image that can be read; the reason says why.
    """
    return _probe(GuardedFile(file), limits, host)


def look(file: ByteFile, limits: DecodeLimits, host: Host = HERE) -> Header:
    """What a plan needs to know of a video or still image: what ``probe`` says, where the header
    alone does not say it. Takes and raises what ``probe`` does.

    What only decoding can tell is wrong with a file is not seen.
    """
    guarded = GuardedFile(file)
    return read_header(guarded, limits) or _probe(guarded, limits, host)


def _probe(guarded: GuardedFile, limits: DecodeLimits, host: Host) -> VideoFacts:
    if is_image(guarded):
        return probe_image(guarded, limits)
    source = FrameSource(guarded, limits, host.progress)
    try:
        return source.facts
    finally:
        source.close()
