"""From sources to units: which windows of which files each decode task takes."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.known import KnownRun
from pipeline.recipe import Recipe, segment_cap
from pipeline.sources import SourcePlan
from pipeline.units import (
    ClipTask,
    FileTask,
    Range,
    Unit,
    expected_windows,
    pack_units,
    split_ranges,
)
from pipeline.windows import WindowGrid

_UNITS_PER_TASK = 3
"""Units for each concurrent decode task at the least, where the plan is large enough."""


def make_units(config: Config, recipe: Recipe, sources: Iterable[SourcePlan]) -> list[Unit]:
    """Cut the missing windows into decode tasks, sources of one bucket and one file together."""
    by_file: dict[tuple[Any, ...], list[SourcePlan]] = {}
    for source in sources:
        if source.failure is None and not source.coverage.complete(source.buckets):
            by_file.setdefault((source.buckets, *source.file), []).append(source)
    files = []
    for (_, uri, pinned), clips in sorted(by_file.items(), key=lambda item: str(item[0])):
        clips.sort(key=lambda clip: (clip.start or 0.0, clip.source_id))
        files.extend(_file_tasks(config, recipe, uri, pinned, clips))
    return pack_units(files, _unit_windows(config, files))


def _unit_windows(config: Config, files: Sequence[FileTask]) -> int:
    """Windows of one unit: as configured, or fewer so that a small plan keeps all tasks busy."""
    total = sum(clip.windows for file in files for clip in file.clips)
    even = -(-total // (_UNITS_PER_TASK * config.run.decode_tasks))
    return min(config.run.task_windows, max(even, config.windows.segment_windows))


def _file_tasks(
    config: Config, recipe: Recipe, uri: str, pinned: str | None, clips: list[SourcePlan]
) -> list[FileTask]:
    """The file's clips in as few tasks as ``run.task_windows`` allows.

    Pieces of one clip are for different tasks: within a task a source is one clip.
    """
    tasks: list[FileTask] = []
    together: list[ClipTask] = []
    for clip in clips:
        for piece in _clip_tasks(config, recipe, clip):
            filled = sum(task.windows for task in together)
            full = filled + piece.windows > config.run.task_windows
            if together and (full or together[-1].source_id == piece.source_id):
                tasks.append(FileTask(uri, pinned, tuple(together)))
                together = []
            together.append(piece)
    tasks.append(FileTask(uri, pinned, tuple(together)))
    return tasks


def _clip_tasks(config: Config, recipe: Recipe, source: SourcePlan) -> list[ClipTask]:
    """The missing windows of one source, in pieces for different tasks; buckets that lack the same
    windows share a task.

    A source that keeps its own frames is one piece: nothing but decoding it from the start tells
    which frame is the n-th.
    """
    estimate = source.estimated_windows(recipe)
    splittable = recipe.fps is not None or source.is_image
    lacking: dict[tuple[Range, ...], list[Bucket]] = {}
    for bucket in source.buckets:
        lacking.setdefault(source.coverage.missing((bucket,)), []).append(bucket)
    tasks: list[ClipTask] = []
    for missing, buckets in lacking.items():
        if not missing:
            continue
        caps = [
            segment_cap(b, config.windows.segment_windows, config.run.pack_bytes) for b in buckets
        ]
        size = max(max(caps), config.run.task_windows // max(caps) * max(caps))
        pieces = split_ranges(missing, estimate, size) if splittable else [list(missing)]
        tasks.extend(_clip_task(source, recipe.grid, buckets, p, estimate) for p in pieces)
    return tasks


def _clip_task(
    source: SourcePlan, grid: WindowGrid, buckets: list[Bucket], piece: list[Range], estimate: int
) -> ClipTask:
    return ClipTask(
        source_id=source.source_id,
        generation=source.generation,
        version=source.version,
        start=source.start,
        end=source.end,
        ranges=tuple(piece),
        buckets=tuple(buckets),
        expected_size=source.display_size,
        windows=max(1, expected_windows(piece, estimate)) * len(buckets),
        known=tuple(run for run in source.known if _within(run, piece, grid)),
    )


def _within(run: KnownRun, piece: list[Range], grid: WindowGrid) -> bool:
    """Whether windows of the piece may begin with the frames that the run's samples begin with."""
    low, high = run.first_frames
    return any(
        high >= grid.first_frame_needed(first) and (stop is None or low < stop * grid.stride)
        for first, stop in piece
    )
