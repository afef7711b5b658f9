"""Read a file's header."""

from typing import BinaryIO

from pipeline.video.facts import VideoFacts
from pipeline.video.limits import DecodeLimits

__all__ = ["VideoFacts", "probe"]


def probe(file: BinaryIO, limits: DecodeLimits) -> VideoFacts:
    """Facts about a video or image."""
    raise NotImplementedError
