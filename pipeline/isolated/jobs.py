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
from pipeline.video.facts import Header, VideoFacts
from pipeline.video.host import Frames
from pipeline.video.limits import DecodeLimits


@dataclass(frozen=True)
class Job:
    """One file: clips to decode, or what a plan needs to know of it where ``recipe`` is None.

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


def answer_to_json(found: ClipEnd | ClipFailure | Header) -> bytes:
    """An end, a failure, or what is known of a file."""
    if isinstance(found, Header):
        name = "facts" if isinstance(found, VideoFacts) else "header"
        return json.dumps({name: found.to_dict()}).encode()
    facts = None if found.facts is None else found.facts.to_dict()
    if isinstance(found, ClipEnd):
        return json.dumps(
            {"key": found.key, "frames": found.frames, "windows": found.windows, "facts": facts}
        ).encode()
    return json.dumps(
        {"key": found.key, "reason": found.reason, "message": found.message, "facts": facts}
    ).encode()


def answer_from_json(text: bytes) -> ClipEnd | ClipFailure | Header:
    """Inverse of ``answer_to_json``. Raises ``ValueError``, ``TypeError`` or ``KeyError``."""
    fields = json.loads(text)
    if "header" in fields:
        return Header.from_dict(fields["header"])
    told = fields.pop("facts")
    if told is None and "reason" not in fields:
        raise TypeError("an answer without facts")
    if "reason" in fields:
        facts = None if told is None else VideoFacts.from_dict(told)
        return ClipFailure(fields["key"], Reason(fields["reason"]), str(fields["message"]), facts)
    facts = VideoFacts.from_dict(told)
    return ClipEnd(facts=facts, **fields) if fields else facts
