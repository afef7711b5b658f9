"""Packs: whole segments of one bucket, on their way from decode through encode to write.

A pack travels as one row of numpy columns, each with a leading axis of 1 (Ray Data's batch of one
row): ``meta`` is JSON text, and the tensors are the frames (after decode) or the latents (after
encode). Events, which tell that a source ended or failed, ride in the meta of the next pack, and so
do references: windows that the cache holds already, without frames.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from pipeline.effort import Effort
from pipeline.video.facts import VideoFacts

Batch = dict[str, np.ndarray]

FRAMES = "frames"
META = "meta"

_META_STEP = 8192
"""Characters by which the column of metas grows."""


@dataclass(frozen=True)
class SegmentInfo:
    """One segment of a pack: everything that its row in the table ``samples`` says of it."""

    source_id: str
    generation: str
    bucket: str
    first_window: int
    windows: int
    frames: int
    pts: list[list[int]]
    time_base: tuple[int, int]
    valid_frames: list[int]
    first_frames: list[int]
    sample_ids: list[str]
    geometry: dict[str, Any]
    fps: float
    last: bool
    frames_actual: int | None

    def part(self, begin: int, stop: int) -> "SegmentInfo":
        """The windows [begin, stop) of the segment, counted from its first, as one of their own."""
        ends = stop == self.windows
        return replace(
            self,
            first_window=self.first_window + begin,
            windows=stop - begin,
            pts=self.pts[begin:stop],
            valid_frames=self.valid_frames[begin:stop],
            first_frames=self.first_frames[begin:stop],
            sample_ids=self.sample_ids[begin:stop],
            last=self.last and ends,
            frames_actual=self.frames_actual if ends else None,
        )


@dataclass(frozen=True)
class Reference:
    """A segment whose samples the cache holds already, at adjacent rows of one shard."""

    segment: SegmentInfo
    shard: str
    first_row: int
    checksums: list[str]


@dataclass(frozen=True)
class Event:
    """What became known of a source: its data ended (``end``), or it ``failed`` for a reason."""

    kind: Literal["end", "failed"]
    source_id: str
    generation: str
    windows: int = 0
    frames_actual: int = 0
    facts: str | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class PackMeta:
    """The segments of a pack, in the order of the tensors' first axis, and what rides with them.

    ``effort`` is what the pack took of its encoder, once it has passed one.
    """

    pack_id: str
    segments: tuple[SegmentInfo, ...]
    events: tuple[Event, ...]
    references: tuple[Reference, ...] = ()
    effort: Effort | None = None

    @property
    def sample_ids(self) -> list[str]:
        """Ids of all windows, in tensor order."""
        return [identity for segment in self.segments for identity in segment.sample_ids]

    def to_json(self) -> str:
        """The meta as text."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "PackMeta":
        """Inverse of ``to_json``."""
        fields = json.loads(text)
        return cls(
            fields["pack_id"],
            tuple(_segment(segment) for segment in fields["segments"]),
            tuple(Event(**event) for event in fields["events"]),
            tuple(
                Reference(**{**reference, "segment": _segment(reference["segment"])})
                for reference in fields["references"]
            ),
            None if fields["effort"] is None else Effort(**fields["effort"]),
        )


def _segment(fields: dict[str, Any]) -> SegmentInfo:
    return SegmentInfo(**{**fields, "time_base": tuple(fields["time_base"])})


def facts_to_json(facts: VideoFacts) -> str:
    """Facts as the text that events and the table ``sources`` carry."""
    return json.dumps(facts.to_dict(), separators=(",", ":"))


def facts_from_json(text: str) -> VideoFacts:
    """Inverse of ``facts_to_json``."""
    return VideoFacts.from_dict(json.loads(text))


def to_batch(meta: PackMeta, tensors: dict[str, np.ndarray]) -> Batch:
    """A pack as a batch of one row, with blanks after the meta: packs of as many frames are of one
    size, and one fits into the room that another left in the object store.
    """
    text = meta.to_json()
    text = text.ljust(-(-len(text) // _META_STEP) * _META_STEP)
    return {
        META: np.array([text], dtype=object),
        **{name: tensor[None] for name, tensor in tensors.items()},
    }


def rows(batch: Batch) -> Iterator[tuple[PackMeta, dict[str, np.ndarray]]]:
    """The packs of a batch of any number of rows."""
    for index, text in enumerate(batch[META]):
        tensors = {name: column[index] for name, column in batch.items() if name != META}
        yield PackMeta.from_json(str(text)), tensors
