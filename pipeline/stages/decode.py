"""Decode: a unit of files becomes packs of uint8 windows, without those that are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pipeline import metrics
from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.errors import SourceError
from pipeline.identity import sample_id, stable_hash
from pipeline.isolated.choice import decode_file
from pipeline.known import Place, cut, places
from pipeline.metrics import SILENT, Meter
from pipeline.packs import (
    FRAMES,
    Batch,
    Event,
    PackMeta,
    Reference,
    SegmentInfo,
    facts_to_json,
    to_batch,
)
from pipeline.pool import MemoryPool
from pipeline.reading import open_source
from pipeline.recipe import Recipe, segment_cap, window_bytes
from pipeline.units import ClipTask, FileTask, Unit
from pipeline.video.decode import (
    ClipEnd,
    ClipFailure,
    ClipRequest,
    FrameRecipe,
    Segment,
    Target,
)

UNIT = "unit"
"""Name of the column that holds a unit as JSON."""

Frames = npt.NDArray[np.uint8]

NO_FRAMES: Frames = np.zeros((0, 1, 16, 16, 3), dtype=np.uint8)
"""Stands where a pack carries no window at all: events and references alone."""

_PACKS = MemoryPool(kept_bytes=256 * 2**20)
"""Of this process: a decode task of Ray keeps nothing from one call to the next."""


def make_decode_fn(
    config: Config, recipe: Recipe, meter: Meter = SILENT
) -> Callable[[Batch], Iterator[Batch]]:
    """The decode stage: a generator from units to packs, deterministic for its plan and bytes."""

    def decode(batch: Batch) -> Iterator[Batch]:
        for text in batch[UNIT]:
            yield from _decode_unit(Unit.from_json(str(text)), config, recipe, meter)

    return decode


def _decode_unit(unit: Unit, config: Config, recipe: Recipe, meter: Meter) -> Iterator[Batch]:
    packer = _Packer(dict(unit.packs), config.run.pack_bytes, meter)
    for file in unit.files:
        tasks = {clip.source_id: clip for clip in file.clips}
        known = {clip.source_id: places(clip.known) for clip in file.clips}
        final: dict[str, list[Segment]] = {}  # held until the clip's frame count is known
        for found in _decode_file(file, config, recipe, meter):
            task = tasks[found.key]
            if isinstance(found, ClipFailure):
                packer.events.append(_failed(found, task))
            elif isinstance(found, ClipEnd):
                for segment in final.pop(found.key, []):
                    info = _describe(segment, task, recipe, found.frames)
                    yield from packer.sort(segment.frames, info, known[found.key])
                packer.events.append(_ended(found, task))
            elif found.last:
                final.setdefault(found.key, []).append(found)
            else:
                info = _describe(found, task, recipe, None)
                yield from packer.sort(found.frames, info, known[found.key])
    yield from packer.finish()


def _decode_file(
    file: FileTask, config: Config, recipe: Recipe, meter: Meter
) -> Iterator[Segment | ClipEnd | ClipFailure]:
    requests = [_request(clip, config) for clip in file.clips]
    frames = FrameRecipe(recipe.fps, recipe.grid, recipe.resize, recipe.filter)
    try:
        with open_source(file.uri, file.pinned_version, config.storage) as opened:
            try:
                for found in decode_file(opened, requests, frames, config.decode):
                    if isinstance(found, ClipEnd):
                        opened.verify()
                    elif isinstance(found, Segment):
                        shown = found.frames.shape[0] * found.frames.shape[1]
                        meter.add(metrics.FRAMES, shown)
                    yield found
            finally:
                meter.add(metrics.BYTES_READ, opened.bytes_read)
    except SourceError as error:
        for clip in file.clips:
            yield ClipFailure(clip.source_id, error.reason, error.message)


def _request(clip: ClipTask, config: Config) -> ClipRequest:
    def target(bucket: Bucket) -> Target:
        cap = segment_cap(bucket, config.windows.segment_windows, config.run.pack_bytes)
        return Target(bucket, cap)

    return ClipRequest(
        key=clip.source_id,
        start=clip.start,
        end=clip.end,
        ranges=clip.ranges,
        targets=tuple(target(bucket) for bucket in clip.buckets),
        expected_size=clip.expected_size,
    )


def _describe(
    segment: Segment, clip: ClipTask, recipe: Recipe, frames_actual: int | None
) -> SegmentInfo:
    time_base = (segment.time_base.numerator, segment.time_base.denominator)
    geometry = segment.geometry.to_dict()
    encoding = recipe.encoding()
    pts, first_frames = segment.pts.tolist(), segment.first_frames.tolist()
    return SegmentInfo(
        source_id=clip.source_id,
        generation=clip.generation,
        bucket=segment.bucket.name,
        first_window=segment.first_window,
        windows=len(pts),
        frames=segment.frames.shape[1],
        pts=pts,
        time_base=time_base,
        valid_frames=segment.valid_frames.tolist(),
        first_frames=first_frames,
        sample_ids=[
            sample_id(clip.source_id, clip.version, first, shown, time_base, geometry, encoding)
            for first, shown in zip(first_frames, pts, strict=True)
        ],
        geometry=geometry,
        fps=segment.fps,
        last=segment.last,
        frames_actual=frames_actual,
    )


def _ended(found: ClipEnd, clip: ClipTask) -> Event:
    return Event(
        "end",
        clip.source_id,
        clip.generation,
        windows=found.windows,
        frames_actual=found.frames,
        facts=facts_to_json(found.facts),
    )


def _failed(found: ClipFailure, clip: ClipTask) -> Event:
    return Event(
        "failed",
        clip.source_id,
        clip.generation,
        reason=str(found.reason),
        message=found.message,
        facts=None if found.facts is None else facts_to_json(found.facts),
    )


@dataclass
class _Packer:
    """Collects segments per bucket into packs of the planned windows.

    A segment that a pack has no room for is cut where the pack is full.
    """

    sizes: Mapping[str, int]
    pack_bytes: int
    meter: Meter
    events: list[Event] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    open: dict[tuple[Bucket, int], list[tuple[Frames, SegmentInfo]]] = field(default_factory=dict)

    def sort(
        self, frames: Frames, info: SegmentInfo, known: Mapping[str, Place]
    ) -> Iterator[Batch]:
        """Take a segment: what is known of it as references, the rest to be encoded."""
        for span, part in cut(info, known):
            if isinstance(part, Reference):
                self.references.append(part)
                self.meter.add(
                    metrics.WINDOWS,
                    part.segment.windows,
                    status="kept",
                    reason=metrics.NO_REASON,
                )
            elif part.windows == info.windows:
                yield from self.add(frames, part)
            else:  # a copy: the frames of known windows are not to wait with it
                yield from self.add(frames[span.start : span.stop].copy(), part)

    def add(self, frames: Frames, info: SegmentInfo) -> Iterator[Batch]:
        key = (Bucket.parse(info.bucket), info.frames)
        size = self._size(*key)
        while info.windows:
            waiting = self.open.setdefault(key, [])
            held = sum(part.windows for _, part in waiting)
            taken = min(size - held, info.windows)
            waiting.append((frames[:taken], info.part(0, taken)))
            frames, info = frames[taken:], info.part(taken, info.windows)
            if held + taken == size:
                yield self._pack(key)

    def _size(self, bucket: Bucket, frames: int) -> int:
        """Windows of a pack: as planned, else as many as its bytes allow."""
        most = max(1, self.pack_bytes // window_bytes(bucket, frames))
        return min(most, self.sizes.get(bucket.name, most))

    def finish(self) -> Iterator[Batch]:
        for key in sorted(self.open):
            yield self._pack(key)
        if self.events or self.references:
            yield to_batch(self._meta(()), {FRAMES: NO_FRAMES})

    def _pack(self, key: tuple[Bucket, int]) -> Batch:
        parts = self.open.pop(key)
        tensor = parts[0][0] if len(parts) == 1 else _joined([frames for frames, _ in parts])
        return to_batch(self._meta(tuple(info for _, info in parts)), {FRAMES: tensor})

    def _meta(self, segments: tuple[SegmentInfo, ...]) -> PackMeta:
        meta = PackMeta("", segments, tuple(self.events), tuple(self.references))
        self.events, self.references = [], []
        return replace(meta, pack_id=stable_hash(["pack", meta.to_json()]))


def _joined(parts: Sequence[Frames]) -> Frames:
    windows = sum(len(frames) for frames in parts)
    return np.concatenate(parts, out=_PACKS.empty((windows, *parts[0].shape[1:])))
