"""Which windows of an unfinished generation are committed already, and which are missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.manifest import Manifest
from pipeline.packed import in_batches
from pipeline.units import Range


@dataclass(frozen=True, slots=True)
class Coverage:
    """Windows [first, stop) held for each bucket, and the end once the data showed it."""

    held: Mapping[Bucket, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    windows: int | None = None
    frames_actual: int | None = None

    def complete(self, buckets: Iterable[Bucket]) -> bool:
        """Whether every window up to the known end is held at every bucket."""
        return self.windows is not None and all(
            self.held.get(bucket, ()) == (((0, self.windows),) if self.windows else ())
            for bucket in buckets
        )

    def missing(self, buckets: Iterable[Bucket]) -> tuple[Range, ...]:
        """Windows wanted still: those that some bucket lacks, so that each is decoded once."""
        if not self.held and self.windows is None:
            return _ALL
        shared: list[tuple[int, int]] | None = None
        for bucket in buckets:
            own = list(self.held.get(bucket, ()))
            shared = own if shared is None else _intersect(shared, own)
        gaps: list[Range] = []
        position = 0
        for first, stop in shared or []:
            if first > position:
                gaps.append((position, first))
            position = stop
        if self.windows is None:
            gaps.append((position, None))
        elif position < self.windows:
            gaps.append((position, self.windows))
        return tuple(gaps)


NOTHING_HELD = Coverage()
"""Of a generation that is not begun; one for all, since plans have millions of them."""

_ALL: tuple[Range, ...] = ((0, None),)

_BATCH = 65_536
"""Generations that are texts of Python at once."""


def merge(intervals: Iterable[tuple[int, int]], gap: int = 0) -> tuple[tuple[int, int], ...]:
    """Union of half-open intervals, as ascending ones; those no more than ``gap`` apart are one."""
    merged: list[tuple[int, int]] = []
    for first, stop in sorted(intervals):
        if merged and first - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((first, stop))
    return tuple(merged)


def _intersect(
    left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    found = []
    for a, b in left:
        for c, d in right:
            if max(a, c) < min(b, d):
                found.append((max(a, c), min(b, d)))
    return sorted(found)


def committed_coverage(manifest: Manifest, generations: Iterable[str]) -> dict[str, Coverage]:
    """What the table ``samples`` holds of these generations."""
    if manifest.version("samples") is None:
        return {}
    wanted = pa.chunked_array(
        [pa.array(some, pa.string()) for some in in_batches(generations, _BATCH)], pa.string()
    ).combine_chunks()
    if not len(wanted):
        return {}
    columns = ["generation", "bucket", "first_window", "windows", "last", "frames_actual"]
    table = manifest.read("samples", columns=columns, where=pc.field("generation").isin(wanted))
    spans: dict[str, dict[Bucket, list[tuple[int, int]]]] = {}
    ends: dict[str, tuple[int, int | None]] = {}
    for row in table.to_pylist():
        stop = row["first_window"] + row["windows"]
        buckets = spans.setdefault(row["generation"], {})
        buckets.setdefault(Bucket.parse(row["bucket"]), []).append((row["first_window"], stop))
        if row["last"]:
            ends[row["generation"]] = (stop, row["frames_actual"])
    return {
        generation: Coverage(
            {bucket: merge(intervals) for bucket, intervals in buckets.items()},
            *ends.get(generation, (None, None)),
        )
        for generation, buckets in spans.items()
    }
