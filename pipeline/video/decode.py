"""Decode clips of one file into segments of RGB windows."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from pipeline.video.clips import (
    ClipEnd,
    ClipFailure,
    ClipRequest,
    FrameRecipe,
    Segment,
    Target,
)
from pipeline.video.limits import DecodeLimits

__all__ = [
    "ClipEnd",
    "ClipFailure",
    "ClipRequest",
    "FrameRecipe",
    "Segment",
    "Target",
    "decode_clips",
]


def decode_clips(
    file: BinaryIO, clips: Sequence[ClipRequest], recipe: FrameRecipe, limits: DecodeLimits
) -> Iterator[Segment | ClipEnd | ClipFailure]:
    """Yield the segments asked for."""
    raise NotImplementedError
