"""From sources to units: which windows of which files each decode task takes, and in which order.

Sources of the same buckets lie in one stripe, clips of one file side by side, so that packs and
shards come out full. Units with the longest work come first, so that none is begun near the end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.known import KnownRun
from pipeline.packed import Packed
from pipeline.planned import PlannedSources, PlannedUnits
from pipeline.recipe import Recipe, segment_cap, window_bytes
from pipeline.sources import SourcePlan
from pipeline.stripes import Piece, Stripe
from pipeline.units import ClipTask, Range, Unit, cut_ranges, expected_windows
from pipeline.windows import WINDOW_FRAMES, WindowGrid

_T = TypeVar("_T")

_Kind = tuple[bool, tuple[Bucket, ...]]
"""Whether it is of images, and the buckets."""

_LONGEST, _WHOLE, _REMAINDER = range(3)
"""Ranks of units, the first to begin first."""

UNITS_EACH = 8
"""Units for each concurrent decode task and encoder at the least, where the plan is large enough:
the last of them to end waits for one unit more than the others."""

_LONG = 2.5
"""A unit with so many times the windows that are meant for one is begun early."""

_WHOLE_SEGMENTS = 0.75
"""A pack is cut to whole segments where at least this share of it is left."""


def pack_windows(config: Config, bucket: Bucket, window_seconds: float = 0.0) -> int:
    """Windows of one pack: ``pack_seconds`` of an encoder's work, within ``pack_bytes``.

    A segment fits in any case.
    """
    size = config.run.pack_bytes // window_bytes(bucket)
    if window_seconds > 0:
        size = min(size, int(config.run.pack_seconds / window_seconds))
    return max(size, segment_cap(bucket, config.windows.segment_windows, config.run.pack_bytes))


def _whole(config: Config, bucket: Bucket, size: int) -> int:
    """The size of a pack, of whole segments where that costs little."""
    cap = segment_cap(bucket, config.windows.segment_windows, config.run.pack_bytes)
    whole = size - size % cap
    return whole if whole >= _WHOLE_SEGMENTS * size else size


def make_units(
    config: Config,
    recipe: Recipe,
    sources: PlannedSources,
    window_seconds: Mapping[Bucket, float] | None = None,
) -> PlannedUnits:
    """Cut the missing windows into decode tasks.

    ``window_seconds`` is what a window of each bucket is expected to take of an encoder.
    """
    stripes, windows = _stripes(recipe, sources)
    long: list[Unit] = []
    others = {rank: PlannedUnits() for rank in (_WHOLE, _REMAINDER)}
    for kind in sorted(stripes, key=_work, reverse=True):
        is_image, buckets = kind
        sizes = {b: pack_windows(config, b, (window_seconds or {}).get(b, 0.0)) for b in buckets}
        frames = 1 if is_image else WINDOW_FRAMES
        images = WINDOW_FRAMES // frames
        sizes = {bucket: size * images for bucket, size in sizes.items()}
        most = _unit_windows(config, windows) * images // len(buckets)
        widest = max(buckets, key=lambda bucket: (sizes[bucket], bucket))
        lead = min(sizes[widest], max(1, most))
        lead = lead if is_image else _whole(config, widest, lead)
        packs = max(1, most // lead)
        asked = tuple(
            (bucket.name, _even(lead * packs, min(size, lead))) for bucket, size in sizes.items()
        )
        segment = min(config.windows.segment_windows, lead)
        stripe = Stripe(lead, packs, segment, partial(_cut, recipe.grid))
        for files in stripe.units(stripes.pop(kind)):
            unit = Unit(files, asked, frames)
            rank = _rank(unit, lead * packs * len(buckets))
            (long if rank == _LONGEST else others[rank]).append(unit)
    units = PlannedUnits(sorted(long, key=lambda unit: -unit.windows))  # stable
    for rank in (_WHOLE, _REMAINDER):
        units.extend(others[rank])
    return units


def _work(stripe: _Kind) -> tuple[Any, ...]:
    """Order of stripes: by the pixels of one window."""
    is_image, buckets = stripe
    return not is_image, sum(bucket.height * bucket.width for bucket in buckets), buckets


def _rank(unit: Unit, size: int) -> int:
    """What is much longer than a unit is meant to be comes first, remainders last."""
    if unit.windows > _LONG * size:
        return _LONGEST
    return _WHOLE if 2 * unit.windows >= size else _REMAINDER


def _unit_windows(config: Config, windows: int) -> int:
    """Windows of one unit: as configured, or fewer so that a small plan keeps everyone busy."""
    workers = max(config.run.decode_tasks, config.run.encoders)
    share = -(-windows // (UNITS_EACH * workers))
    return min(config.run.task_windows, max(share, config.windows.segment_windows))


def _even(whole: int, size: int) -> int:
    """The size of equal packs that ``whole`` windows fill, at most ``size``."""
    return -(-whole // -(-whole // size))


def _stripes(recipe: Recipe, sources: PlannedSources) -> tuple[dict[_Kind, Packed[Piece]], int]:
    """What is missing by kind and buckets, files in order and their clips in order of start; and
    its windows.
    """
    same, windows = _Same(), 0
    stripes: dict[_Kind, Packed[Piece]] = {}
    wanted = (source for source in sources.values() if not source.settled)
    for (uri, pinned), group in groupby(wanted, key=lambda source: source.file):
        clips = list(group)
        count = Counter(source.buckets for source in clips)
        for source in clips:
            # Nothing but decoding from the start tells which of a source's own frames is the n-th.
            splittable = recipe.fps is not None and not source.is_image
            for task in _clip_tasks(recipe, source, same):
                piece = Piece(uri, pinned, task, splittable, alone=count[source.buckets] == 1)
                stripes.setdefault((source.is_image, task.buckets), Packed()).append(piece)
                windows += task.windows
    return stripes, windows


class _Same:
    """One object for all equal values: a plan holds millions of tasks that differ in little."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def __call__(self, value: _T) -> _T:
        """The first value that was equal to this one."""
        kept: _T = self._kept.setdefault(value, value)
        return kept


