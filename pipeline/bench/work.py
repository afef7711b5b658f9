"""What the decode benchmark decodes, and the pipeline's own way to do it."""

from dataclasses import dataclass
from fractions import Fraction

from pipeline.buckets import Geometry, ResizeFilter, ResizePolicy
from pipeline.config import StorageConfig
from pipeline.config_decode import DecodeConfig
from pipeline.errors import UserError
from pipeline.isolated.choice import decode_file
from pipeline.reading import open_source
from pipeline.video.decode import (
    ClipFailure,
    ClipRequest,
    FrameRecipe,
    Segment,
    Target,
)
from pipeline.video.facts import VideoFacts
from pipeline.windows import WINDOW_FRAMES, WindowGrid

Span = tuple[float | None, float | None]
"""Start and end in seconds; None for the bounds of the file."""


@dataclass(frozen=True)
class Work:
    """One local file, the clips wanted of it, and the frames they are to become."""

    path: str
    name: str
    spans: tuple[Span, ...]
    geometry: Geometry
    policy: ResizePolicy
    filter: ResizeFilter
    fps: Fraction | None
    segment_windows: int
    facts: VideoFacts


def decode_as_the_pipeline(work: Work) -> int:
    """Decode through the code of the decode stage; how many frames lie in windows.

    All frames are wanted once: windows adjoin, and the last is padded. Raises ``UserError``.
    """
    return _frames(work, DecodeConfig(isolate=False))


def decode_isolated(work: Work) -> int:
    """The same in a decoder process, as runs do it by default. Raises ``UserError``."""
    return _frames(work, DecodeConfig(isolate=True))


def _frames(work: Work, config: DecodeConfig) -> int:
    target = Target(work.geometry.bucket, work.segment_windows)
    requests = [
        ClipRequest(str(index), start, end, ((0, None),), (target,))
        for index, (start, end) in enumerate(work.spans)
    ]
    recipe = FrameRecipe(work.fps, WindowGrid(WINDOW_FRAMES, "pad"), work.policy, work.filter)
    frames = 0
    with open_source(work.path, None, StorageConfig()) as file:
        for found in decode_file(file, requests, recipe, config):
            if isinstance(found, ClipFailure):
                raise UserError(f"{work.name}: {found.message}")
            if isinstance(found, Segment):
                frames += int(found.valid_frames.sum())
    return frames
