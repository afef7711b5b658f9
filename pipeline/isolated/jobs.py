"""What a decoder is asked for, and how what it found travels: as JSON, but for the frames."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.buckets import Bucket, Geometry
from pipeline.errors import Reason
from pipeline.video.clips import ClipEnd, ClipFailure, ClipRequest, FrameRecipe, Segment
from pipeline.video.facts import VideoFacts
from pipeline.video.host import Frames
from pipeline.video.limits import DecodeLimits


@dataclass(frozen=True)
class Job:
    """One file: clips to decode, or its facts where ``recipe`` is None.

    ``pieces`` of memory are no longer needed by the parent.
    """

    size: int
    clips: tuple[ClipRequest, ...]
    recipe: FrameRecipe | None
    limits: DecodeLimits
    pieces: tuple[int, ...] = ()


def segment_to_json(segment: Segment, piece: int | None) -> bytes:
    """Everything of a segment but its frames, which are in this piece of memory, if any."""
    return json.dumps(
        {
            "piece": piece,
            "key": segment.key,
            "bucket": segment.bucket.name,
            "first_window": segment.first_window,
            "pts": segment.pts.tolist(),
            "valid_frames": segment.valid_frames.tolist(),
            "first_frames": segment.first_frames.tolist(),
            "time_base": [segment.time_base.numerator, segment.time_base.denominator],
            "geometry": segment.geometry.to_dict(),
            "fps": segment.fps,
            "last": segment.last,
        }
    ).encode()


def segment_from_json(
    text: bytes, frames: Callable[[tuple[int, ...]], Frames]
) -> tuple[Segment, int | None]:
    """Inverse of ``segment_to_json``; ``frames`` gives those of a shape.

    Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what is no segment.
    """
    fields: dict[str, Any] = json.loads(text)
    piece = fields.pop("piece")
    bucket = Bucket.parse(fields.pop("bucket"))
    pts = np.array(fields.pop("pts"), np.int64)
    count, length = pts.shape
    placed = fields.pop("geometry")
    del placed["height"], placed["width"]
    segment = Segment(
        bucket=bucket,
        frames=frames((count, length, bucket.height, bucket.width, 3)),
        pts=pts,
        valid_frames=np.array(fields.pop("valid_frames"), np.int64),
        first_frames=np.array(fields.pop("first_frames"), np.int64),
        time_base=Fraction(*fields.pop("time_base")),
        geometry=Geometry(bucket=bucket, **placed),
        **fields,
    )
    return segment, piece


def answer_to_json(found: ClipEnd | ClipFailure | VideoFacts) -> bytes:
    """An end, a failure, or a file's facts."""
    if isinstance(found, VideoFacts):
        return json.dumps({"facts": found.to_dict()}).encode()
    if isinstance(found, ClipEnd):
        facts = found.facts.to_dict()
        return json.dumps(
            {"key": found.key, "frames": found.frames, "windows": found.windows, "facts": facts}
        ).encode()
    return json.dumps({"key": found.key, "reason": found.reason, "message": found.message}).encode()


def answer_from_json(text: bytes) -> ClipEnd | ClipFailure | VideoFacts:
    """Inverse of ``answer_to_json``. Raises ``ValueError``, ``TypeError`` or ``KeyError``."""
    fields = json.loads(text)
    if "reason" in fields:
        return ClipFailure(fields["key"], Reason(fields["reason"]), str(fields["message"]))
    facts = VideoFacts.from_dict(fields.pop("facts"))
    return ClipEnd(facts=facts, **fields) if fields else facts
