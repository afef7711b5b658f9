"""Units: the decode tasks of a plan, each a few files with the clips and windows wanted of them."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.buckets import Bucket
from pipeline.known import KnownRun
from pipeline.recipe import window_bytes
from pipeline.windows import WINDOW_FRAMES

Range = tuple[int, int | None]
"""Windows [first, stop); stop None: to the end of the data, whatever a header says."""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class FileTask:
    """The clips wanted of one file, in order of their start; the file is opened once."""

    uri: str
    pinned_version: str | None
    clips: tuple[ClipTask, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """One decode task: what it yields follows from this and the files' bytes alone.

    ``packs`` holds the windows of a pack by the name of the bucket (images count as windows), and
    ``frames`` how many frames a window has: 17, or 1 of images.
    """

    files: tuple[FileTask, ...]
    packs: tuple[tuple[str, int], ...] = ()
    frames: int = WINDOW_FRAMES

    @property
    def windows(self) -> int:
        """Estimated windows."""
        return sum(clip.windows for file in self.files for clip in file.clips)

    def pack_count(self, pack_bytes: int | None = None) -> int:
        """Packs that they are expected to make, of no more than ``pack_bytes`` or as planned."""
        windows: Counter[Bucket] = Counter()
        for file in self.files:
            for clip in file.clips:
                for bucket in clip.buckets:
                    windows[bucket] += clip.windows // len(clip.buckets)
        sizes = self.pack_sizes(pack_bytes)
        return sum(-(-count // sizes.get(bucket, count)) for bucket, count in windows.items())

    def pack_sizes(self, pack_bytes: int | None = None) -> dict[Bucket, int]:
        """Windows of a full pack, of no more than ``pack_bytes`` (but one) or as planned."""
        sizes = {Bucket.parse(name): size for name, size in self.packs}
        if pack_bytes is None:
            return sizes
        return {
            bucket: min(size, max(1, pack_bytes // window_bytes(bucket, self.frames)))
            for bucket, size in sizes.items()
        }

    def to_json(self) -> str:
        """The unit as text, as it travels to a decode task."""
        files = [[f.uri, f.pinned_version, [_clip_fields(c) for c in f.clips]] for f in self.files]
        return json.dumps([files, self.packs, self.frames], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Unit":
        """Inverse of ``to_json``."""
        files, packs, frames = json.loads(text)
        return cls(
            tuple(
                FileTask(uri, pinned, tuple(_clip_from(fields) for fields in clips))
                for uri, pinned, clips in files
            ),
            tuple((bucket, windows) for bucket, windows in packs),
            frames,
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


def cut_ranges(
    ranges: Sequence[Range], windows: int
) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """Cut wanted ranges behind the first ``windows``, of which there must be more.

    Only what is behind the cut may be open-ended, so that a source that is longer than its header
    is still encoded to its end.
    """
    head: list[Range] = []
    for index, (first, stop) in enumerate(ranges):
        if stop is None or stop - first > windows:
            middle = first + windows
            head.extend([(first, middle)] if windows else [])
            return tuple(head), ((middle, stop), *ranges[index + 1 :])
        head.append((first, stop))
        windows -= stop - first
    raise ValueError(f"{ranges} have no windows behind the cut")


def expected_windows(ranges: Iterable[Range], estimate: int) -> int:
    """Windows in ranges, where ``estimate`` stands for the end of the data."""
    return sum((max(first, estimate) if stop is None else stop) - first for first, stop in ranges)
