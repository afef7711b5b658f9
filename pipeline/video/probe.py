"""What a file is, from its header and its first frame."""

from pipeline.video.facts import VideoFacts
from pipeline.video.files import ByteFile, GuardedFile
from pipeline.video.host import HERE, Host
from pipeline.video.image import is_image, probe_image
from pipeline.video.limits import DecodeLimits
from pipeline.video.source import FrameSource

__all__ = ["VideoFacts", "probe"]


def probe(file: ByteFile, limits: DecodeLimits, host: Host = HERE) -> VideoFacts:
    """Facts about a video or still image.

    Args:
        file: a seekable binary file, left open at any position.
        limits: what the file may cost.
        host: who listens.

    Raises:
        SourceError: the file is not a video or image that can be read; the reason says why.
    """
    guarded = GuardedFile(file)
    if is_image(guarded):
        return probe_image(guarded, limits)
    source = FrameSource(guarded, limits, host.progress)
    try:
        return source.facts
    finally:
        source.close()
