"""Units: the decode tasks of a plan, each a few files with the clips and windows wanted of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.buckets import Bucket
from pipeline.known import KnownRun

Range = tuple[int, int | None]
"""Windows [first, stop); stop None: to the end of the data, whatever a header says."""


@dataclass(frozen=True)
class ClipTask:
    """Windows wanted of one source at its buckets."""

    source_id: str
    generation: str
    version: str
    start: float | None
    end: float | None
    ranges: tuple[Range, ...]
    buckets: tuple[Bucket, ...]
    expected_size: tuple[int, int] | None
    windows: int
    """Estimated windows of all ranges and buckets together, for balance and forecast only."""
    known: tuple[KnownRun, ...] = ()
    """Samples that the cache holds of the source: windows that resolve to one are not encoded."""


@dataclass(frozen=True)
class FileTask:
    """The clips wanted of one file, in order of their start; the file is opened once."""

    uri: str
    pinned_version: str | None
    clips: tuple[ClipTask, ...]


@dataclass(frozen=True)
class Unit:
    """One decode task: what it yields follows from this and the files' bytes alone."""

    files: tuple[FileTask, ...]

    @property
    def windows(self) -> int:
        """Estimated windows."""
        return sum(clip.windows for file in self.files for clip in file.clips)

    def to_json(self) -> str:
        """The unit as text, as it travels to a decode task."""
        return json.dumps(
            [[f.uri, f.pinned_version, [_clip_fields(c) for c in f.clips]] for f in self.files],
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "Unit":
        """Inverse of ``to_json``."""
        return cls(
            tuple(
                FileTask(uri, pinned, tuple(_clip_from(fields) for fields in clips))
                for uri, pinned, clips in json.loads(text)
            )
        )


def _clip_fields(clip: ClipTask) -> list[Any]:
    buckets = [bucket.name for bucket in clip.buckets]
    return [
        clip.source_id,
        clip.generation,
        clip.version,
        clip.start,
        clip.end,
        clip.ranges,
        buckets,
        clip.expected_size,
        clip.windows,
        [run.to_list() for run in clip.known],
    ]


def _clip_from(fields: list[Any]) -> ClipTask:
    source, generation, version, start, end, ranges, buckets, size, windows, known = fields
    return ClipTask(
        source,
        generation,
        version,
        start,
        end,
        tuple((first, stop) for first, stop in ranges),
        tuple(Bucket.parse(name) for name in buckets),
        None if size is None else (size[0], size[1]),
        windows,
        tuple(KnownRun.from_list(run) for run in known),
    )


def split_ranges(ranges: Sequence[Range], estimate: int, size: int) -> list[list[Range]]:
    """Cut wanted ranges into pieces of about ``size`` windows, for different tasks.

    ``estimate`` is the header's number of windows. Only the last piece is open-ended, so that a
    source that is longer than its header is still encoded to its end.
    """
    pieces: list[list[Range]] = []
    for first, stop in ranges:
        last = max(first, estimate) if stop is None else stop
        cuts = list(range(first, last, size)) or [first]
        for begin, end in zip(cuts, [*cuts[1:], stop], strict=True):
            pieces.append([(begin, end)])
    return _merge_small(pieces, estimate, size)


def _merge_small(pieces: list[list[Range]], estimate: int, size: int) -> list[list[Range]]:
    """Join neighbouring pieces (gaps of an interrupted run) while they stay within ``size``."""
    merged: list[list[Range]] = []
    for piece in pieces:
        if merged and expected_windows([*merged[-1], *piece], estimate) <= size:
            merged[-1].extend(piece)
        else:
            merged.append(list(piece))
    return merged


def expected_windows(ranges: Iterable[Range], estimate: int) -> int:
    """Windows in ranges, where ``estimate`` stands for the end of the data."""
    return sum((max(first, estimate) if stop is None else stop) - first for first, stop in ranges)


def pack_units(files: Iterable[FileTask], task_windows: int) -> list[Unit]:
    """Fill units with files, in the order given, up to about ``task_windows`` windows each."""
    units: list[Unit] = []
    current: list[FileTask] = []
    filled = 0
    for file in files:
        windows = sum(clip.windows for clip in file.clips)
        if current and filled + windows > task_windows:
            units.append(Unit(tuple(current)))
            current, filled = [], 0
        current.append(file)
        filled += windows
    if current:
        units.append(Unit(tuple(current)))
    return units