def _clip_tasks(recipe: Recipe, source: SourcePlan, same: "_Same") -> list[ClipTask]:
    """The missing windows of one source; buckets that lack the same windows share a task."""
    estimate = source.estimated_windows(recipe)
    lacking: dict[tuple[Range, ...], list[Bucket]] = {}
    for bucket in source.buckets:
        lacking.setdefault(source.coverage.missing((bucket,)), []).append(bucket)
    return [
        ClipTask(
            source_id=source.source_id,
            generation=source.generation,
            version=source.version,
            start=source.start,
            end=source.end,
            ranges=same(tuple(missing)),
            buckets=same(tuple(buckets)),
            expected_size=same(source.display_size),
            windows=max(1, expected_windows(missing, estimate)) * len(buckets),
            known=_known(source.known, missing, recipe.grid),
        )
        for missing, buckets in lacking.items()
        if missing
    ]


def _cut(grid: WindowGrid, clip: ClipTask, windows: int) -> tuple[ClipTask, ClipTask]:
    """A clip behind so many of its windows, fewer than it has."""
    count = len(clip.buckets)
    head, tail = cut_ranges(clip.ranges, windows)
    return (
        replace(clip, ranges=head, windows=windows * count, known=_known(clip.known, head, grid)),
        replace(
            clip,
            ranges=tail,
            windows=clip.windows - windows * count,
            known=_known(clip.known, tail, grid),
        ),
    )


def _known(
    runs: Sequence[KnownRun], ranges: Sequence[Range], grid: WindowGrid
) -> tuple[KnownRun, ...]:
    return tuple(run for run in runs if _within(run, ranges, grid))


def _within(run: KnownRun, ranges: Sequence[Range], grid: WindowGrid) -> bool:
    """Whether windows of the ranges may begin with the frames that the run's samples begin with."""
    low, high = run.first_frames
    return any(
        high >= grid.first_frame_needed(first) and (stop is None or low < stop * grid.stride)
        for first, stop in ranges
    )
